"""An answer on its way out of an enclave: status and headers first, then its content.

Iterating ends normally only when the last sealed chunk arrived and the receipt held; what
was cut, refused or left before its end raises again each time it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import NotForUs, Replayed, Truncated, UmayError, Unavailable
from client_sdk.session import CheckedReceipt, SealedExchange
from client_sdk.transport import Stream

MAX_PROBLEM_BYTES = 64
"""What an enclave says outside the seal is shorter."""


class Answer:
    """The inner HTTP response of one exchange. Use it once, or `close` it.

    `sealed_request` and `sealed_pieces` are the bytes that relays see of it.
    `receipt` is None until the content has ended; an answer with status 200 always has
    one then, an error has one only where the enclave gave it.

    Raises NotForUs or Replayed where the enclave says so outside the seal, Unavailable for
    any other answer that is not sealed. `url` is where the request went, for the message.
    """

    def __init__(
        self,
        exchange: SealedExchange,
        stream: Stream,
        *,
        url: str = "enclave",
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        if stream.status != 200 or stream.media_type != exchange.response_media_type:
            try:
                raise _unsealed(stream, url)
            finally:
                stream.close()
        self.enclave = exchange.enclave
        self.receipt: CheckedReceipt | None = None
        self.sealed_request = len(exchange.body)
        self.sealed_pieces: list[int] = []
        self._exchange, self._stream, self._on_broken = exchange, stream, on_broken
        self._whole = False
        self._events = self._read()
        self.status, self.headers = self._head()

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def __iter__(self) -> Iterator[bytes]:
        """Content as it arrives. Raises Truncated, ChannelError, NotAuthentic (receipt)."""
        for event in self._events:
            if isinstance(event, bhttp.Content):
                yield event.data
        if not self._whole:
            # The events ended at an earlier error; a second reading must not look whole.
            raise Truncated("answer truncated: it was left before its end")

    def read(self) -> bytes:
        """All of the content."""
        return b"".join(self)

    def close(self) -> None:
        """Stop reading; the enclave notices and stops too."""
        self._stream.close()

    def _head(self) -> tuple[int, bhttp.Fields]:
        for event in self._events:
            if isinstance(event, bhttp.ResponseHead):
                return event.status, event.headers
        raise Truncated("answer truncated: it ended before its head")

    def _read(self) -> Iterator[bhttp.Event]:
        try:
            for piece in self._stream:
                self.sealed_pieces.append(len(piece))
                yield from self._exchange.push(piece)
            yield from self._exchange.finish()
            self.receipt = self._receipt()
            self._whole = True
        except Truncated as error:
            self._on_broken()
            raise Truncated(_named(str(error))) from None
        finally:
            self._stream.close()

    def _receipt(self) -> CheckedReceipt | None:
        try:
            return self._exchange.receipt()
        except UmayError:
            if self.status == 200:
                raise
            return None


def _unsealed(stream: Stream, url: str) -> UmayError:
    """What an answer outside the seal means. Nothing proves who gave it."""
    if (stream.status, stream.media_type) == (400, wire.PROBLEM):
        problem = _first(stream)
        if problem == wire.REFUSED:
            return NotForUs(f"{url}: the enclave holds no key that opens this request")
        if problem == wire.REPLAYED:
            return Replayed(f"{url}: the enclave has seen this request before")
    got = f"HTTP {stream.status}, {stream.media_type or 'no media type'}"
    return Unavailable(f"{url}: expected a sealed answer, got {got}; it is not the enclave's")


def _first(stream: Stream) -> bytes:
    body = bytearray()
    try:
        for piece in stream:
            body += piece
            if len(body) > MAX_PROBLEM_BYTES:
                break
    except Truncated:
        return b""
    return bytes(body)


def _named(message: str) -> str:
    return message if "truncated" in message else f"answer truncated: {message}"
