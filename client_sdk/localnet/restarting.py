"""Guests that have ended are started again: at once, then later and later.

They stand in for each other meanwhile. Any other part that ends, or a guest that ends again and
again with no other left, ends the network by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from attestation.errors import Unavailable
from client_sdk.localnet.supervisor import Child, Supervisor

PAUSES_S = (0.0, 2.0, 10.0, 30.0, 60.0)
"""Before each new start of one guest; after the last one it is left."""

STEADY_S = 300.0
"""A guest that ran so long had a good start, and its count begins anew."""

PREFIX = "guest-"


class RestartsGuests(Protocol):
    """The network, as far as its guests go."""

    supervisor: Supervisor

    def restart(self, child: str) -> None: ...


@dataclass
class GuestRestarter:
    """`say` tells people; `clock` counts seconds."""

    network: RestartsGuests
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    last: str = ""
    _tries: dict[str, int] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """One round. Raises Unavailable naming the part without which the network is none."""
        for child in self.network.supervisor.fallen(PREFIX):
            self._plan(child)
        for name in [name for name, due in self._due.items() if due <= self.clock()]:
            del self._due[name]
            self.say(f"starting {name} again …")
            self.network.restart(name)
        running = any(name.startswith(PREFIX) for name in self.network.supervisor.pids)
        if not running and not self._due:
            raise Unavailable(f"every guest has ended; the last: {self.last}")
        self.network.supervisor.check()

    def _plan(self, child: Child) -> None:
        self.last = child.ended
        if self.clock() - child.began >= STEADY_S:
            self._tries.pop(child.name, None)
        tries = self._tries.get(child.name, 0)
        self._tries[child.name] = tries + 1
        if tries == len(PAUSES_S):
            self.say(f"{self.last}; it ended {tries} times and is left")
            return
        self._due[child.name] = self.clock() + PAUSES_S[tries]
        when = f"in {PAUSES_S[tries]:.0f} s" if PAUSES_S[tries] else "now"
        self.say(f"{self.last}; it is started again {when}, requests go to the others")
