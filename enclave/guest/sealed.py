"""One sealed exchange: nothing runs before the whole request is open, authentic and new.

The inner status and every length stand inside the ciphertext. An answer that cannot be
finished ends without its final chunk, so that the client knows.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from attestation.channel import bhttp
from attestation.channel.padding import RESPONSE_BUCKET_BYTES
from attestation.channel.server import ServerRequest
from attestation.errors import NotForUs, ParseError, Truncated
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    Receipt,
    amount_of,
    salted_hash,
)
from attestation.wire import CONTENT_TYPE, RECEIPT_TRAILER
from enclave.guest.api import SSE, Account, ApiError, Reply, failure, respond
from enclave.guest.epochs import Epoch
from enclave.guest.guest import Guest
from enclave.guest.pacing import paced_events, padded_body


async def open_request(guest: Guest, body: AsyncIterator[bytes], *, chunked: bool) -> SealedAnswer:
    """Raises Replayed, or another UmayError for whatever is no whole request to us."""
    incoming = guest.epochs.ring.request(chunked=chunked)
    message = bytearray()
    async for part in body:
        for plaintext in incoming.push(part):
            message += plaintext
    message += incoming.finish()
    epoch = guest.epochs.of_key(incoming.key_id)
    if epoch is None:
        raise NotForUs("request: its epoch has ended")
    return SealedAnswer(guest, epoch, incoming, bytes(message))


class SealedAnswer:
    """The answer to one open request, as bytes on the wire."""

    def __init__(self, guest: Guest, epoch: Epoch, incoming: ServerRequest, message: bytes) -> None:
        self.media_type = incoming.response_media_type
        self._guest, self._epoch, self._incoming = guest, epoch, incoming
        self._message = message
        self._hashed = bytearray()

    async def stream(self) -> AsyncGenerator[bytes]:
        """Never raises but to be cancelled: a broken answer just ends early."""
        with contextlib.suppress(Exception):  # whatever it is, its text could hold the prompt
            writer, encoder = self._incoming.response(), bhttp.ResponseEncoder()
            request_hash, begun = await self._begin()
            reply = begun.reply
            begin = encoder.head(reply.status, ((CONTENT_TYPE.encode(), reply.media_type),))
            async with contextlib.aclosing(begun):
                async for piece in begun.pieces():
                    self._hashed += piece
                    if sealed := writer.write(begin + encoder.content(piece)):
                        yield sealed
                    begin = b""
            last = _filled(encoder.finish(self._trailers(request_hash, reply.account)))
            if sealed := writer.write(last):
                yield sealed
            yield writer.finish()

    async def _begin(self) -> tuple[bytes, _Begun]:
        """The salted hash of the request without its padding, and what to answer.

        The request itself is not kept while the answer lasts. Whatever goes wrong before the
        first piece would leave is answered with its status.
        """
        try:
            request = self._decoded()
            request_hash = self._salted(REQUEST_SALT_LABEL, bhttp.encode_request(request))
            reply = await respond(self._guest, request)
            del request
            return request_hash, await _begun(reply)
        except Exception as error:
            return b"", await _begun(failure(error))

    def _decoded(self) -> bhttp.Request:
        message, self._message = self._message, b""
        try:
            return bhttp.decode_request(message)
        except (ParseError, Truncated) as error:
            raise ApiError(400, "bad_message", str(error)) from None

    def _trailers(self, request_hash: bytes, account: Account | None) -> bhttp.Fields:
        if account is None or account.usage is None:
            return ()
        signed = self._guest.boot.sign(self._receipt(request_hash, account))
        return ((RECEIPT_TRAILER, base64.b64encode(signed.to_bytes())),)

    def _salted(self, label: bytes, content: bytes) -> bytes:
        return salted_hash(self._incoming.export(label, SALT_BYTES), content)

    def _receipt(self, request_hash: bytes, account: Account) -> Receipt:
        usage, bundle = account.usage, self._epoch.bundle
        if usage is None:
            raise ParseError("receipt: expected token counts, got none")
        tokens = (usage.prompt, usage.cached, usage.completion, usage.reasoning)
        return Receipt(
            evidence_digest=self._epoch.evidence_digest,
            model_digest=bundle.model_digest,
            request_hash=request_hash,
            response_hash=self._salted(RESPONSE_SALT_LABEL, bytes(self._hashed)),
            finish_reason=account.finish_reason,
            tokens=tokens,
            price_digest=bundle.price_digest,
            amount=amount_of(self._guest.prices, tokens),
            time=self._guest.receipt_time(),
            sequence=self._guest.boot.next_sequence(),
        )


@dataclass(frozen=True)
class _Begun:
    """A paced answer whose first piece is there; close it, or its engine goes on."""

    reply: Reply
    first: bytes
    rest: AsyncGenerator[bytes]

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.first
        async for piece in self.rest:
            yield piece

    async def aclose(self) -> None:
        await self.rest.aclose()
        await self.reply.aclose()


async def _begun(reply: Reply) -> _Begun:
    """Raises what the answer raises before its first piece."""
    paced = _paced(reply)
    try:
        return _Begun(reply, await anext(paced), paced)
    except BaseException:
        await reply.aclose()
        raise


def _paced(reply: Reply) -> AsyncGenerator[bytes]:
    if reply.media_type == SSE:
        return paced_events(reply.pieces, reply.pacing)
    return padded_body(reply.pieces)


def _filled(last: bytes) -> bytes:
    """Zeros after the message (RFC 9292 §3.8), so that a receipt's length tells nothing."""
    return last + bytes(-len(last) % RESPONSE_BUCKET_BYTES)
