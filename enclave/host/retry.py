"""When what has failed is tried again: later each time, never in step with others."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

GROWTH = 1.6
JITTER = 0.25


class Retries:
    """Pauses by key, in monotonic seconds. A key that never failed is due."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[float, float]] = {}

    def due(self, key: str) -> bool:
        return self._clock() >= self._failed.get(key, (0.0, float("-inf")))[1]

    def failed(self, key: str, *, first: float, longest: float) -> None:
        """Due again after `first` seconds, longer each time, `longest` at most; ± 25 %."""
        before = self._failed.get(key, (0.0, 0.0))[0]
        pause = min(max(first, before * GROWTH), longest)
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        self._failed[key] = (pause, self._clock() + pause * spread)

    def done(self, key: str) -> None:
        self._failed.pop(key, None)

    def forget(self, prefix: str) -> None:
        """All keys that begin so."""
        for key in [key for key in self._failed if key.startswith(prefix)]:
            del self._failed[key]
