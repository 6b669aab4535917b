"""Session keys at the enclave's end: fresh, few, and gone within ten minutes.

- A key is never derived from another, and belongs to one epoch: it opens requests to that
  epoch's keys alone, and ends with them.
- It is held for 120 s until its first request, and for 600 s in all.
- Only its 32-byte seed is kept, in a buffer that is overwritten when the session ends.
- Where there is no room, the oldest session without a request makes some; one that has had a
  request is never put out.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from attestation.channel import exchange, kem
from attestation.channel.key_config import KeyConfig
from attestation.channel.replay import ReplayGuard
from attestation.channel.suite import KEMS
from attestation.errors import ChannelError, SessionBusy, SessionExpired, Unavailable
from attestation.formats.digests import sha256

UNUSED_SECONDS = 120.0
"""From its answer to the first request a client needs one verification and one question."""

LIFE_SECONDS = 600.0
MAX_SESSIONS = 1 << 16
"""The process grows by about 1.5 kB for each."""

KEY_ID = 0
"""In a session's key configuration: sessions are named by hash, so the id says nothing."""


@dataclass(slots=True)
class Session:
    """`name` of 16 bytes, `digest` the hash of its key configuration, `made` in monotonic s."""

    name: bytes
    digest: bytes
    kem_id: int
    guard: ReplayGuard = field(repr=False)
    made: float
    _seed: bytearray = field(repr=False)

    def key(self) -> kem.PrivateKey:
        """Expanded for one request. Raises SessionExpired where the session has ended."""
        seed = bytes(self._seed)
        if not any(seed):
            raise SessionExpired("session: expected one that has not ended, got one that has")
        return _key(self.kem_id, seed)

    def wipe(self) -> None:
        self._seed[:] = bytes(len(self._seed))


class SessionKeys:
    """All sessions of one enclave, by name. Safe for many threads."""

    def __init__(
        self, *, capacity: int = MAX_SESSIONS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity, self._clock = capacity, clock
        self._unused: OrderedDict[bytes, Session] = OrderedDict()
        self._used: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, kem_id: int, guard: ReplayGuard) -> bytes:
        """A new key of this KEM for the epoch that `guard` belongs to: its key configuration.

        Raises SessionBusy where every session is in use, Unavailable where that epoch has ended,
        ChannelError for another KEM.
        """
        if kem_id not in KEMS:
            raise ChannelError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
        seed = bytearray(secrets.token_bytes(kem.SECRET_BYTES))
        config = KeyConfig(KEY_ID, kem_id, _key(kem_id, bytes(seed)).public).to_bytes()
        session = Session(
            exchange.session_id(config), sha256(config), kem_id, guard, self._clock(), seed
        )
        with self._lock:
            if guard.ended:
                raise Unavailable("session: expected an epoch that lives, got one that has ended")
            self._make_room()
            self._unused[session.name] = session
        return config

    def find(self, name: bytes, guard: ReplayGuard) -> Session:
        """The session with this name, of this epoch. Raises SessionExpired, and from then on
        always, whatever the clock says: the client is told that nothing ran or will run."""
        with self._lock:
            session = self._unused.get(name) or self._used.get(name)
            if session is not None and self._is_over(session):
                self._end([name])
                session = None
        if session is None or session.guard is not guard:
            raise SessionExpired("session: expected one that this enclave holds, got another")
        return session

    def use(self, session: Session) -> None:
        """A request to it has authenticated. Raises SessionExpired where it has ended since."""
        with self._lock:
            if self._is_over(session):
                raise SessionExpired("session: it ended while the request was arriving")
            if self._unused.pop(session.name, None) is not None:
                self._used[session.name] = session
            elif session.name not in self._used:
                raise SessionExpired("session: it ended while the request was arriving")

    def forget(self, configs: Iterable[bytes]) -> None:
        """End the sessions with these key configurations: no client will hear of them."""
        with self._lock:
            self._end([exchange.session_id(config) for config in configs])

    def retire(self, guard: ReplayGuard) -> None:
        """End all sessions of an epoch."""
        with self._lock:
            everyone = (*self._unused.values(), *self._used.values())
            self._end([session.name for session in everyone if session.guard is guard])

    @property
    def room(self) -> int:
        """How many new ones there is room for, of which none puts out another."""
        return max(0, self._capacity - len(self._used))

    def sweep(self) -> None:
        """End those whose time is over."""
        with self._lock:
            over = [*takewhile(self._is_over, self._unused.values())]  # the oldest come first
            over += [session for session in self._used.values() if self._is_over(session)]
            self._end([session.name for session in over])

    def __len__(self) -> int:
        return len(self._unused) + len(self._used)

    def __repr__(self) -> str:
        return f"<SessionKeys: {len(self)}, secret>"

    def _is_over(self, session: Session) -> bool:
        age = self._clock() - session.made
        return age >= (LIFE_SECONDS if session.name in self._used else UNUSED_SECONDS)

    def _make_room(self) -> None:
        if len(self) < self._capacity:
            return
        if not self._unused:
            raise SessionBusy("sessions: expected room for another one, every one is in use")
        self._end([next(iter(self._unused))])

    def _end(self, names: Iterable[bytes]) -> None:
        for name in names:
            session = self._unused.pop(name, None) or self._used.pop(name, None)
            if session is not None:
                session.wipe()


def _key(kem_id: int, seed: bytes) -> kem.PrivateKey:
    return kem.XWingKey(seed) if kem_id == kem.X_WING_ID else kem.X25519Key(seed)
