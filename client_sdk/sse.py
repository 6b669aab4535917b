"""Server-sent events as OpenAI streams use them: `data:` lines; comments are padding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from attestation.errors import ParseError

MAX_LINE = 1 << 20
DONE = b"[DONE]"
END = b"data: [DONE]"


def data_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event as its line completes, in whatever pieces it arrives."""
    buffer = b""
    for piece in pieces:
        *lines, buffer = (buffer + piece).split(b"\n")
        if len(buffer) > MAX_LINE:
            raise ParseError(f"SSE: expected lines of at most {MAX_LINE} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def done_last(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, but the end mark only once the pieces have ended without an error.

    OpenAI clients stop reading at the mark; what is checked after it they would not hear.
    """
    buffer, held = b"", False
    for piece in pieces:
        buffer += piece
        if held:
            continue
        at = 0 if buffer.startswith(END) else buffer.find(b"\n" + END) + 1
        held = buffer.startswith(END) or at > 0
        ready = at if held else buffer.rfind(b"\n") + 1
        if ready:
            yield buffer[:ready]
            buffer = buffer[ready:]
    if buffer:
        yield buffer


def deltas(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of a streamed chat completion, piece by piece. Raises ParseError."""
    for data in data_of(pieces):
        if data == DONE:
            continue  # the pieces must still be drained: the receipt comes last
        try:
            choices: list[Any] = json.loads(data).get("choices", [])
            texts = [choice["delta"].get("content") for choice in choices]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ParseError("SSE: expected a chat completion chunk") from None
        yield from (text for text in texts if isinstance(text, str) and text)
