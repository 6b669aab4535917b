"""Fairness of the engine's queue: whose turn it is, and who is refused. No clock is involved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.guest.engines import fair_queue
from enclave.guest.engines.base import QueueFull
from enclave.guest.engines.fair_queue import (
    LATELY,
    NEWCOMERS,
    UNNAMED,
    FairQueue,
    Names,
    to_displace,
)

GREEDY, OTHER, THIRD = b"greedy", b"other", b"third"


@dataclass(eq=False)
class Item:
    client: bytes


def filled(slots: int, *clients: bytes) -> FairQueue[Item]:
    queue = FairQueue[Item](slots)
    for client in clients:
        queue.add(Item(client))
    return queue


def taken(queue: FairQueue[Item], running: list[Item], slots: int) -> list[bytes]:
    """Fills the free slots; the clients that got them."""
    got = []
    while len(running) < slots and (item := queue.take(running)):
        running.append(item)
        got.append(item.client)
    return got


# Slots


def test_clients_take_turns_whatever_came_first() -> None:
    queue = filled(4, *[GREEDY] * 5, OTHER, OTHER, THIRD)
    assert taken(queue, [], 4) == [GREEDY, OTHER, THIRD, GREEDY]


def test_within_a_client_the_first_comes_first() -> None:
    queue = filled(1)
    items = [Item(GREEDY), Item(GREEDY)]
    for item in items:
        queue.add(item)
    assert [queue.take([]), queue.take([])] == items


def test_a_free_slot_goes_to_who_holds_the_fewest() -> None:
    queue = filled(8, GREEDY, OTHER)
    assert taken(queue, [Item(GREEDY), Item(OTHER), Item(OTHER)], 4) == [GREEDY]


def test_a_client_of_50_streams_delays_another_by_one_answer() -> None:
    queue, running = filled(8, *[GREEDY] * 50), list[Item]()
    assert taken(queue, running, 8) == [GREEDY] * 8, "alone, it may have all"
    queue.add(Item(OTHER))
    running.pop()
    assert taken(queue, running, 8) == [OTHER]


def test_once_another_was_served_its_next_question_finds_a_free_slot() -> None:
    queue, running = filled(8, *[GREEDY] * 500, OTHER), list[Item]()
    assert taken(queue, running, 8).count(GREEDY) == 6
    for _ in range(100):  # answers of the greedy one end, and those of the other have ended
        running = [item for item in running if item.client == GREEDY][1:]
        taken(queue, running, 8)
        assert [item.client for item in running] == [GREEDY] * 6
    queue.add(Item(OTHER))
    assert taken(queue, running, 8) == [OTHER]


def test_a_client_that_is_alone_for_long_has_all_slots_again() -> None:
    queue, running = filled(8, *[GREEDY] * (10 + LATELY * 8), OTHER), list[Item]()
    taken(queue, running, 8)
    widths = []
    for _ in range(LATELY * 8):
        running = [item for item in running if item.client == GREEDY][1:]
        taken(queue, running, 8)
        widths.append(len(running))
    assert set(widths[:500]) == {6} and widths[-1] == 8


def test_who_is_not_told_apart_is_bounded_by_nothing_but_the_slots() -> None:
    queue = filled(4, UNNAMED, OTHER, *[UNNAMED] * 4)
    running: list[Item] = []
    assert taken(queue, running, 4).count(UNNAMED) == 3
    running = [item for item in running if item.client == UNNAMED]
    assert taken(queue, running, 4) == [UNNAMED]
    assert taken(filled(4, *[OTHER] * 4), [], 4) == [OTHER] * 4


@pytest.mark.parametrize("slots", range(1, 9))
def test_a_share_is_at_least_one_slot(slots: int) -> None:
    queue = filled(slots, OTHER, *[GREEDY] * 20)
    running = [queue.take([])]
    assert running[0] is not None and running[0].client == OTHER
    got = taken(queue, [], slots)
    assert 1 <= len(got) <= max(1, slots - 1)


def test_what_does_not_wait_cannot_be_removed() -> None:
    queue = filled(2, OTHER)
    for item in (Item(OTHER), Item(GREEDY)):
        with pytest.raises(ValueError):
            queue.remove(item)
    queue.remove(next(iter(queue)))
    assert len(queue) == 0 and queue.take([]) is None


@given(
    slots=st.integers(1, 6),
    moves=st.lists(st.tuples(st.sampled_from("aert"), st.sampled_from([b"a", b"b", b"c", b""]))),
)
def test_nothing_is_lost_and_nobody_waits_for_ever(
    slots: int, moves: list[tuple[str, bytes]]
) -> None:
    queue, running, waiting = FairQueue[Item](slots), list[Item](), list[Item]()
    for move, client in moves:
        if move == "a":
            waiting.append(Item(client))
            queue.add(waiting[-1])
        elif move == "e" and running:
            running.pop(0)
        elif move == "r" and waiting:
            queue.remove(waiting.pop())
        elif len(running) < slots and (item := queue.take(running)):
            waiting.remove(item)
            running.append(item)
        assert sorted(map(id, queue)) == sorted(map(id, waiting))
    while waiting:  # as long as answers end, everybody is served
        running = running[1:]
        item = queue.take(running)
        assert item is not None
        waiting.remove(item)
        running.append(item)


# Places


def arriving(places: int, *clients: bytes) -> list[Item]:
    """Who waits, where so many may, after all of them have come."""
    waiting: list[Item] = []
    for client in clients:
        if len(waiting) == places:
            try:
                waiting.remove(to_displace(waiting, client))
            except QueueFull:
                continue
        waiting.append(Item(client))
    return waiting


def counted(waiting: list[Item]) -> dict[bytes, int]:
    return dict(Counter(item.client for item in waiting))


def test_a_client_that_is_alone_has_every_place() -> None:
    assert counted(arriving(64, *[GREEDY] * 100)) == {GREEDY: 64}


def test_a_client_over_its_share_is_refused_and_another_is_not() -> None:
    waiting = arriving(64, *[GREEDY] * 100, OTHER)
    assert counted(waiting) == {GREEDY: 63, OTHER: 1}
    with pytest.raises(QueueFull, match="expected a free place"):
        to_displace(waiting, GREEDY)


def test_the_last_that_came_makes_room() -> None:
    waiting = [Item(GREEDY), Item(OTHER), Item(GREEDY), Item(GREEDY), Item(OTHER)]
    assert to_displace(waiting, THIRD) is waiting[3]


def test_places_are_shared_alike_and_then_nobody_is_displaced() -> None:
    waiting = arriving(64, *[GREEDY] * 100, *[OTHER] * 100, *[GREEDY] * 100)
    assert counted(waiting) == {GREEDY: 32, OTHER: 32}
    names = [bytes([number]) for number in range(100)]
    assert set(counted(arriving(64, *[GREEDY] * 100, *names)).values()) == {1}


def test_where_nobody_waits_nobody_makes_room() -> None:
    with pytest.raises(QueueFull):
        to_displace(list[Item](), OTHER)


# Names


def test_fifty_salts_are_one_client() -> None:
    """Who changes its name with each request has the share of one, and takes from newcomers
    alone."""
    names = Names()
    names.finished(OTHER)
    clients = [names.client(b"salt %d" % number) for number in range(50)]
    assert clients == [NEWCOMERS] * 50
    queue = filled(8, *clients, *[names.client(OTHER)] * 3)
    assert taken(queue, [], 8).count(OTHER) == 3


def test_a_name_is_known_once_an_answer_was_finished_for_it() -> None:
    names = Names()
    assert names.client(OTHER) == NEWCOMERS
    names.finished(OTHER)
    assert names.client(OTHER) == OTHER
    names.finished(UNNAMED)
    assert names.client(UNNAMED) == UNNAMED


def test_few_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MOST_KNOWN", 2)
    names = Names()
    for name in (GREEDY, OTHER, GREEDY, THIRD):
        names.finished(name)
    assert [names.client(name) for name in (GREEDY, OTHER, THIRD)] == [GREEDY, NEWCOMERS, THIRD]
