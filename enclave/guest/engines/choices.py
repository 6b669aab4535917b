"""Several answers to one request, as one answer.

Each choice is a request of its own to the engine, with its own draws. Either all of them are taken
or none. Deltas come in the order in which they are written, each with the index of its choice, and
the last one of each choice has its reason and its counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from enclave.guest.engines.base import Answer, Delta, Engine, GenerateRequest


async def start(engine: Engine, request: GenerateRequest) -> Answer:
    """The answer with all the choices of a request that `prepare` gave. Raises what
    `Engine.generate` raises."""
    if request.n == 1:
        return engine.generate(request)
    answers: list[Answer] = []
    try:
        for choice in range(request.n):
            answers.append(engine.generate(replace(request, n=1, choice=choice)))
    except BaseException:
        for answer in answers:
            await answer.aclose()
        raise
    return _Choices(answers)


class _Choices:
    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self._running = dict(enumerate(answers))
        self._tasks: dict[int, asyncio.Task[Delta]] = {}
        self._ready: deque[Delta] = deque()

    def __aiter__(self) -> _Choices:
        return self

    async def __anext__(self) -> Delta:
        while not self._ready:
            if not self._running:
                raise StopAsyncIteration
            await self._more()
        return self._ready.popleft()

    async def _more(self) -> None:
        """Waits until at least one choice has a Delta, and takes one from each that has."""
        for index, answer in self._running.items():
            if index not in self._tasks:
                self._tasks[index] = asyncio.create_task(_next(answer))
        await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        for index, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[index]
                delta = task.result()
                if delta.finish_reason is not None:
                    del self._running[index]
                self._ready.append(replace(delta, index=index))

    async def aclose(self) -> None:
        """Cancels every choice. It may be called at any time and repeatedly."""
        tasks, self._tasks, self._running = list(self._tasks.values()), {}, {}
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for answer in self._answers:
                await answer.aclose()


async def _next(answer: Answer) -> Delta:
    return await answer.__anext__()
