"""Who is served next: a bounded share of places and slots for each client.

A client is a name that a request brings (`GenerateRequest.cache_salt`): its session, or a key of
its own where it has none. A name costs nothing, so a new one gets no turn of its own: all names
that no answer was finished for share the turn of NEWCOMERS. Whoever changes names with every
request is one of them, however many names there are. An empty name says that the caller does not
tell clients apart; it is one client, and may have all slots.

- Places: where all are taken, whoever waits with the most requests loses its last one to a client
  that waits with fewer, and is told that the queue is full. So each has its share of them, and one
  that is alone has all.
- Slots: a free one goes to the waiting client that holds the fewest, then to the one that has
  waited longest for its turn. Whoever holds its share of the slots gets no more while another
  client was served lately, also if nobody else waits: the next question finds a slot.
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

RESERVED = 4
"""One slot in so many is left to the others."""

LATELY = 64
"""Answers for each slot, all of one client, after which that client is alone."""


class Waiting(Protocol):
    """What waits in a FairQueue."""

    @property
    def client(self) -> bytes: ...


Item = TypeVar("Item", bound=Waiting)


class Names:
    """The clients behind the names of requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def client(self, name: bytes) -> bytes:
        return name if name == UNNAMED or name in self._known else NEWCOMERS

    def finished(self, name: bytes) -> None:
        """An answer was finished for this name: its next request has a turn of its own."""
        if name != UNNAMED:
            self._known[name] = None
            self._known.move_to_end(name)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)


def to_displace(waiting: Sequence[Item], client: bytes) -> Item:
    """Which of those that wait, the first come first, makes room for a request of this client.

    Raises QueueFull where none waits with at least two more than this client.
    """
    held = Counter(one.client for one in waiting)
    most = max(held, key=lambda one: held[one], default=client)
    if held[most] < held[client] + 2:
        raise QueueFull("engine: expected a free place, every one is taken; try again later")
    return next(one for one in reversed(waiting) if one.client == most)


class FairQueue(Generic[Item]):
    """What waits for one of `slots`, by client. Belongs to one thread, and knows no clock."""

    def __init__(self, slots: int) -> None:
        self._share = max(1, slots - max(1, slots // RESERVED))
        self._alone_after = LATELY * slots
        self._waiting: dict[bytes, deque[Item]] = {}  # the next turn first
        self._latest: bytes | None = None
        self._in_a_row = self._alone_after

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for waiting in self._waiting.values() for item in waiting)

    def add(self, item: Item) -> None:
        self._waiting.setdefault(item.client, deque()).append(item)

    def remove(self, item: Item) -> None:
        """Raises ValueError where it does not wait."""
        self._waiting.get(item.client, deque()).remove(item)
        self._drop_empty(item.client)

    def take(self, running: Sequence[Waiting]) -> Item | None:
        """The one that gets a free slot while `running` hold the others; None where it must stay
        free."""
        held = Counter(one.client for one in running)
        able = [client for client in self._waiting if self._may_take(client, held)]
        if not able:
            return None
        client = min(able, key=lambda one: held[one])  # of equals the first
        waiting = self._waiting.pop(client)
        item = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting  # at the end: its turn is over
        self._count(client)
        return item

    def _may_take(self, client: bytes, held: Counter[bytes]) -> bool:
        return client == UNNAMED or held[client] < self._share or self._is_alone(client, held)

    def _is_alone(self, client: bytes, held: Counter[bytes]) -> bool:
        others = (held.keys() | self._waiting.keys()) - {client, UNNAMED}
        return not others and self._latest in (client, None) and self._in_a_row >= self._alone_after

    def _count(self, client: bytes) -> None:
        if client == UNNAMED:
            return
        if self._latest not in (client, None):
            self._in_a_row = 0
        self._latest = client
        self._in_a_row += 1

    def _drop_empty(self, client: bytes) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
