"""One table per epoch of the requests already seen, so that none is answered twice.

An entry is made only for a request that has authenticated, so noise takes no room. It forgets
nothing until its epoch's keys are gone: when full it refuses.

Whoever knows the public keys can send real requests. They are entered at RATE, so that they
cannot fill the table, and force the next epoch, before this one ends by itself. What comes faster
is refused for good: whoever is told so may ask elsewhere, although somebody on the way has kept
the request.
"""

from __future__ import annotations

import hashlib
import threading

from attestation.errors import ChannelError, Replayed, TooManyRequests, UsageError

ENTRY_BYTES = 16
DEFAULT_CAPACITY = 1 << 21
"""About 110 bytes for each that is entered; 230 MB when full."""

RATE = 200.0
"""Requests per second. With BURST, 71 % of the table in the two hours that keys live at most."""

BURST = 40_000
"""Requests at once, after a time with fewer."""

REFUSED_BITS = 1 << 27
"""16 MB, taken at the first refusal. After an hour of 1,000 refusals a second, one new request in
9,000 is taken for one of them."""


class ReplayGuard:
    """Times are monotonic seconds."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise UsageError(f"replay table: expected room for at least 1 entry, got {capacity}")
        self._capacity = capacity
        self._seen: set[bytes] = set()
        self._refused, self._bucket = _Refused(), _Bucket()
        self.ended = False
        """Whether the keys of its epoch are gone."""

        self._lock = threading.Lock()

    def reserve(self, enc: bytes, *, now: float) -> None:
        """Enter a request by its encapsulated key, atomically.

        Raises Replayed when it is there already, TooManyRequests when it comes too soon or did so
        before, ChannelError when the table is full.
        """
        entry = entry_of(enc)
        with self._lock:
            if entry in self._seen:
                raise Replayed("request: expected a new one, this was seen before in this epoch")
            if len(self._seen) >= self._capacity:
                raise ChannelError(
                    "replay table: expected room for a request, it is full: a new epoch must begin"
                )
            if entry in self._refused or not self._bucket.take(now):
                self._refused.add(entry)
                raise TooManyRequests(
                    f"requests: expected at most {RATE:.0f} in a second, more came; seal the "
                    "request anew later, or ask another enclave"
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

    @property
    def fill(self) -> float:
        """From 0 to 1."""
        return len(self._seen) / self._capacity

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        return f"<ReplayGuard {len(self._seen)} of {self._capacity}>"


class _Bucket:
    """BURST tokens, and RATE more per second where there is room. A clock that goes back gives
    none twice."""

    def __init__(self) -> None:
        self._tokens, self._since = float(BURST), float("-inf")

    def take(self, now: float) -> bool:
        if now > self._since:
            self._tokens = min(float(BURST), self._tokens + (now - self._since) * RATE)
            self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Refused:
    """Entries that were refused, in a fixed number of bits (a Bloom filter): it forgets none, and
    takes a few others for them."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, entry: bytes) -> None:
        if not self._bits:
            self._bits = bytearray(REFUSED_BITS // 8)
        for byte, bit in _places(entry):
            self._bits[byte] |= bit

    def __contains__(self, entry: bytes) -> bool:
        return bool(self._bits) and all(self._bits[byte] & bit for byte, bit in _places(entry))


def _places(entry: bytes) -> list[tuple[int, int]]:
    """Four bits for an entry of 16 bytes, which is a hash."""
    numbers = (int.from_bytes(entry[at : at + 4], "big") % REFUSED_BITS for at in (0, 4, 8, 12))
    return [(number // 8, 1 << number % 8) for number in numbers]


def entry_of(enc: bytes) -> bytes:
    """What stands in the table for an encapsulated key (16 bytes)."""
    return hashlib.sha256(enc).digest()[:ENTRY_BYTES]
