"""A warning that repeats is written at most once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 60.0


class RepeatLimiter:
    """Passes a text on at once. The same text is passed on again only after EVERY_S seconds, with
    the number of times it came in between."""

    def __init__(
        self, tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._text, self._told, self._held = "", 0.0, 0

    def __call__(self, text: str) -> None:
        now = self._clock()
        if text == self._text and now - self._told < EVERY_S:
            self._held += 1
            return
        again = f" (and {self._held} more times)" if self._held else ""
        self._tell(text + (again if text == self._text else ""))
        self._text, self._told, self._held = text, now, 0
