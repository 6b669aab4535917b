"""Epochs: when keys are made, used and forgotten (DESIGN §5).

pending: made, not anchored yet · ready: anchored, its time has not come · current: what
clients are given · retired: still opens requests until its end, then its keys are gone.

Time is the monotonic clock and the beacon; the wall clock is the host's. A next epoch is
made `lead` before its use. Where it is not anchored in time, the current one stays until
its own not_after, and then nothing is served rather than something unproven.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from attestation.channel.server import Epoch as ChannelKeys
from attestation.channel.server import KeyRing
from attestation.errors import UmayError, Unavailable
from attestation.formats.evidence import evidence_digest
from attestation.formats.keys import KeyBundle
from enclave.guest.config import Schedule
from enclave.guest.feed import Beacon, Feed
from enclave.guest.keys import Prover

BOOT, RENEW = 1, 2


@dataclass(frozen=True)
class Epoch:
    """`begins` and `ends` are monotonic seconds; `previous` the evidence before this one."""

    keys: ChannelKeys
    bundle: KeyBundle
    evidence: bytes
    evidence_digest: bytes
    quote: bytes
    kind: int
    previous: bytes | None
    begins: float
    ends: float

    @property
    def key_ids(self) -> frozenset[int]:
        return frozenset(config.key_id for config in self.keys.configs)


class Epochs:
    """All living epochs of one boot. `step` is the only thing that changes them."""

    def __init__(self, prover: Prover, feed: Feed, ring: KeyRing, schedule: Schedule) -> None:
        self.ring = ring
        self._prover, self._feed, self._schedule = prover, feed, schedule
        self._lock = threading.Lock()
        self._living: tuple[Epoch, ...] = ()
        self._anchored: frozenset[bytes] = frozenset()
        self._current: Epoch | None = None
        self._last: bytes | None = None
        self._beacon: Beacon | None = None
        self._ended: Epoch | None = None
        self.rotations = 0
        """How often an epoch became current after the first one."""

    @property
    def living(self) -> tuple[tuple[Epoch, str], ...]:
        """Every epoch and its state, oldest first."""
        with self._lock:
            return tuple((epoch, self._state(epoch)) for epoch in self._living)

    @property
    def current(self) -> Epoch | None:
        return self._current

    def of_key(self, key_id: int) -> Epoch | None:
        """The living epoch that a request's key id belongs to."""
        return next((epoch for epoch, _ in self.living if key_id in epoch.key_ids), None)

    def utime(self, now: float) -> int:
        """Unix seconds by the last beacon and the monotonic clock."""
        return self._beacon.utime_at(now) if self._beacon is not None else 0

    def first(self, now: float) -> None:
        """The epoch of the boot. Raises what the feed and the prover raise."""
        self._add(self._make(now, now))

    def step(self, now: float) -> None:
        """Whatever is due at `now` (monotonic seconds). Raises what feed and prover raise."""
        self.retire(now)
        if self._ended is not None:
            return
        self._learn()
        self._switch(now)
        if self._due(now):
            begins = self._next_begin(now)
            self._add(self._make(now, begins))

    def retire(self, now: float) -> None:
        """Forget the keys of epochs that ended. Asks nobody, so nobody can delay it."""
        with self._lock:
            over = [epoch for epoch in self._living if now >= epoch.ends]
            self._living = tuple(epoch for epoch in self._living if now < epoch.ends)
            if self._current in over:
                self._current = None
        for epoch in over:
            self.ring.retire(epoch.keys)

    def sweep(self, _now: float) -> None:
        """Forget the keys of sessions that ended. Asks nobody either."""
        self.ring.sessions.sweep()

    def to_end(self, boot_id: bytes) -> bool:
        """Whether the host is ending this boot now: its agent's feed says so. Raises Unavailable
        or ParseError."""
        return boot_id in self._feed.ending()

    def end(self) -> Epoch:
        """Forget all keys, for good; the epoch that was used last. Raises Unavailable where
        none was ever anchored."""
        with self._lock:
            last = self._current or self._ended
            if last is None:
                raise Unavailable("retire: expected an epoch that is anchored, there is none yet")
            self._ended, self._current = last, None
            over, self._living = self._living, ()
        for epoch in over:
            self.ring.retire(epoch.keys)
        return last

    def _learn(self) -> None:
        """Which of the living are anchored; what else the feed names is forgotten."""
        if any(state == "pending" for _, state in self.living):
            named = self._anchored | self._feed.anchored()
            self._anchored = named & {epoch.evidence_digest for epoch, _ in self.living}

    def _read_beacon(self) -> Beacon:
        """The newest block by the feed; within one boot it never goes back."""
        beacon, before = self._feed.beacon(), self._beacon
        if before is not None and (beacon.seqno < before.seqno or beacon.utime < before.utime):
            raise Unavailable(f"beacon: expected block {before.seqno} or later, got {beacon.seqno}")
        self._beacon = beacon
        return beacon

    def _make(self, now: float, begins: float) -> Epoch:
        beacon = self._read_beacon()
        keys = self.ring.open_epoch()
        ends = begins + self._schedule.length + self._schedule.overlap
        try:
            bundle = self._prover.bundle(
                keys, beacon, not_before=beacon.utime_at(begins), not_after=beacon.utime_at(ends)
            )
            proof = self._prover.prove(bundle, now=beacon.utime_at(now))
        except BaseException:
            self.ring.retire(keys)
            raise
        evidence = proof.to_bytes()
        return Epoch(
            keys=keys,
            bundle=bundle,
            evidence=evidence,
            evidence_digest=evidence_digest(evidence),
            quote=proof.quote,
            kind=BOOT if self._last is None else RENEW,
            previous=self._last,
            begins=begins,
            ends=ends,
        )

    def _add(self, epoch: Epoch) -> None:
        with self._lock:
            if self._ended is None:
                self._living = (*self._living, epoch)
                return
        self.ring.retire(epoch.keys)

    def _switch(self, now: float) -> None:
        with self._lock:
            for epoch in self._living:
                if self._state(epoch) == "ready" and (now >= epoch.begins or self._current is None):
                    self.rotations += self._last is not None
                    self._current, self._last = epoch, epoch.evidence_digest

    def _due(self, now: float) -> bool:
        """Whether an epoch must be made: its time has come, and none waits to begin then."""
        waiting = [epoch for epoch, state in self.living if state in ("pending", "ready")]
        current = self._current
        if current is not None and current.keys.guard.wants_rotation:
            # One that begins later is of no use now: clients refuse it until then.
            return not any(epoch.begins <= now for epoch in waiting)
        if waiting:
            return False
        return (
            current is None or now >= current.begins + self._schedule.length - self._schedule.lead
        )

    def _next_begin(self, now: float) -> float:
        current = self._current
        if current is None or current.keys.guard.wants_rotation:
            return now
        return max(now, current.begins + self._schedule.length)

    def _state(self, epoch: Epoch) -> str:
        if epoch is self._current:
            return "current"
        later = self._current is not None and epoch.begins < self._current.begins
        if later:
            return "retired"
        return "ready" if epoch.evidence_digest in self._anchored else "pending"


def keep(
    action: Callable[[float], None],
    stopped: threading.Event,
    *,
    clock: Callable[[], float],
    tell: Callable[[str], None],
    every: float = 1.0,
) -> None:
    """Calls `action` until `stopped`. What fails is told once per kind and tried again."""
    told = ""
    while not stopped.wait(every):
        try:
            action(clock())
            text = ""
        except UmayError as error:
            text = str(error)
        except Exception as error:  # a thread that ends would leave the guest without epochs
            text = f"stopped by {type(error).__name__}"
        if text and text != told:
            tell(f"epoch: {text}")
        told = text
