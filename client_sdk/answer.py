"""An answer on its way out of an enclave: status and headers first, then its content.

Iterating ends normally only when the last sealed chunk arrived and the receipt held; what
was cut, refused or left before its end raises again each time it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import (
    NotForUs,
    ParseError,
    Replayed,
    Truncated,
    UmayError,
    Unavailable,
    UsageError,
)
from client_sdk import sse

if TYPE_CHECKING:
    from types import TracebackType

    from client_sdk.session import CheckedReceipt, SealedExchange
    from client_sdk.transport import Stream

BUSY = (429, 500, 502, 503, 504)
MAX_SHOWN = 400
"""Characters of what an enclave says about a request that it refuses."""

MAX_PROBLEM_BYTES = 64
"""What an enclave says outside the seal is shorter."""


class Answer:
    """The inner HTTP response of one exchange. Use it once, or `close` it.

        answer = umay.chat({"model": "umay-demo", "messages": messages, "stream": True})
        for text in answer.stream():
            print(text, end="", flush=True)
        print(answer.status, answer.receipt)

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
        self._text: str | None = None
        self._events = self._read()
        self.status, self.headers = self._head()

    def __repr__(self) -> str:
        receipt = "receipt checked" if self.receipt else "no receipt yet"
        return f"<Answer with status {self.status}, {receipt}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def __iter__(self) -> Iterator[bytes]:
        """Content as it arrives. Raises Truncated, ChannelError, NotAuthentic (receipt)."""
        for event in self._events:
            if isinstance(event, bhttp.Content):
                yield event.data
        if not self._whole:
            # The events ended at an earlier error; a second reading must not look whole.
            raise Truncated("answer truncated: it was not read to its end")

    def read(self) -> bytes:
        """All of the content."""
        return b"".join(self)

    def text(self) -> str:
        """What the model said: the whole message of a chat completion, streamed or not.

        Raises UsageError or Unavailable where the enclave refused the request (`raise_for_status`),
        ParseError where this is no chat completion, and what reading raises.
        """
        if self._text is None:
            self._text = "".join(self.stream())
        return self._text

    def stream(self) -> Iterator[str]:
        """The same, piece by piece as it arrives; an answer that does not stream is one piece."""
        self.raise_for_status()
        if (self.header(wire.CONTENT_TYPE.encode()) or b"").startswith(wire.EVENTS.encode()):
            yield from sse.deltas(self)
        else:
            yield _message(self.json())

    def json(self) -> Any:
        """The content as JSON. Raises ParseError where it is none."""
        try:
            return json.loads(self.read())
        except (ValueError, RecursionError):
            raise ParseError("answer: expected JSON, got something else") from None

    def raise_for_status(self) -> None:
        """Raises Unavailable (it is busy or broken) or UsageError (it refused the request), with
        what the enclave says; nothing for status 200."""
        if self.status == 200:
            return
        said = self.read().decode(errors="replace").strip()[:MAX_SHOWN]
        text = f"the enclave answered HTTP {self.status}: {said}"
        raise Unavailable(text) if self.status in BUSY else UsageError(text)

    def close(self) -> None:
        """Stop reading; the enclave notices and stops too."""
        self._stream.close()

    def _head(self) -> tuple[int, bhttp.Fields]:
        for event in self._events:
            if isinstance(event, bhttp.ResponseHead):
                return event.status, event.headers
        raise Truncated("answer truncated: it ended before its status and headers")

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
    return Unavailable(
        f"{url}: expected a sealed answer, got {got}; it does not come from an enclave"
    )


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


def _message(body: Any) -> str:
    """The text of a chat completion; empty where the model called tools instead."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise ParseError("answer: expected a chat completion, got another JSON") from None
    if content is not None and not isinstance(content, str):
        raise ParseError("answer: expected the message as text, got something else")
    return content or ""
