"""From the word that a server is to end until it does: what runs may end, nothing new begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attestation.errors import UsageError
from attestation.net.server_connection import LONGEST_S


class Drain:
    """Lasts `seconds` at most, and 0 not at all. Raises UsageError for a time that is none."""

    def __init__(
        self, seconds: float = 0.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 <= seconds <= LONGEST_S:
            raise UsageError(f"drain: expected 0 to {LONGEST_S} seconds, got {seconds}")
        self.seconds, self._clock = seconds, clock
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        return self._until is not None

    def begin(self) -> None:
        if self._until is None:
            self._until = self._clock() + self.seconds

    def retry_after(self) -> int:
        """Whole seconds until this server is gone, at least 1: by then another one may be there."""
        left = 0.0 if self._until is None else self._until - self._clock()
        return max(1, math.ceil(left))
