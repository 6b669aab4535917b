"""Turns of requests that compute in steps, where one is cancelled at an awkward moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from enclave.guest.engines.turns import Turns


class Scene:
    """Three requests of one step each; the first holds its turn until `hold` is set."""

    def __init__(self) -> None:
        self.turns, self.hold, self.order = Turns(9), asyncio.Event(), list[str]()
        self.first, self.second, self.third = (
            asyncio.create_task(self._one(name)) for name in ("first", "second", "third")
        )

    async def _one(self, name: str) -> None:
        with self.turns.place(b"") as place:
            async with self.turns.turn(place):
                self.order.append(name)
                await self.hold.wait()


def played(play: Callable[[Scene], Awaitable[None]]) -> list[str]:
    """Who had a turn; none is left."""

    async def run() -> list[str]:
        scene = Scene()
        await asyncio.sleep(0)
        assert (scene.turns.running, scene.turns.waiting) == (1, 2)
        await play(scene)
        await asyncio.wait({scene.first, scene.second, scene.third})
        assert scene.second.cancelled()
        assert (scene.first.exception(), scene.third.exception()) == (None, None)
        assert (scene.turns.running, scene.turns.waiting) == (0, 0)
        return scene.order

    return asyncio.run(run())


def test_one_that_waits_and_leaves_is_forgotten_at_once() -> None:
    async def play(scene: Scene) -> None:
        scene.second.cancel()
        await asyncio.sleep(0)
        assert len(scene.turns._queue) == 1
        scene.hold.set()

    assert played(play) == ["first", "third"]


def test_one_that_was_cancelled_and_has_not_run_since_gets_no_turn() -> None:
    async def play(scene: Scene) -> None:
        scene.hold.set()
        scene.second.cancel()

    assert played(play) == ["first", "third"]


def test_one_that_is_cancelled_when_it_has_just_got_its_turn_passes_it_on() -> None:
    async def play(scene: Scene) -> None:
        scene.hold.set()
        await asyncio.sleep(0)
        scene.second.cancel()

    assert played(play) == ["first", "third"]
