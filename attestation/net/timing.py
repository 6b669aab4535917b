"""How long one exchange may take, on the monotonic clock, however slowly a peer drips."""

from __future__ import annotations

import time
from dataclasses import dataclass

from attestation.net.leaving import Leaving

SLOWEST = 32 * 1024
"""Bytes per second that an upload must reach: a long body adds to the time for the head."""

LONGEST_WAIT = 10.0**6
"""Seconds, 11 days. A socket counts milliseconds in 32 bits, and a longer wait may end at once."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds.

    connect: until a connection stands, with TLS and any proxy. head: from there until the
    answer's head is whole. whole: from the start until the last byte; None for a stream that
    may last. idle: between two pieces of the body. A system's name resolution has its own
    limit, which cannot be set from here.
    """

    connect: float = 5.0
    head: float = 30.0
    whole: float | None = 30.0
    idle: float = 30.0


class Clock:
    """One exchange's time. `left` is asked before every wait on the network, `leaving` ends it."""

    def __init__(
        self, deadlines: Deadlines, *, upload: int = 0, leaving: Leaving | None = None
    ) -> None:
        self._deadlines, self._upload = deadlines, upload / SLOWEST
        self.leaving = leaving or Leaving()
        self._start = time.monotonic()
        self._ends = float("inf"), ""
        self._unsent = upload
        self.begin_head()

    @property
    def sent(self) -> bool:
        """Whether the last byte of the request may have left."""
        return self._unsent < 0

    def sending(self, size: int) -> None:
        """So many bytes of the request are about to leave, its head among them."""
        self._unsent -= size

    def end_by(self, until: float, told: str) -> None:
        """Not later than at `until` by the monotonic clock, whatever else is allowed."""
        self._ends = until, told

    def begin_connection(self) -> None:
        seconds = self._deadlines.connect
        self._begin(f"no connection within {seconds:g} s", seconds - self._upload)

    def begin_head(self) -> None:
        self._begin(f"no answer within {self._deadlines.head:g} s", self._deadlines.head)

    def begin_body(self) -> None:
        self._begin("", float("inf"))

    def _begin(self, told: str, seconds: float) -> None:
        now, whole = time.monotonic(), self._deadlines.whole
        self._phase = now + seconds + self._upload, told
        until = float("inf") if whole is None else self._start + whole + self._upload
        self._whole = until, f"no whole answer within {whole or 0:g} s"

    def left(self) -> float:
        """Seconds that the next wait may take. Raises TimeoutError, which says what is late."""
        until, self.late = min(self._phase, self._whole, self._ends)
        idle = self._deadlines.idle
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(self.late)
        if not self._phase[1] and idle < left:
            self.late = f"nothing came for {idle:g} s"
            left = idle
        return min(left, LONGEST_WAIT)
