"""Bodies that are on their way, bounded in number and in bytes: the oldest makes room.

What has not arrived is not authentic, so it must not close a server to those whose requests are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attestation.errors import Unavailable


class Crowded(Unavailable):
    """A body that had to make room for younger ones."""


class Arriving:
    """`most` bodies of `most_bytes` together."""

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._bodies: dict[Arrival, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._bodies)

    @asynccontextmanager
    async def one(self, seconds: float | None = None) -> AsyncIterator[Arrival]:
        """One body, until it is whole. Raises Crowded where it had to make room, TimeoutError
        after `seconds`."""
        arrival = None
        try:
            async with asyncio.timeout(seconds) as due:
                arrival = Arrival(self, due)
                self._bodies[arrival] = None
                self._make_room()
                try:
                    yield arrival
                finally:
                    self._forget(arrival)
        except TimeoutError:
            if arrival is not None and arrival.crowded:
                raise Crowded("request: too much is arriving; send it again") from None
            raise

    def count(self, arrival: Arrival, size: int) -> None:
        if arrival in self._bodies:
            arrival.size += size
            self._bytes += size
            self._make_room()

    def _make_room(self) -> None:
        while len(self._bodies) > self._most or self._bytes > self._most_bytes:
            oldest = next(iter(self._bodies))
            self._forget(oldest)
            oldest.end()

    def _forget(self, arrival: Arrival) -> None:
        if arrival in self._bodies:
            del self._bodies[arrival]
            self._bytes -= arrival.size


class Arrival:
    """One body; `count` what comes of it."""

    def __init__(self, all_: Arriving, due: asyncio.Timeout) -> None:
        self._all, self._due = all_, due
        self.size, self.crowded = 0, False

    def count(self, part: bytes) -> None:
        self._all.count(self, len(part))

    def end(self) -> None:
        """Where it stands: whatever awaits the next part of it."""
        if not self._due.expired():
            self.crowded = True
            self._due.reschedule(asyncio.get_running_loop().time())
