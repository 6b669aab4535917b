"""One thread that computes for an event loop, one action after the other.

It is a daemon, so an action that never ends does not keep a process from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

JOIN_S = 5.0
T = TypeVar("T")


class Worker:
    """Started by its making. `close` it."""

    def __init__(self, name: str) -> None:
        self._actions = SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]()
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, action: Callable[[], T]) -> T:
        """What `action` returns or raises. Cancelling it keeps an action that has not begun from
        running."""
        future: Future[T] = Future()
        self._actions.put((action, future))
        return await asyncio.wrap_future(future)

    def busy_s(self) -> float:
        """For how many seconds the action that runs now has run; 0 without one."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def close(self) -> None:
        """Waits for the action that runs, for JOIN_S seconds at most."""
        self._actions.put(None)
        await asyncio.to_thread(self._thread.join, JOIN_S)

    def _work(self) -> None:
        while (given := self._actions.get()) is not None:
            action, future = given
            if future.set_running_or_notify_cancel():
                self._began = time.monotonic()
                _settle(action, future)
                self._began = None
            del given, action, future  # which hold a request


def _settle(action: Callable[[], Any], future: Future[Any]) -> None:
    try:
        result = action()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
