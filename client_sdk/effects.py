"""What the client's core asks of the outside: typed requests for I/O, and nothing else.

The core (finding, choosing, asking, reading) is written once, as generators of effects. A
driver does what they ask for and sends the result back, or throws what went wrong:
client_sdk/driver.py with threads, client_sdk/async_driver.py with asyncio. A driver bounds
every effect by the time that its caller has left, and raises Unavailable once that is over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from attestation.errors import UmayError

T = TypeVar("T")

Work = Generator["Effect", Any, T]
"""A part of the core that returns a T; `yield from` it within another one."""


class Arriving(Protocol):
    """An answer whose head is there and whose body is still arriving."""

    @property
    def status(self) -> int: ...

    @property
    def media_type(self) -> str: ...

    @property
    def retry_after(self) -> float | None: ...

    def piece(self, until: float, told: str) -> Any:
        """For the driver that made it: its next bytes, or what gives them when awaited."""

    def close(self) -> None:
        """At once, from any thread; its connection ends."""


@dataclass(frozen=True)
class Fetch:
    """A whole answer with status 200, of at most `limit` bytes: GET, or POST of a `body`."""

    url: str
    limit: int
    body: bytes | None = None


@dataclass(frozen=True)
class Open:
    """POST; the result is an Arriving as soon as the head of the answer is there. `connect`:
    the most seconds until the connection stands, where they are not the usual ones."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    connect: float | None = None


@dataclass(frozen=True)
class Next:
    """The next bytes of an answer, b"" at its end. Raises Truncated where it breaks, and with
    `told` where they are not there at `until` (monotonic clock)."""

    answer: Arriving
    until: float = float("inf")
    told: str = ""


@dataclass(frozen=True)
class Blocking:
    """A function that waits for something by itself, such as a read of the chain."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Compute:
    """A function that takes the processor for longer than a few milliseconds."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Wait:
    """Until somebody else has done the same work; the result is what the ticket holds."""

    ticket: Future[Any]


@dataclass(frozen=True)
class Together:
    """Several at once, at most `at_once`; each result is a value or the UmayError raised."""

    works: Sequence[Work[Any]]
    at_once: int


@dataclass(frozen=True)
class Within:
    """One that has at most so many seconds; `told` says in the error what is late."""

    seconds: float
    work: Work[Any]
    told: str


@dataclass(frozen=True)
class Spawn:
    """One that goes on by itself; its errors are nobody's. The result is None, at once."""

    work: Work[None]


Effect = Fetch | Open | Next | Blocking | Compute | Wait | Together | Within | Spawn


def fetch(url: str, *, limit: int, body: bytes | None = None) -> Work[bytes]:
    """Raises NotThere for a 404, else Unavailable."""
    content: bytes = yield Fetch(url, limit, body)
    return content


def blocking(function: Callable[[], T]) -> Work[T]:
    """Raises what the function raises, and Unavailable where it takes too long."""
    result: T = yield Blocking(function)
    return result


def compute(function: Callable[[], T]) -> Work[T]:
    """Raises what the function raises."""
    result: T = yield Compute(function)
    return result


def wait(ticket: Future[T]) -> Work[T]:
    """Raises a copy of what the ticket holds: the error of each who waits is its own."""
    try:
        result: T = yield Wait(ticket)
    except UmayError as error:
        raise copy.copy(error) from None
    return result


def together(works: Sequence[Work[T]], *, at_once: int) -> Work[list[T | UmayError]]:
    """Raises nothing that one of them raises, where it is in the tree of errors."""
    results: list[T | UmayError] = yield Together(works, at_once)
    return results


def within(seconds: float, work: Work[T], *, told: str) -> Work[T]:
    """Raises Unavailable where it takes longer."""
    result: T = yield Within(seconds, work, told)
    return result
