"""What a process remembers of the vendors' documents, so that a fleet is verified once.

Machines of one kind share certificates, RIMs, TCB info, revocation lists and OCSP answers. What
is remembered about one of them follows from its bytes, and from the pinned roots where these
matter, and from nothing else. No time and no rule of a policy enters a remembered function:
whoever calls it compares every window with `now` again, and applies the policy again, so that a
document counts no second longer and under no other rule than without this module.

Only outcomes are kept, never errors. The arguments are kept as digests, so that memory is bounded
by the number and the size of the outcomes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_forgetting: list[Callable[[], None]] = []


class Same:
    """An immutable argument as a part of a key, told apart by which object it is and kept alive
    by that. Much quicker than to compare certificates: `load_certificate` gives one object for
    the same bytes."""

    __slots__ = ("_one",)

    def __init__(self, one: object) -> None:
        self._one = one

    def __hash__(self) -> int:
        return id(self._one)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._one is other._one


class Remembered(Generic[P, T]):
    """A function whose last `most` outcomes are kept. Safe for many threads, of which two may
    work out the same thing at the same time.

    `key` makes of the arguments what tells them apart, with digests of 32 bytes in place of
    documents; None where this outcome is not to be kept.
    """

    def __init__(
        self, work: Callable[P, T], *, most: int, key: Callable[P, Hashable | None]
    ) -> None:
        self._work, self._most, self._key = work, most, key
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        update_wrapper(self, work)
        _forgetting.append(self.forget)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = self._key(*args, **kwargs)
        if key is None:
            return self._work(*args, **kwargs)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._work(*args, **kwargs)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found

    def __len__(self) -> int:
        """How many outcomes are kept."""
        return len(self._kept)

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()


def remembered(
    *, most: int, key: Callable[P, Hashable | None]
) -> Callable[[Callable[P, T]], Remembered[P, T]]:
    """A decorator: see Remembered."""
    return lambda work: Remembered(work, most=most, key=key)


def forget() -> None:
    """Begin with nothing remembered, as a new process does. Benchmarks start with this."""
    for function in _forgetting:
        function()
