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
)

GREEDY, OTHER, THIRD = b"greedy", b"other", b"third"


@dataclass(eq=False)
class Item:
    name: bytes


def known(*names: bytes) -> Names:
    """Those of this module and these: an answer was finished for each."""
    found = Names()
    for name in (GREEDY, OTHER, THIRD, *names):
        found.finished(name)
    return found


def filled(slots: int, *clients: bytes) -> FairQueue[Item]:
    queue = FairQueue[Item](slots, known())
    for client in clients:
        queue.add(Item(client))
    return queue


def taken(queue: FairQueue[Item], running: list[Item], slots: int) -> list[bytes]:
    """Fills the free slots; the clients that got them."""
    got = []
    while len(running) < slots and (item := queue.take(running)):
        running.append(item)
        got.append(item.name)
    return got


# Slots


def test_clients_take_turns_whatever_came_first() -> None:
    queue = filled(4, *[GREEDY] * 5, OTHER, OTHER, THIRD, THIRD)
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
        running = [item for item in running if item.name == GREEDY][1:]
        taken(queue, running, 8)
        assert [item.name for item in running] == [GREEDY] * 7
    queue.add(Item(OTHER))
    assert taken(queue, running, 8) == [OTHER]


def test_a_client_that_is_alone_for_long_has_all_slots_again() -> None:
    queue, running = filled(8, *[GREEDY] * (10 + LATELY * 8), OTHER), list[Item]()
    taken(queue, running, 8)
    widths = []
    for _ in range(LATELY * 8):
        running = [item for item in running if item.name == GREEDY][1:]
        taken(queue, running, 8)
        widths.append(len(running))
    assert set(widths[:500]) == {7} and widths[-1] == 8


def test_a_client_that_is_alone_has_all_slots_although_it_first_asked_for_one() -> None:
    queue = filled(8, GREEDY)
    for _ in range(3):
        assert taken(queue, [], 8) == [GREEDY]
        queue.add(Item(GREEDY))
    for _ in range(9):
        queue.add(Item(GREEDY))
    assert len(taken(queue, [], 8)) == 8


def test_who_is_not_told_apart_is_bounded_by_nothing_but_the_slots() -> None:
    queue = filled(4, UNNAMED, OTHER, *[UNNAMED] * 4)
    running: list[Item] = []
    assert taken(queue, running, 4).count(UNNAMED) == 3
    running = [item for item in running if item.name == UNNAMED]
    assert taken(queue, running, 4) == [UNNAMED]
    assert taken(filled(4, *[OTHER] * 4), [], 4) == [OTHER] * 4


@pytest.mark.parametrize("slots", range(1, 9))
def test_a_share_is_at_least_one_slot(slots: int) -> None:
    queue = filled(slots, OTHER, *[GREEDY] * 20)
    running = [queue.take([])]
    assert running[0] is not None and running[0].name == OTHER
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
    names = Names()
    queue, running, waiting = FairQueue[Item](slots, names), list[Item](), list[Item]()
    for move, client in moves:
        if move == "a":
            waiting.append(Item(client))
            queue.add(waiting[-1])
        elif move == "e" and running:
            names.finished(running.pop(0).name)
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


# Names that become known


def test_what_waits_under_a_new_name_is_its_clients_once_that_is_known() -> None:
    """Else a client of 50 streams held slots as itself and as a newcomer, so all of them."""
    names = Names()
    names.finished(OTHER)
    queue, running = FairQueue[Item](8, names), list[Item]()
    for name in (*[GREEDY] * 50, OTHER):
        queue.add(Item(name))
    assert taken(queue, running, 8).count(OTHER) == 1
    running = [item for item in running if item.name == GREEDY][1:]
    names.finished(GREEDY)
    for _ in range(8):
        queue.add(Item(GREEDY))
    taken(queue, running, 8)
    assert [item.name for item in running] == [GREEDY] * 7
    queue.add(Item(THIRD))
    assert taken(queue, running, 8) == [THIRD], "newcomers are others than it"


