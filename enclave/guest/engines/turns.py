"""Who computes next, where one request computes at a time, in steps.

A request has a place until it ends. Before each step it waits for its turn, and turns go from
client to client, as in fair_queue; so a long request delays a short one by one step. Where all
places are taken, a request that has had no turn yet makes room. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from enclave.guest.engines.base import EngineFailed, QueueFull
from enclave.guest.engines.fair_queue import FairQueue, Names


class Place:
    """One request; `begun` once it has had a turn."""

    def __init__(self, name: bytes) -> None:
        self.name, self.begun = name, False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Turns:
    """At most `most` places."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names, self._places = Names(), dict[Place, None]()
        self._queue = FairQueue[Place](1, self._names)
        self._computing: Place | None = None
        self._ended: EngineFailed | None = None

    @property
    def running(self) -> int:
        return int(self._computing is not None)

    @property
    def waiting(self) -> int:
        return len(self._places) - self.running

    def check(self, name: bytes) -> Place | None:
        """Whoever would make room for a request of this name. Raises QueueFull."""
        if len(self._places) < self._most:
            return None
        waiting = [place for place in self._places if not (place.begun or place.ready.done())]
        return self._names.to_displace(waiting, name)

    @contextmanager
    def place(self, name: bytes) -> Iterator[Place]:
        """For the whole of a request, whose first turn is asked for at once. Raises QueueFull."""
        if (displaced := self.check(name)) is not None:
            self._refuse(displaced, QueueFull("engine: expected fewer requests of one client; try "
                                              "again later"))  # fmt: skip
        place = Place(name)
        self._places[place] = None
        try:
            yield place
            self._names.finished(name)
        finally:
            self._places.pop(place, None)

    @asynccontextmanager
    async def turn(self, place: Place) -> AsyncIterator[None]:
        """One step. Raises QueueFull where the place was needed for another client, and what
        `end` was given."""
        if self._ended is not None:
            raise self._ended
        place.ready = asyncio.get_running_loop().create_future()
        self._queue.add(place)
        self._next()
        try:
            await place.ready
            yield
        finally:
            if self._computing is place:  # also where it was cancelled just then
                self._computing = None
                self._next()
            elif place in self._queue:
                self._queue.remove(place)

    def end(self, failure: EngineFailed) -> None:
        """Nobody gets a turn any more. Only the first failure counts."""
        self._ended = self._ended or failure
        for place in [place for place in self._queue if not place.ready.done()]:
            self._refuse(place, failure)

    def _refuse(self, place: Place, error: Exception) -> None:
        self._queue.remove(place)
        self._places.pop(place, None)
        place.ready.set_exception(error)

    def _next(self) -> None:
        while self._computing is None and (place := self._queue.take(())) is not None:
            if not place.ready.done():  # or else it was cancelled, and has not run since
                self._computing = place
                place.begun = True
                place.ready.set_result(None)
