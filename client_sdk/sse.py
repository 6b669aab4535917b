"""Server-sent events as OpenAI streams use them: `data:` lines; comments are padding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from attestation.errors import ParseError

MAX_LINE = 1 << 20
DONE = b"[DONE]"
END = b"data: [DONE]"
BREAKS = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))
"""UTF-8 of line breaks that Unicode knows and event streams do not, and JSON's escape for each."""


class DataLines:
    """The data of each event as its line completes, in whatever pieces it arrives."""

    def __init__(self) -> None:
        self._buffer = b""

    def push(self, piece: bytes) -> list[bytes]:
        """Raises ParseError for a line that is too long."""
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            raise ParseError(f"SSE: expected lines of at most {MAX_LINE} bytes")
        return [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]


class DoneLast:
    """The same bytes, but the end mark only once the pieces have ended without an error.

    OpenAI clients stop reading at the mark; what is checked after it they would not hear.
    """

    def __init__(self) -> None:
        self._buffer, self._held = b"", False

    def push(self, piece: bytes) -> bytes:
        """What may go on now. Raises ParseError for a line, or an end, that is too long."""
        self._buffer += piece
        ready = b"" if self._held else self._ready()
        if len(self._buffer) > MAX_LINE:
            raise ParseError(f"SSE: expected lines of at most {MAX_LINE} bytes")
        return ready

    def finish(self) -> bytes:
        """The rest, once all is well."""
        return self._cut(len(self._buffer))

    def _ready(self) -> bytes:
        at = 0 if self._buffer.startswith(END) else self._buffer.find(b"\n" + END) + 1
        self._held = self._buffer.startswith(END) or at > 0
        return self._cut(at if self._held else self._buffer.rfind(b"\n") + 1)

    def _cut(self, at: int) -> bytes:
        ready, self._buffer = self._buffer[:at], self._buffer[at:]
        return ready


class Bare:
    """The events without padding: no comments, no blank line but one after each event.

    In data, which is JSON here, the three characters at which readers of text break lines, and
    event streams do not, are written as JSON's escapes.
    """

    def __init__(self) -> None:
        self._buffer, self._open = b"", False

    def push(self, piece: bytes) -> bytes:
        """The lines that are complete now. Raises ParseError for a line that is too long."""
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            raise ParseError(f"SSE: expected lines of at most {MAX_LINE} bytes")
        return b"".join(self._line(line.removesuffix(b"\r")) for line in lines)

    def finish(self) -> bytes:
        """What is left: a last line without its end, and the end of its event."""
        rest = self._line(self._buffer) if self._buffer else b""
        return rest + (b"\n" if self._open else b"")

    def _line(self, line: bytes) -> bytes:
        if line.startswith(b":"):
            return b""
        if line.startswith(b"data:"):
            for raw, escape in BREAKS:
                line = line.replace(raw, escape)
        kept = bool(line) or self._open
        self._open = bool(line)
        return line + b"\n" if kept else b""


def bare(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces through Bare; those that were padding alone are left out."""
    return _through(Bare(), pieces)


def data_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces through DataLines."""
    lines = DataLines()
    for piece in pieces:
        yield from lines.push(piece)


def done_last(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces through a DoneLast."""
    return _through(DoneLast(), pieces)


def _through(filtered: Bare | DoneLast, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if ready := filtered.push(piece):
            yield ready
    if rest := filtered.finish():
        yield rest


def deltas(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of a streamed chat completion, piece by piece. Raises ParseError."""
    for data in data_of(pieces):
        yield from texts_of(data)


def texts_of(data: bytes) -> list[str]:
    """The texts in one event of a streamed chat completion. Raises ParseError."""
    if data == DONE:
        return []  # the pieces must still be drained: the receipt comes last
    try:
        choices: list[Any] = json.loads(data).get("choices", [])
        texts = [choice["delta"].get("content") for choice in choices]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ParseError("SSE: expected a chat completion chunk") from None
    return [text for text in texts if isinstance(text, str) and text]
