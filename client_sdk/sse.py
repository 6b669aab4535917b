"""Server-sent events as OpenAI streams use them: `data:` lines; comments are padding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from attestation.errors import ParseError

MAX_LINE = 1 << 20
DONE = b"[DONE]"


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


def deltas(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of a streamed chat completion, piece by piece. Raises ParseError."""
    for data in data_of(pieces):
        if data == DONE:
            continue  # the pieces must still be drained: the receipt comes last
        try:
            choices: list[Any] = json.loads(data).get("choices", [])
            texts = [choice["delta"].get("content") for choice in choices]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ParseError("SSE: expected a chat completion chunk") from None
        yield from (text for text in texts if isinstance(text, str) and text)
