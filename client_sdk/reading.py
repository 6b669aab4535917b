"""One answer on its way out of an enclave, as a part of the client's core.

Content is released once it has authenticated. The answer is whole only when the last sealed
chunk arrived and the receipt held; what was cut, refused or left before its end raises again
each time it is read. `Answer` and `AsyncAnswer` are its two faces.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.messages import first
from attestation.errors import (
    NotAuthentic,
    NotForUs,
    ParseError,
    Replayed,
    Truncated,
    UmayError,
    Unavailable,
    UsageError,
)
from attestation.net.retry import retry_after
from client_sdk import sse
from client_sdk.effects import Arriving, Next, Work
from client_sdk.session import CheckedReceipt, SealedExchange

BUSY = (429, 500, 502, 503, 504)
MAX_SHOWN = 400
"""Characters of what an enclave says about a request that it refuses."""

MAX_PROBLEM_BYTES = 64
"""What an enclave says outside the seal is shorter."""

NO_LIMIT = 10.0**9
"""Seconds."""

Ended = Callable[["Reading", UmayError | None], None]


class Reading:
    """The inner HTTP response of one exchange; `begin` it first.

    `url` is where the request went, for messages; `idle` the most seconds between two pieces of
    content; `on_end` is called once: when all was read, when it broke, or when it was left.
    """

    def __init__(
        self,
        exchange: SealedExchange,
        answer: Arriving,
        *,
        url: str = "enclave",
        idle: float = NO_LIMIT,
        on_end: Ended = lambda reading, error: None,
    ) -> None:
        self.exchange, self.url = exchange, url
        self.id = secrets.token_hex(12)
        self.status = 0
        self.headers: bhttp.Fields = ()
        self.receipt: CheckedReceipt | None = None
        self.sealed_pieces: list[int] = []
        self.asked = self.may_have_run = 1
        self._answer, self._idle, self._on_end = answer, idle, on_end
        self._silence = f"{url}: nothing came for {idle:g} s"
        self._contents: deque[bytes] = deque()
        self._lines = sse.DataLines()
        self._text: str | None = None
        self._whole = self._over = self._told = False

    @property
    def streams(self) -> bool:
        return (self.header(wire.CONTENT_TYPE.encode()) or b"").startswith(wire.EVENTS.encode())

    @property
    def retry_after(self) -> float | None:
        """Seconds that the enclave asks to wait, inside the seal."""
        said = self.header(b"retry-after")
        return None if said is None else retry_after(said.decode("latin-1"))

    def header(self, name: bytes) -> bytes | None:
        return first(self.headers, name)

    def begin(self) -> Work[None]:
        """Until status and headers are there.

        Raises NotForUs, SessionExpired or Replayed where the enclave says so outside the seal,
        Unavailable for
        any other answer that is not sealed, Truncated or ChannelError for one that is spoilt.
        """
        answer = self._answer
        if answer.status != 200 or answer.media_type != self.exchange.response_media_type:
            try:
                raise (yield from _unsealed(answer, self.exchange, self.url))
            finally:
                self.close()
        while not self.status:
            if self._whole:
                raise Truncated("answer truncated: it ended before its status and headers")
            yield from self._more()

    def piece(self) -> Work[bytes | None]:
        """The next content, None once all of it is there and the receipt holds.

        Raises Truncated, ChannelError, NotAuthentic (receipt).
        """
        until = time.monotonic() + self._idle
        while True:
            if self._contents:
                return self._contents.popleft()
            if self._whole:
                return None
            if self._over:
                # It ended at an earlier error; a second reading must not look whole.
                raise Truncated("answer truncated: it was not read to its end")
            yield from self._more(until)

    def read(self) -> Work[bytes]:
        """All of the content that is left."""
        pieces = []
        while (piece := (yield from self.piece())) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def texts(self) -> Work[list[str] | None]:
        """What came of the model's text, None at its end; raises as `raise_for_status` first."""
        yield from self.raise_for_status()
        if not self.streams:
            return None if self._whole else [_message((yield from self.json()))]
        piece = yield from self.piece()
        if piece is None:
            return None
        return [text for data in self._lines.push(piece) for text in sse.texts_of(data)]

    def text(self) -> Work[str]:
        """All of the model's text."""
        if self._text is None:
            found: list[str] = []
            while (texts := (yield from self.texts())) is not None:
                found += texts
            self._text = "".join(found)
        return self._text

    def json(self) -> Work[Any]:
        content = yield from self.read()
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise ParseError("answer: expected JSON, got something else") from None

    def raise_for_status(self) -> Work[None]:
        if self.status == 200:
            return
        said = (yield from self.read()).decode(errors="replace").strip()[:MAX_SHOWN]
        text = f"the enclave answered HTTP {self.status}: {said}"
        if self.status in BUSY:
            raise Unavailable(text, again=True, retry_after=self.retry_after)
        raise UsageError(text)

    def __del__(self) -> None:
        """Who drops an answer has ended it; its connection ends by itself."""
        self._tell(None)

    def close(self) -> None:
        """Stop reading; the enclave notices and stops too."""
        self._over = True
        self._answer.close()
        self._tell(None)

    def _more(self, until: float = float("inf")) -> Work[None]:
        """The events of the next bytes. Whatever goes wrong ends the answer."""
        try:
            yield from self._take(until)
        except (Truncated, Unavailable) as error:
            cut = Truncated(_named(str(error)))
            cut.late, cut.may_have_run = error.late, self.may_have_run
            self._fail(cut)
            raise cut from None
        except UmayError as error:
            error.may_have_run = self.may_have_run
            self._fail(error)
            raise
        except BaseException:
            self.close()
            raise

    def _take(self, until: float) -> Work[None]:
        piece: bytes = yield Next(self._answer, until, self._silence)
        if piece:
            self.sealed_pieces.append(len(piece))
            self._note(self.exchange.push(piece))
            return
        self._note(self.exchange.finish())
        self.receipt = self._receipt()
        self._whole = True
        self._answer.close()
        self._tell(None)

    def _note(self, events: list[bhttp.Event]) -> None:
        """The head at once: whether a receipt is demanded depends on its status."""
        for event in events:
            if isinstance(event, bhttp.ResponseHead):
                self.status, self.headers = event.status, event.headers
            elif isinstance(event, bhttp.Content):
                self._contents.append(event.data)

    def _receipt(self) -> CheckedReceipt | None:
        try:
            return self.exchange.receipt()
        except UmayError:
            if self.status == 200:
                raise
            return None

    def _fail(self, error: UmayError) -> None:
        self._over = True
        self._answer.close()
        self._tell(error)

    def _tell(self, error: UmayError | None) -> None:
        if not self._told:
            self._told = True
            self._on_end(self, error)


