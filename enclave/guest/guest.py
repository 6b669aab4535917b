"""The booted guest, as its server sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attestation.formats.keys import bundle_digest
from attestation.formats.receipt import TIME_GRAIN_S
from attestation.net.draining import Drain
from enclave.guest.busy import Busy
from enclave.guest.engines.base import Engine
from enclave.guest.engines.embedding import Embedder
from enclave.guest.epochs import Epochs
from enclave.guest.keys import BootKeys, Configs
from enclave.guest.metrics import Metrics
from enclave.guest.parsing import Parsers
from enclave.guest.platforms.tsm import Platform
from enclave.guest.runs import Runs


@dataclass(frozen=True)
class Guest:
    """Everything a request may touch. `model_name` is what /v1/models shows; while `drain` lasts,
    no answer begins."""

    boot: BootKeys
    epochs: Epochs
    engine: Engine | Embedder
    configs: Configs
    platform: Platform
    model_name: str
    prices: dict[str, int]
    clock: Callable[[], float] = time.monotonic
    runs: Runs = field(default_factory=Runs, repr=False)
    parsers: Parsers = field(default_factory=Parsers, repr=False)
    metrics: Metrics = field(default_factory=Metrics, repr=False)
    began: float = field(default_factory=time.monotonic)
    drain: Drain = field(default_factory=Drain, repr=False)
    _busy: Busy = field(default_factory=Busy, repr=False)

    @property
    def ready(self) -> bool:
        """Whether it begins answers: an epoch is current, the engine works, nobody ended it."""
        served = self.epochs.current is not None and not self.drain.begun
        return served and self.engine.failure() is None

    def uptime(self) -> int:
        """Whole seconds since the boot."""
        return round(self.clock() - self.began)

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
