"""Which machine a question may have been executed at, by its idempotency key.

Only that machine knows the answer: another one would run the question again and charge again. So
a retry under the same key goes there or nowhere, until the machine says inside the seal that it
did not take the question.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client_sdk.finding import Chosen

KEPT = 4096
"""Keys; the oldest makes room. A machine keeps answers for ten minutes."""


class SentTo:
    """Safe for many threads."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._machines: OrderedDict[bytes, Chosen] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: bytes | None) -> Chosen | None:
        """As it was chosen for the first request under this key."""
        return None if key is None else self._machines.get(key)

    def keep(self, key: bytes | None, chosen: Chosen) -> bool:
        """A request under this key may be executed there from now on. Whether it is the first
        one: that one counts."""
        if key is None:
            return False
        with self._lock:
            first = key not in self._machines
            self._machines.setdefault(key, chosen)
            while len(self._machines) > self._size:
                self._machines.popitem(last=False)
        return first

    def forget(self, key: bytes | None) -> None:
        """It was not executed there."""
        if key is not None:
            with self._lock:
                self._machines.pop(key, None)
