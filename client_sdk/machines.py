"""What a client knows of a machine that it keeps verified: where it is reached and how it does."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from client_sdk.finding import Chosen
from client_sdk.presented import Place
from client_sdk.pricing import Price

WEIGHT = 0.3
"""Of the newest answer in the mean of the time until an answer begins."""


@dataclass
class Machine:
    """A verified enclave, all places that it is reached at, and how it does."""

    chosen: Chosen
    places: tuple[Place, ...]
    price: Price
    busy: int = 0
    seconds: float = 0.0
    told: bool = False
    seen: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> str:
        return self.chosen.enclave.model_name

    @property
    def load(self) -> float:
        return (self.busy + 1) * self.seconds


class Use:
    """One request to a machine, which is counted until it is `over`."""

    _counting = threading.RLock()
    """May be taken by an answer that is dropped while it is held."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._since, self._over = machine, time.monotonic(), False
        with self._counting:
            machine.busy += 1

    def began(self) -> None:
        """Its answer has begun."""
        took, old = time.monotonic() - self._since, self._machine.seconds
        self._machine.seconds = (1 - WEIGHT) * old + WEIGHT * took if old else took
        self._machine.seen = time.monotonic()

    def over(self) -> None:
        with self._counting:
            self._machine.busy -= not self._over
            self._over = True
