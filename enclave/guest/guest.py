"""The booted guest, as its server sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attestation.errors import Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.evidence import fresh_challenged
from attestation.formats.keys import bundle_digest
from attestation.formats.receipt import TIME_GRAIN_S
from attestation.platforms.tdx.quote import parse_quote
from attestation.wire import NONCE_BYTES
from enclave.guest.busy import Busy
from enclave.guest.engines.base import Engine
from enclave.guest.epochs import Epochs
from enclave.guest.keys import BootKeys, Configs
from enclave.guest.platforms.tsm import Platform
from enclave.guest.runs import Runs

MAX_CHALLENGES = 2
"""At once: a quote takes the machine tens of milliseconds."""


@dataclass(frozen=True)
class Guest:
    """Everything a request may touch. `model_name` is what /v1/models shows."""

    boot: BootKeys
    epochs: Epochs
    engine: Engine
    configs: Configs
    platform: Platform
    model_name: str
    prices: dict[str, int]
    clock: Callable[[], float] = time.monotonic
    runs: Runs = field(default_factory=Runs, repr=False)
    _busy: Busy = field(default_factory=Busy, repr=False)
    _challenges: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(MAX_CHALLENGES), repr=False
    )

    def challenge(self, nonce: bytes) -> bytes:
        """A new quote for a client's nonce of 32 bytes: CBOR {0: quote}.

        Its first half names the current epoch's keys and GPU reports, as the logged quote
        does. Raises UsageError for another size, Unavailable without a current epoch.
        """
        if len(nonce) != NONCE_BYTES:
            raise UsageError(f"challenge: expected {NONCE_BYTES} bytes, got {len(nonce)}")
        current = self.epochs.current
        if current is None:
            raise Unavailable(
                "challenge: expected an epoch that is anchored, there is none yet; try again"
            )
        half = parse_quote(current.quote).report_data[:32]
        if not self._challenges.acquire(timeout=5):
            raise Unavailable("challenge: too many challenges at once; try again")
        try:
            return cbor.encode({0: self.platform.quote(half + fresh_challenged(nonce)).quote})
        finally:
            self._challenges.release()

    def retire(self) -> bytes:
        """Forget every key and answer of this boot, for good, and say so: a Retirement.

        Raises Unavailable where nothing was ever anchored.
        """
        last = self.epochs.end()
        self.runs.clear()
        return self.boot.retire(bundle_digest(last.bundle.to_bytes())).to_bytes()

    def receipt_time(self) -> int:
        """Unix seconds by beacon and monotonic clock, in whole minutes."""
        return self.epochs.utime(self.clock()) // TIME_GRAIN_S * TIME_GRAIN_S

    def answer_ended(self) -> None:
        """An engine's answer has ended, whole or not: whoever waits moves on."""
        self._busy.ended(self.clock(), waiting=self.engine.stats().waiting)

    def retry_after(self) -> int:
        """In how many seconds the engine's queue should have room."""
        return self._busy.retry_after(waiting=self.engine.stats().waiting)