def _unsealed(answer: Arriving, exchange: SealedExchange, url: str) -> Work[UmayError]:
    """What an answer outside the seal means. Nothing proves who gave it, but for the end of a
    session, which the enclave signs."""
    if (answer.status, answer.media_type) == (400, wire.SESSION_GONE):
        word = yield from _first(answer)
        with contextlib.suppress(NotAuthentic):
            return exchange.session_gone(word)
    if (answer.status, answer.media_type) == (400, wire.PROBLEM):
        problem = yield from _first(answer)
        if problem == wire.REFUSED:
            return NotForUs(f"{url}: the enclave holds no key that opens this request")
        if problem == wire.REPLAYED:
            return Replayed(f"{url}: the enclave has seen this request before")
    got = f"HTTP {answer.status}, {answer.media_type or 'no media type'}"
    text = f"{url}: expected a sealed answer, got {got}; it does not come from an enclave"
    return Unavailable(text, retry_after=answer.retry_after, sent=True)


def _first(answer: Arriving) -> Work[bytes]:
    body = bytearray()
    try:
        while len(body) <= MAX_PROBLEM_BYTES and (piece := (yield Next(answer))):
            body += piece
    except (Truncated, Unavailable):
        return b""
    return bytes(body)


def _named(message: str) -> str:
    return message if "truncated" in message else f"answer truncated: {message}"


def _message(body: Any) -> str:
    """The text of a chat completion; empty where the model called tools instead."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        raise ParseError("answer: expected a chat completion, got other JSON") from None
    if content is not None and not isinstance(content, str):
        raise ParseError("answer: expected the message as text, got something else")
    return content or ""
