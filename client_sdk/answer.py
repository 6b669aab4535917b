"""An answer on its way out of an enclave: status and headers first, then its content.

Iterating ends normally only when the last sealed chunk arrived and the receipt held; what
was cut, refused or left before its end raises again each time it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attestation.channel import bhttp
from attestation.errors import NotForUs, Truncated, UmayError
from client_sdk.session import CheckedReceipt, SealedExchange
from client_sdk.transport import Stream


class Answer:
    """The inner HTTP response of one exchange. Use it once, or `close` it.

    `sealed_request` and `sealed_pieces` are the bytes that relays see of it.
    `receipt` is None until the content has ended; an answer with status 200 always has
    one then, an error has one only where the enclave gave it.
    """

    def __init__(
        self,
        exchange: SealedExchange,
        stream: Stream,
        *,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        if stream.status != 200 or stream.media_type != exchange.response_media_type:
            stream.close()
            raise NotForUs(
                f"expected a sealed answer, got HTTP {stream.status} "
                f"{stream.media_type or 'without media type'}"
            )
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


def _named(message: str) -> str:
    return message if "truncated" in message else f"answer truncated: {message}"
