"""Runs the client's core with threads: one effect after the other, each within the time left.

Serves many threads. Work that goes on by itself has a thread of its own, and ends at its next
effect once the driver is closed. It delays the end of a program by one verification at most.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attestation.errors import UmayError, Unavailable, UsageError
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
    from client_sdk.transport import Stream, Transport

T = TypeVar("T")

UPKEEP_SECONDS = 120.0
"""For work that goes on by itself."""


@dataclass(frozen=True)
class Limit:
    """A moment of the monotonic clock, and what to say when it has come."""

    until: float = float("inf")
    told: str = ""

    @classmethod
    def after(cls, seconds: float, told: str) -> Limit:
        return cls(time.monotonic() + seconds, told)

    def tighter(self, seconds: float, told: str) -> Limit:
        """This, or `seconds` from now, whichever comes first."""
        other = Limit.after(seconds, told)
        return other if other.until < self.until else self

    def first(self, until: float, told: str) -> tuple[float, str]:
        """This or another moment, whichever comes first."""
        return (until, told) if until < self.until else (self.until, self.told)

    def left(self) -> float:
        """Seconds. Raises Unavailable where there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def wait(self) -> float | None:
        """The same, None for no limit."""
        return None if self.until == float("inf") else self.left()

    def late(self) -> Unavailable:
        return Unavailable(self.told, again=True, late=True)


NO_LIMIT = Limit()


class Driver:
    """Does over `transport` what the core asks for."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._closed = False
        self._by_kind: dict[type[Effect], Callable[[Any, Limit], Any]] = {
            Fetch: self._fetch,
            Open: self._open,
            Next: self._next,
            Compute: lambda asked, limit: _computed(asked.function),
            Blocking: lambda asked, limit: _bounded(asked.function, limit),
            Wait: lambda asked, limit: _result(asked.ticket, limit),
            Within: self._within,
            Together: self._together,
            Spawn: lambda asked, limit: _spawned(partial(self.run, asked.work, upkeep_limit())),
        }

    def close(self) -> None:
        """Nothing that is asked for is done afterwards; the transport is not closed."""
        self._closed = True

    def run(self, work: Work[T], limit: Limit = NO_LIMIT) -> T:
        """What `work` returns. Raises what it raises."""
        try:
            effect = next(work)
            while True:
                try:
                    result = self._do(effect, limit)
                except BaseException as error:
                    effect = work.throw(error)
                else:
                    effect = work.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _do(self, effect: Effect, limit: Limit) -> Any:
        if self._closed and not isinstance(effect, Next | Within):
            raise UsageError("client: this client is closed; make another one")
        limit.wait()
        return self._by_kind[type(effect)](effect, limit)

    def _next(self, asked: Next, limit: Limit) -> bytes:
        piece: bytes = asked.answer.piece(*limit.first(asked.until, asked.told))
        return piece

    def _fetch(self, asked: Fetch, limit: Limit) -> bytes:
        left = limit.wait()
        options = {} if left is None else {"within": left}
        if asked.body is None:
            return self.transport.get(asked.url, limit=asked.limit, **options)
        return self.transport.post(asked.url, asked.body, limit=asked.limit, **options)

    def _open(self, asked: Open, limit: Limit) -> Stream:
        times = {"within": limit.wait(), "connect": asked.connect}
        return self.transport.stream(asked.url, asked.body, asked.headers, **times)

    def _within(self, asked: Within, limit: Limit) -> Any:
        return self.run(asked.work, limit.tighter(asked.seconds, asked.told))

    def _together(self, asked: Together, limit: Limit) -> list[Any]:
        return _all([partial(self.run, work, limit) for work in asked.works], asked.at_once)


def upkeep_limit() -> Limit:
    return Limit.after(UPKEEP_SECONDS, f"upkeep took more than {UPKEEP_SECONDS:g} s")


def _bounded(function: Callable[[], Any], limit: Limit) -> Any:
    """In a thread that is left to itself where it takes too long."""
    if limit.until == float("inf"):
        return function()
    ticket: Future[Any] = Future()

    def settle() -> None:
        try:
            ticket.set_result(function())
        except BaseException as error:
            ticket.set_exception(error)

    threading.Thread(target=settle, name="umay-blocking", daemon=True).start()
    return _result(ticket, limit)


def _result(ticket: Future[Any], limit: Limit) -> Any:
    try:
        return ticket.result(limit.wait())
    except TimeoutError:
        raise limit.late() from None


def _all(functions: list[Callable[[], Any]], at_once: int) -> list[Any]:
    if len(functions) < 2:
        return [_caught(function) for function in functions]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(at_once, len(functions)), "umay-together") as pool:
        return list(pool.map(_caught, functions))


def _caught(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except UmayError as error:
        return error


def _spawned(function: Callable[[], Any]) -> None:
    threading.Thread(target=_caught, args=(function,), name="umay-upkeep", daemon=True).start()


_ending = threading.Lock()
atexit.register(_ending.acquire)


def _computed(function: Callable[[], Any]) -> Any:
    """An interpreter that ends stops its daemon threads wherever they are, and native code that is
    not made for it aborts the process. So the end waits for such code, and none begins after."""
    if not threading.current_thread().daemon:
        return function()
    with _ending:
        return function()
