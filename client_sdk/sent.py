"""Which machine a question may have been executed at, by its idempotency key.

Only that machine knows the answer: another one would run the question again and charge again. So
a retry under the same key goes there or nowhere, until the machine says inside the seal that it
did not take the question.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client_sdk.finding import Chosen

KEPT = 4096
"""Keys; the oldest makes room. A machine keeps answers for ten minutes."""


@dataclass
class _Sent:
    """`going` requests are on their way to the machine; it may have executed one that `arrived`."""

    machine: Chosen
    going: int = 0
    arrived: bool = False


class SentTo:
    """Safe for many threads. Each request that is kept is told `over`, once."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._known: OrderedDict[bytes, _Sent] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: bytes | None) -> Chosen | None:
        """As it was chosen for the first request under this key."""
        known = None if key is None else self._known.get(key)
        return None if known is None else known.machine

    def keep(self, key: bytes | None, chosen: Chosen) -> bool:
        """A request under this key is on its way to this machine. False where one went to another
        machine meanwhile: nothing is kept then, and this one must go there too."""
        if key is None:
            return True
        with self._lock:
            known = self._known.setdefault(key, _Sent(chosen))
            if known.machine.place.boot != chosen.place.boot:
                return False
            known.going += 1
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return True

    def over(self, key: bytes | None, *, arrived: bool) -> None:
        """A request that was kept is no longer on its way, and may have `arrived`."""
        with self._lock:
            known = None if key is None else self._known.get(key)
            if key is None or known is None:
                return
            known.going -= 1
            known.arrived |= arrived
            if not (known.going or known.arrived):
                del self._known[key]

    def forget(self, key: bytes | None) -> bool:
        """The machine says that it did not take the question. False where another request under
        this key is on its way there, which it may take."""
        with self._lock:
            known = None if key is None else self._known.get(key)
            if key is None or known is None:
                return True
            if known.going:
                return False
            del self._known[key]
        return True
