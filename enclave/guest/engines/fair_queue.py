"""Who is served next: a bounded share of places and slots for each client.

A client is a name that a request brings (`GenerateRequest.cache_salt`): its session, or a key of
its own where it has none. A name costs nothing, so a new one gets no turn of its own: all names
that no answer was finished for share the turn of NEWCOMERS. Whoever changes names with every
request is one of them, however many names there are. When the first answer for a name is finished,
all that waits or runs under it is that client's. An empty name says that the caller does not tell
clients apart; it is one client, and may have all slots.

- Places: where all are taken, whoever waits with the most requests loses its last one to a client
  that waits with fewer, and is told that the queue is full. So each has its share of them, and one
  that is alone has all.
- Slots: a free one goes to the waiting client that holds the fewest, then to the one that has
  waited longest for its turn. The last ones go only to a client that holds none, while one was
  served lately that asked for one answer at a time, also if nobody else waits: its next question
  finds a slot.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from enclave.guest.engines.base import QueueFull

NEWCOMERS = b"newcomers"
UNNAMED = b""
MOST_KNOWN = 1 << 12
"""Names that an answer was finished for. With more, the one that was used longest ago is new
again."""

RESERVED = 8
"""One slot in so many is left to those who hold none."""

LATELY = 64
"""Answers for each slot. For so long after the last client that asked for one at a time, its slot
is kept."""


class Named(Protocol):
    """A request that waits or runs."""

    @property
    def name(self) -> bytes: ...


Item = TypeVar("Item", bound=Named)


class Names:
    """The clients behind the names of requests. Written by one thread, and read by any."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self.changes = 0
        """How often a name has become known or new again."""

    def client(self, name: bytes) -> bytes:
        return name if name == UNNAMED or name in self._known else NEWCOMERS

    def finished(self, name: bytes) -> None:
        """An answer was finished for this name: from now on it has a turn of its own."""
        if name == UNNAMED:
            return
        if name not in self._known:
            self._known[name] = None
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
            self.changes += 1  # last, so that whoever has seen it sees the rest
        else:
            self._known.move_to_end(name)

    def held(self, items: Sequence[Named]) -> Counter[bytes]:
        """How many of these each client has."""
        return Counter(self.client(item.name) for item in items)

    def to_displace(self, waiting: Sequence[Item], name: bytes) -> Item:
        """Which of those that wait, the first come first, makes room for a request of this name.

        Raises QueueFull where no client waits with at least two more than this one.
        """
        held, client = self.held(waiting), self.client(name)
        most = max(held, key=lambda one: held[one], default=client)
        if held[most] < held[client] + 2:
            raise QueueFull("engine: expected a free place, every one is taken; try again later")
        return next(one for one in reversed(waiting) if self.client(one.name) == most)


class FairQueue(Generic[Item]):
    """What waits for one of `slots`, by client. Belongs to one thread, and knows no clock."""

    def __init__(self, slots: int, names: Names) -> None:
        self._slots, self._names = slots, names
        self._reserved = max(1, slots // RESERVED)
        self._long = LATELY * slots
        self._waiting: dict[bytes, deque[Item]] = {}  # the next turn first
        self._changes = names.changes
        self._latest: bytes | None = None
        self._answers = self._long  # since a slot was kept for somebody

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for waiting in self._waiting.values() for item in waiting)

    def add(self, item: Item) -> None:
        self._waiting.setdefault(self._names.client(item.name), deque()).append(item)

    def remove(self, item: Item) -> None:
        """Raises ValueError where it does not wait."""
        client = next((one for one, waiting in self._waiting.items() if item in waiting), None)
        if client is None:
            raise ValueError("it does not wait")
        self._waiting[client].remove(item)
        if not self._waiting[client]:
            del self._waiting[client]

    def take(self, running: Sequence[Named]) -> Item | None:
        """The one that gets a free slot while `running` hold the others; None where it must stay
        free."""
        self._rename()
        held, free = self._names.held(running), self._slots - len(running)
        able = [client for client in self._waiting if self._may_take(client, held, free)]
        if not able:
            return None
        client = min(able, key=lambda one: held[one])  # of equals the first
        waiting = self._waiting.pop(client)
        item = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting  # at the end: its turn is over
        self._count(client, light=not held[client] and not waiting)
        return item

    def _rename(self) -> None:
        """What waits under a name that has become known has its client's turn: it would hold
        slots as two clients."""
        if self._changes != self._names.changes:
            self._changes = self._names.changes
            items, self._waiting = list(self), {}
            for item in items:
                self.add(item)

    def _may_take(self, client: bytes, held: Counter[bytes], free: int) -> bool:
        kept = self._reserved if self._answers < self._long else 0
        return client == UNNAMED or not held[client] or free > kept

    def _count(self, client: bytes, *, light: bool) -> None:
        """`light`: it holds no other slot and asks for none."""
        if client == UNNAMED:
            return
        alone = self._latest in (client, None) and not self._waiting
        self._answers = 0 if light and not alone else self._answers + 1
        self._latest = client
