"""How soon a full guest has room again: what Retry-After says, in whole seconds.

The queue moves on by one place whenever an answer ends. How often that happens is measured while
requests wait; the time until half of those that wait have moved on is what a client is told, so
that not all who were refused come back to a queue that is still full.
"""

from __future__ import annotations

import math

LEAST_S, MOST_S = 1, 60
_WEIGHT = 1 / 8
"""Of the newest interval in the mean, as in the estimators of TCP (RFC 6298)."""


class Busy:
    """Told when answers end, asked for seconds. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._every = float(LEAST_S)
        self._last: float | None = None

    def ended(self, now: float, *, waiting: int) -> None:
        """An answer ended now. An interval in which nobody waited says nothing about the queue."""
        if waiting and self._last is not None:
            self._every += _WEIGHT * (now - self._last - self._every)
        self._last = now if waiting else None

    def retry_after(self, *, waiting: int) -> int:
        """Seconds from LEAST_S to MOST_S."""
        return max(LEAST_S, min(MOST_S, math.ceil(self._every * waiting / 2)))
