"""Starts guests again that have ended: at once, then after longer and longer pauses.

The other guests serve meanwhile. If another part ends, or every guest has ended for good, the
network ends with an error that names the part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from attestation.errors import Unavailable
from client_sdk.localnet.supervisor import Child, Supervisor

PAUSES_S = (0.0, 2.0, 10.0, 30.0, 60.0)
"""Seconds before each new start of one guest; after the last pause it is not started again."""

STEADY_S = 300.0
"""Seconds. When a guest has run so long, its count of failed starts begins anew."""

PREFIX = "guest-"


class RestartsGuests(Protocol):
    """The network, as far as its guests go."""

    supervisor: Supervisor

    def restart(self, child: str) -> None: ...

    def serves(self, child: str) -> bool: ...


@dataclass
class GuestRestarter:
    """`say` prints a line for people; `clock` counts seconds."""

    network: RestartsGuests
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    last: str = ""
    _tries: dict[str, int] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _awaited: set[str] = field(default_factory=set)

    def look(self) -> None:
        """One round. Raises Unavailable, which names the part that has ended for good."""
        for child in self.network.supervisor.fallen(PREFIX):
            self._plan(child)
        for name in [name for name, due in self._due.items() if due <= self.clock()]:
            del self._due[name]
            self.say(f"starting {name} again …")
            self.network.restart(name)
            self._awaited.add(name)
        for name in sorted(self._awaited):
            if self.network.serves(name):
                self._awaited.remove(name)
                self.say(f"{name.replace('-', ' ', 1)} serves again")
        running = any(name.startswith(PREFIX) for name in self.network.supervisor.pids)
        if not running and not self._due:
            raise Unavailable(f"every guest has ended; the last one: {self.last}")
        self.network.supervisor.check(but=PREFIX)  # a guest that has just ended: the next round

    def _plan(self, child: Child) -> None:
        self.last = child.ended
        self._awaited.discard(child.name)
        if self.clock() - child.began >= STEADY_S:
            self._tries.pop(child.name, None)
        tries = self._tries.get(child.name, 0)
        self._tries[child.name] = tries + 1
        if tries == len(PAUSES_S):
            self.say(f"{self.last}; it ended {tries} times and is not started again")
            return
        self._due[child.name] = self.clock() + PAUSES_S[tries]
        when = f"in {PAUSES_S[tries]:.0f} s" if PAUSES_S[tries] else "now"
        self.say(f"{self.last}; it is started again {when}, and other guests serve meanwhile")
