"""Many submissions, one writer: entries that arrive during a commit become the next batch."""

from __future__ import annotations

import asyncio
import logging

from attestation.errors import Unavailable
from contracts.logservice.repeats import RepeatLimiter
from contracts.logservice.store import Entry, Store

logger = logging.getLogger(__name__)


class Appender:
    """Gathers entries while a batch commits, and commits them as the next batch."""

    def __init__(self, store: Store) -> None:
        self._store, self._warn = store, RepeatLimiter(logger.warning)
        self._queue: asyncio.Queue[tuple[Entry, asyncio.Future[int]]] = asyncio.Queue()

    async def append(self, entry: Entry) -> int:
        """The committed entry's index."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((entry, future))
        return await future

    async def run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                entries = [entry for entry, _ in batch]
                indexes = await asyncio.to_thread(self._store.append, entries)
            except Exception as error:
                _settle(batch, error)
                if isinstance(error, Unavailable):
                    self._warn(f"a batch of {len(batch)} entries was not logged: {error}")
            else:
                _settle(batch, indexes)


def _settle(batch: list[tuple[Entry, asyncio.Future[int]]], outcome: list[int] | Exception) -> None:
    for at, (_, future) in enumerate(batch):
        if future.done():  # the submitter has disconnected; the entry is logged anyway
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome[at])
