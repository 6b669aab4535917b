"""Runs under whatever order clients come, leave and return in: drawn orders, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from attestation.channel import bhttp
from enclave.guest.engines.base import EngineFailed
from enclave.guest.runs import AnswerGone, KeyReused, Runs, TooManyKeys
from tests.helpers import virtual_time

KEEP_S, MOST_BYTES = 5.0, 7000
REFUSED = (AnswerGone, KeyReused, TooManyKeys, EngineFailed)


class Engine:
    """Answers of drawn lengths and pauses, some of which fail; when which key had a receipt."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn, self.open = drawn, 0
        self.receipts: dict[bytes, list[float]] = defaultdict(list)

    async def pause(self) -> None:
        await asyncio.sleep(self.drawn.choice([0, 0, 0.01, 0.1]))

    def may_fail(self) -> None:
        if self.drawn.random() < 0.05:
            raise EngineFailed("drawn")


class Drawn:
    """One answer. Closing it may take long, and may fail, also after its end."""

    status, ran = 200, True
    headers: bhttp.Fields = ()

    def __init__(self, engine: Engine, key: bytes) -> None:
        self._engine, self._key = engine, key
        self.pieces = self._read()
        engine.open += 1

    async def _read(self) -> AsyncGenerator[bytes]:
        for _ in range(self._engine.drawn.choice([0, 1, 2, 5])):
            await self._engine.pause()
            self._engine.may_fail()
            yield bytes(self._engine.drawn.choice([1, 100, 3000]))

    def trailers(self, content: bytes) -> bhttp.Fields:
        self._engine.receipts[self._key].append(asyncio.get_running_loop().time())
        return ((b"receipt", str(len(content)).encode()),)

    async def aclose(self) -> None:
        try:
            await self.pieces.aclose()
            await self._engine.pause()
            self._engine.may_fail()
        finally:
            self._engine.open -= 1


async def client(runs: Runs, engine: Engine, key: bytes, body: bytes) -> None:
    """Asks, reads at its own pace, and leaves early at times. What it holds to be whole is."""

    async def ask() -> Drawn:
        await engine.pause()
        engine.may_fail()
        return Drawn(engine, key)

    listener = await runs.listen(key, body, ask, b"").begin()
    async with contextlib.aclosing(listener):
        length = 0
        async for piece in listener.pieces():
            length += len(piece)
            await engine.pause()
            if engine.drawn.random() < 0.1:
                return
        assert dict(listener.trailers())[b"receipt"] == str(length).encode()


async def scene(seed: int) -> None:
    drawn = random.Random(seed)
    engine = Engine(drawn)
    runs = Runs(keep_s=KEEP_S, most=6, most_bytes=MOST_BYTES, most_answer_bytes=5000)
    clients: list[asyncio.Task[None]] = []
    for _ in range(100):
        key, body = b"key %d" % drawn.randrange(8), b"body %d" % (drawn.random() < 0.1)
        clients.append(asyncio.create_task(client(runs, engine, key, body)))
        await engine.pause()
        if drawn.random() < 0.3:
            drawn.choice(clients).cancel()
    for ended in await asyncio.gather(*clients, return_exceptions=True):
        assert ended is None or isinstance(ended, (*REFUSED, asyncio.CancelledError)), ended
    assert engine.open == 0 and engine.receipts
    assert runs._bytes == sum(runs._kept.values()) <= MOST_BYTES
    for times in engine.receipts.values():
        assert all(later - before >= KEEP_S for before, later in pairwise(times))
    await asyncio.sleep(2 * KEEP_S)
    assert not runs._known and not runs._kept and runs._bytes == 0


@pytest.mark.parametrize("seed", range(40))
def test_one_receipt_for_a_key_and_nothing_left_behind(seed: int) -> None:
    virtual_time.run(scene(seed))