def test_renamed_requests_keep_their_order() -> None:
    names = Names()
    queue = FairQueue[Item](1, names)
    items = [Item(name) for name in (GREEDY, OTHER, GREEDY, OTHER, THIRD)]
    for item in items:
        queue.add(item)
    names.finished(OTHER)
    names.finished(GREEDY)
    later = Item(GREEDY)
    queue.add(later)
    first, second, third, fourth, fifth = items
    order = [first, second, fifth, third, fourth, later]
    assert [queue.take([]) for _ in range(6)] == order
    assert len(queue) == 0


def test_a_renamed_request_can_be_removed() -> None:
    names = Names()
    queue, items = FairQueue[Item](1, names), [Item(GREEDY), Item(GREEDY), Item(OTHER)]
    for item in items:
        queue.add(item)
    names.finished(GREEDY)
    queue.remove(items[0])
    assert list(queue) == items[1:]
    assert queue.take([]) is items[1]
    queue.remove(items[2])
    assert not len(queue)


def test_a_name_that_is_new_again_waits_with_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MOST_KNOWN", 1)
    names = Names()
    names.finished(OTHER)
    queue = FairQueue[Item](1, names)
    for name in (THIRD, OTHER, OTHER):
        queue.add(Item(name))
    names.finished(GREEDY)
    running = [Item(THIRD)]
    queue.add(Item(GREEDY))
    assert taken(queue, running, 2) == [GREEDY], "the others hold a slot already"


# Places


def arriving(places: int, *clients: bytes) -> list[Item]:
    """Who waits, where so many may, after all of them have come."""
    waiting: list[Item] = []
    for client in clients:
        if len(waiting) == places:
            try:
                waiting.remove(known(*clients).to_displace(waiting, client))
            except QueueFull:
                continue
        waiting.append(Item(client))
    return waiting


def counted(waiting: list[Item]) -> dict[bytes, int]:
    return dict(Counter(item.name for item in waiting))


def test_a_client_that_is_alone_has_every_place() -> None:
    assert counted(arriving(64, *[GREEDY] * 100)) == {GREEDY: 64}


def test_a_client_over_its_share_is_refused_and_another_is_not() -> None:
    waiting = arriving(64, *[GREEDY] * 100, OTHER)
    assert counted(waiting) == {GREEDY: 63, OTHER: 1}
    with pytest.raises(QueueFull, match="expected a free place"):
        known().to_displace(waiting, GREEDY)


def test_the_last_that_came_makes_room() -> None:
    waiting = [Item(GREEDY), Item(OTHER), Item(GREEDY), Item(GREEDY), Item(OTHER)]
    assert known().to_displace(waiting, THIRD) is waiting[3]


def test_places_are_shared_alike_and_then_nobody_is_displaced() -> None:
    waiting = arriving(64, *[GREEDY] * 100, *[OTHER] * 100, *[GREEDY] * 100)
    assert counted(waiting) == {GREEDY: 32, OTHER: 32}
    names = [bytes([number]) for number in range(100)]
    assert set(counted(arriving(64, *[GREEDY] * 100, *names)).values()) == {1}


def test_who_is_known_meanwhile_waits_with_its_own_number() -> None:
    names, waiting = Names(), [Item(GREEDY), Item(GREEDY), Item(OTHER)]
    with pytest.raises(QueueFull):
        names.to_displace(waiting, THIRD)  # all of them are newcomers
    names.finished(GREEDY)
    with pytest.raises(QueueFull):
        names.to_displace(waiting, THIRD)
    names.finished(THIRD)
    assert names.to_displace(waiting, THIRD) is waiting[1]


def test_where_nobody_waits_nobody_makes_room() -> None:
    with pytest.raises(QueueFull):
        known().to_displace(list[Item](), OTHER)


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
