"""One sealed exchange: nothing runs before the whole request is open, authentic and new.

The inner status and every length stand inside the ciphertext. An answer that cannot be
finished ends without its final chunk, so that the client knows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from attestation.channel import bhttp
from attestation.channel.server import ServerRequest
from attestation.errors import NotForUs, ParseError, TooManyRequests, Truncated
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    Receipt,
    amount_of,
    salted_hash,
)
from attestation.wire import (
    CONTENT_TYPE,
    RECEIPT_COSE_TRAILER,
    RECEIPT_TRAILER,
    RETRY_AFTER,
    read_idempotency_key,
)
from enclave.guest.api import SSE, Account, ApiError, Reply, check_length, failure, respond
from enclave.guest.engines.base import Usage
from enclave.guest.epochs import Epoch
from enclave.guest.guest import Guest
from enclave.guest.pacing import paced_events, padded_body
from enclave.guest.parsing import INLINE_BYTES
from enclave.guest.runs import Listener

LAST_BYTES = 1024
"""Of the end of every answer: a receipt with both signatures and salts has some 700."""


async def open_request(
    guest: Guest, body: AsyncIterator[bytes], *, chunked: bool, to_session: bool
) -> SealedAnswer:
    """Raises Replayed, SessionExpired, or another UmayError for whatever is no whole request to
    us. The answer to one that came too soon is its refusal."""
    incoming = guest.epochs.ring.request(chunked=chunked, to_session=to_session)
    message, refusal = bytearray(), None
    try:
        async for part in body:
            for plaintext in incoming.push(part):
                message += plaintext
        message += incoming.finish()
    except TooManyRequests as error:
        refusal = error
    epoch = guest.epochs.of_key(incoming.key_id)
    if epoch is None:
        raise NotForUs("request: its epoch has ended")
    return SealedAnswer(guest, epoch, incoming, message, refusal)


class SealedAnswer:
    """The answer to one open request, as bytes on the wire. With a `refusal`, nothing is run."""

    def __init__(
        self,
        guest: Guest,
        epoch: Epoch,
        incoming: ServerRequest,
        message: bytearray,
        refusal: Exception | None = None,
    ) -> None:
        self.media_type, self.refusal = incoming.response_media_type, refusal
        self._guest, self._epoch, self._incoming = guest, epoch, incoming
        self._message = message

    async def stream(self) -> AsyncGenerator[bytes]:
        """Never raises but to be cancelled: a broken answer just ends early."""
        with contextlib.suppress(Exception):  # whatever it is, its text could hold the prompt
            writer, encoder = self._incoming.response(), bhttp.ResponseEncoder()
            async with contextlib.aclosing(await self._begin()) as listener:
                if self.refusal is None:
                    draining = self._guest.drain.begun
                    self._guest.metrics.answered(listener.status, draining=draining)
                begin = encoder.head(listener.status, listener.headers)
                async for piece in listener.pieces():
                    if sealed := writer.write(begin + encoder.content(piece)):
                        yield sealed
                    begin = b""
                last = _filled(encoder.finish(listener.trailers()))
            if sealed := writer.write(last):
                yield sealed
            yield writer.finish()

    async def _begin(self) -> Listener:
        """To the run of this request, once its first piece is there.

        Whatever goes wrong before that is answered with its status.
        """
        if self.refusal is not None:
            return await self._refuse(self.refusal).begin()
        try:
            return await self._listen(*await self._read()).begin()
        except Exception as error:
            return await self._refuse(error).begin()

    async def _read(self) -> tuple[bhttp.Request, bytes, _Terms]:
        """The request, its one spelling as bytes, and what its receipt will say of it. A long one
        is copied and hashed on another thread, where each step is short."""
        if len(self._message) <= INLINE_BYTES:
            return self._opened()
        return await asyncio.to_thread(self._opened)

    def _opened(self) -> tuple[bhttp.Request, bytes, _Terms]:
        request = self._decoded()
        message = bhttp.encode_request(request)
        salts = _Salts(*(self._incoming.export(label, SALT_BYTES) for label in _LABELS))
        terms = _Terms(self._guest, self._epoch, salts, salted_hash(salts.request, message))
        return request, message, terms

    def _listen(self, request: bhttp.Request, message: bytes, terms: _Terms) -> Listener:
        """Nothing is awaited here: between finding no run and beginning one, none can begin."""
        key, salts = _key(request), terms.salts
        return self._guest.runs.listen(
            key,
            message,
            functools.partial(_ask, terms, request, self._incoming.sender),
            salts.request + salts.response,
        )

    def _refuse(self, error: Exception) -> Listener:
        async def refused() -> _Answering:
            return _Answering(failure(self._guest, error))

        return self._guest.runs.listen(None, b"", refused, bytes(2 * SALT_BYTES))

    def _decoded(self) -> bhttp.Request:
        message, self._message = self._message, bytearray()
        try:
            request = bhttp.decode_request(bytes(message))
        except (ParseError, Truncated) as error:
            raise ApiError(400, "bad_message", str(error)) from None
        check_length(self._guest, request)
        return request


_LABELS = REQUEST_SALT_LABEL, RESPONSE_SALT_LABEL


@dataclass(frozen=True, repr=False)
class _Salts:
    request: bytes
    response: bytes


@dataclass(frozen=True, repr=False)
class _Terms:
    """What the receipt of a run says besides its counts: of the exchange that began it."""

    guest: Guest
    epoch: Epoch
    salts: _Salts
    request_hash: bytes

    def receipt(self, account: Account, usage: Usage, content: bytes) -> Receipt:
        bundle = self.epoch.bundle
        tokens = (usage.prompt, usage.cached, usage.completion, usage.reasoning)
        return Receipt(
            evidence_digest=self.epoch.evidence_digest,
            model_digest=bundle.model_digest,
            request_hash=self.request_hash,
            response_hash=salted_hash(self.salts.response, content),
            finish_reason=account.finish_reason,
            tokens=tokens,
            price_digest=bundle.price_digest,
            amount=amount_of(self.guest.prices, tokens),
            time=self.guest.receipt_time(),
            sequence=self.guest.boot.next_sequence(),
        )


class _Answering:
    """A reply as the source of a run. `terms` are None for what has no receipt."""

    def __init__(self, reply: Reply, terms: _Terms | None = None) -> None:
        self.status, self.headers = reply.status, _headers(reply)
        self.pieces, self.ran = _paced(reply), reply.ran
        self._reply, self._terms = reply, terms

    def trailers(self, content: bytes) -> bhttp.Fields:
        account, terms = self._reply.account, self._terms
        if account is None or account.usage is None or terms is None:
            return ()
        boot = terms.guest.boot
        signed = boot.sign(terms.receipt(account, account.usage, content))
        return (
            (RECEIPT_TRAILER, base64.b64encode(signed.to_bytes())),
            (RECEIPT_COSE_TRAILER, base64.b64encode(boot.sign_cose(signed))),
        )

    async def aclose(self) -> None:
        try:
            await self.pieces.aclose()
        finally:  # also where this is cancelled: the engine must know
            await self._reply.aclose()
        if self._terms is not None and self.ran:
            self._terms.guest.answer_ended()


async def _ask(terms: _Terms, request: bhttp.Request, client: bytes) -> _Answering:
    return _Answering(await respond(terms.guest, request, client=client), terms)


def _key(request: bhttp.Request) -> bytes | None:
    try:
        return read_idempotency_key(request.headers)
    except ParseError as error:
        raise ApiError(400, "invalid_value", str(error)) from None


def _headers(reply: Reply) -> bhttp.Fields:
    headers = ((CONTENT_TYPE.encode(), reply.media_type),)
    if reply.retry_after is None:
        return headers
    return (*headers, (RETRY_AFTER.encode(), str(reply.retry_after).encode()))


def _paced(reply: Reply) -> AsyncGenerator[bytes]:
    if reply.media_type == SSE:
        return paced_events(reply.pieces, reply.pacing)
    return padded_body(reply.pieces)


def _filled(last: bytes) -> bytes:
    """Zeros after the message (RFC 9292 §3.8), so that a receipt's length tells nothing."""
    return last + bytes(-len(last) % LAST_BYTES)
