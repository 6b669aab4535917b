"""Turns token ids into text, piece by piece.

The pieces together are exactly the text of all tokens, cut before the first stop string. No piece
ends inside a UTF-8 character, and no piece contains a part of a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are not, or not yet, a whole character."""

MAX_HELD_TOKENS = 16
"""A character has at most four bytes. After this many tokens, the bytes are not a character."""


class Detokenizer:
    """Takes token ids and returns text. `finish` returns the text that is still held back."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._told = 0  # number of ids in the window whose text was already returned

    def push(self, token: int) -> str:
        """The text that became certain with this token. It is often empty."""
        self._window.append(token)
        held = len(self._window) - self._told
        return self._advance(force=held > MAX_HELD_TOKENS)

    def finish(self) -> str:
        """The rest of the text, with U+FFFD for broken characters."""
        return self._advance(force=True)

    def _advance(self, *, force: bool) -> str:
        # A decoder may write a token differently at the start of a text (for example its space), so
        # the new text is the difference of two decodings that begin at the same token.
        before = self._decode(self._window[: self._told])
        after = self._decode(self._window)
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not force):
            return ""
        self._window = self._window[self._told :]
        self._told = len(self._window)
        return after[len(before) :]


class StopFilter:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.stopped or not text:
            return ""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._possible())

    def finish(self) -> str:
        """The text that was held back, when nothing more follows."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _possible(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
