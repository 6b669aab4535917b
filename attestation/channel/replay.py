"""One table per epoch of the requests already seen, so that none is answered twice.

An entry is made only for a request that has authenticated, so noise takes no room; whoever
knows the public keys can still fill the table with real requests. It forgets nothing until
its epoch's keys are gone: when full it refuses.
"""

from __future__ import annotations

import hashlib
import threading

from attestation.errors import ChannelError, Replayed, UsageError

ENTRY_BYTES = 16
DEFAULT_CAPACITY = 1 << 19
"""100 requests a second for an epoch and its overlap, 70 minutes; about 60 MB when full."""


class ReplayGuard:
    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise UsageError(f"replay table: expected room for at least 1 entry, got {capacity}")
        self._capacity = capacity
        self._seen: set[bytes] = set()
        self.ended = False
        """Whether the keys of its epoch are gone."""

        self._lock = threading.Lock()

    def reserve(self, enc: bytes) -> None:
        """Enter a request by its encapsulated key, atomically.

        Raises Replayed when it is there already, ChannelError when the table is full.
        """
        entry = entry_of(enc)
        with self._lock:
            if entry in self._seen:
                raise Replayed("request: expected a new one, this was seen before in this epoch")
            if len(self._seen) >= self._capacity:
                raise ChannelError(
                    "replay table: expected room for a request, it is full: a new epoch must begin"
                )
            self._seen.add(entry)

    def has(self, enc: bytes) -> bool:
        """Whether a request with this encapsulated key was entered."""
        with self._lock:
            return entry_of(enc) in self._seen

    @property
    def wants_rotation(self) -> bool:
        """True from 80 % on: time for the next epoch."""
        return len(self._seen) * 5 >= self._capacity * 4

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        return f"<ReplayGuard {len(self._seen)} of {self._capacity}>"


def entry_of(enc: bytes) -> bytes:
    """What stands in the table for an encapsulated key (16 bytes)."""
    return hashlib.sha256(enc).digest()[:ENTRY_BYTES]
