"""Runs the client's core with asyncio: one effect after the other, each within the time left.

What waits by itself or takes the processor for long goes into a thread. Work that goes on by
itself is a task, which `close` ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attestation.errors import UmayError, UsageError
from client_sdk.driver import NO_LIMIT, Limit, upkeep_limit
from client_sdk.effects import (
    Blocking,
    Compute,
    Effect,
    Fetch,
    Next,
    Open,
    Spawn,
    Together,
    Wait,
    Within,
    Work,
)

if TYPE_CHECKING:
    from client_sdk.async_transport import AsyncStream, AsyncTransport

T = TypeVar("T")


class AsyncDriver:
    """Does over `transport` what the core asks for, in the tasks of one event loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self.transport = transport
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_kind: dict[type[Effect], Callable[[Any, Limit], Awaitable[Any]]] = {
            Fetch: self._fetch,
            Open: self._open,
            Next: self._next,
            Compute: _in_thread,
            Blocking: _in_thread,
            Wait: _waited,
            Within: self._within,
            Together: self._together,
            Spawn: self._spawn,
        }

    async def close(self) -> None:
        """Nothing that is asked for is done afterwards; the transport is not closed."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, work: Work[T], limit: Limit = NO_LIMIT) -> T:
        """What `work` returns. Raises what it raises."""
        try:
            effect = next(work)
            while True:
                try:
                    result = await self._do(effect, limit)
                except BaseException as error:
                    effect = work.throw(error)
                else:
                    effect = work.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _do(self, effect: Effect, limit: Limit) -> Any:
        if self._closed and not isinstance(effect, Next | Within):
            raise UsageError("client: this client is closed; make another one")
        limit.wait()
        return await self._by_kind[type(effect)](effect, limit)

    def _next(self, asked: Next, limit: Limit) -> Awaitable[bytes]:
        piece: Awaitable[bytes] = asked.answer.piece(*limit.first(asked.until, asked.told))
        return piece

    async def _fetch(self, asked: Fetch, limit: Limit) -> bytes:
        within = limit.wait()
        if asked.body is None:
            return await self.transport.get(asked.url, limit=asked.limit, within=within)
        return await self.transport.post(asked.url, asked.body, limit=asked.limit, within=within)

    async def _open(self, asked: Open, limit: Limit) -> AsyncStream:
        return await self.transport.stream(
            asked.url, asked.body, asked.headers, within=limit.wait(), connect=asked.connect
        )

    async def _within(self, asked: Within, limit: Limit) -> Any:
        return await self.run(asked.work, limit.tighter(asked.seconds, asked.told))

    async def _together(self, asked: Together, limit: Limit) -> list[Any]:
        turn = asyncio.Semaphore(asked.at_once)

        async def one(work: Work[Any]) -> Any:
            async with turn:
                return await self._caught(work, limit)

        return list(await asyncio.gather(*map(one, asked.works)))

    async def _spawn(self, asked: Spawn, limit: Limit) -> None:
        task = asyncio.get_running_loop().create_task(self._caught(asked.work, upkeep_limit()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _caught(self, work: Work[Any], limit: Limit) -> Any:
        try:
            return await self.run(work, limit)
        except UmayError as error:
            return error


async def _in_thread(asked: Blocking | Compute, limit: Limit) -> Any:
    return await _until(limit, asyncio.to_thread(asked.function))


async def _waited(asked: Wait, limit: Limit) -> Any:
    # Shielded: who gives up waiting does not cancel the work of others, nor hears its error.
    done = asyncio.wrap_future(asked.ticket)
    done.add_done_callback(lambda future: future.cancelled() or future.exception())
    return await _until(limit, asyncio.shield(done))


async def _until(limit: Limit, result: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(limit.wait()):
            return await result
    except TimeoutError:
        raise limit.late() from None
