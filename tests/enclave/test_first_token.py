"""How many steps a client waits for its first token, alone and beside 50 streams of another one.

A step gives each running answer one token, as the engine's does; no clock is involved. The light
client asks one short question after the other. What its share is worth is measured in steps,
because a step beside others takes longer than one alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from enclave.guest.engines.fair_queue import LATELY, FairQueue, Names

SLOTS, STREAMS, QUESTIONS = 8, 50, 40
SHORT, PAUSE = 8, 5
"""Tokens of an answer to the light client, and steps until it asks again."""

Naming = Callable[[int, int], bytes]
"""The name of a stream's request, by the numbers of both."""


@dataclass(eq=False)
class Asked:
    name: bytes
    tokens: int
    came: int
    stream: int | None = None
    written: int = 0
    waited: int = 0


class Steps:
    """The engine's queue and slots, without a model."""

    def __init__(self) -> None:
        self.names, self.now = Names(), 0
        self.queue = FairQueue[Asked](SLOTS, self.names)
        self.running: list[Asked] = []
        self.busy: list[int] = []
        """Slots that gave a token, of each step."""

    def ask(self, name: bytes, tokens: int, stream: int | None = None) -> Asked:
        asked = Asked(name, tokens, self.now, stream)
        self.queue.add(asked)
        return asked

    def step(self) -> list[Asked]:
        """Those that ended."""
        self.now += 1
        while len(self.running) < SLOTS and (one := self.queue.take(self.running)):
            one.waited = self.now - one.came
            self.running.append(one)
        self.busy.append(len(self.running))
        for one in self.running:
            one.written += 1
        ended = [one for one in self.running if one.written == one.tokens]
        self.running = [one for one in self.running if one.written < one.tokens]
        for one in ended:
            self.names.finished(one.name)
        return ended


class Load:
    """`streams` ask again whenever they were answered. Answers have `tokens`, or 20 to 160."""

    def __init__(self, naming: Naming, *, streams: int = STREAMS, tokens: int = 0) -> None:
        self.steps, self._naming, self._tokens = Steps(), naming, tokens
        self._count, self._chance = 0, random.Random(7)
        for stream in range(streams):
            self._ask(stream)

    def _ask(self, stream: int) -> None:
        self._count += 1
        tokens = self._tokens or self._chance.randint(20, 160)
        self.steps.ask(self._naming(stream, self._count), tokens, stream)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for one in self.steps.step():
                if one.stream is not None:
                    self._ask(one.stream)

    def question(self, name: bytes) -> int:
        """Steps until its first token, once it was answered."""
        asked = self.steps.ask(name, SHORT)
        while asked.written < SHORT:
            self.step()
        self.step(PAUSE)
        return asked.waited


def waits(load: Load, light: Callable[[int], bytes]) -> tuple[int, int, int]:
    """Median, 90th percentile and the first of the steps that `light` waits."""
    found = [load.question(light(number)) for number in range(QUESTIONS)]
    ordered = sorted(found)
    return ordered[QUESTIONS // 2], ordered[QUESTIONS * 9 // 10], found[0]


def named(_: int) -> bytes:
    return b"light"


def unnamed(number: int) -> bytes:
    """Without a session each question has a name of its own."""
    return b"light %d" % number


def one_name(stream: int, count: int) -> bytes:
    return b"greedy"


def fresh_names(stream: int, count: int) -> bytes:
    return b"salt %d" % count


def names_used_twice(stream: int, count: int) -> bytes:
    return b"salt %d" % (count // 2)


def with_and_without(stream: int, count: int) -> bytes:
    return b"greedy" if stream % 2 else b"salt %d" % count


def six_names(stream: int, count: int) -> bytes:
    return b"greedy %d" % (stream % 6)


def known(load: Load) -> Load:
    """The light client was answered before; the other one comes after that."""
    load.steps.names.finished(named(0))
    return load


NAMINGS = [one_name, fresh_names, names_used_twice, with_and_without, six_names]


def test_alone_it_waits_one_step() -> None:
    assert waits(Load(one_name, streams=0), named) == (1, 1, 1)


@pytest.mark.parametrize(
    "tokens", [0, 96], ids=["answers of many lengths", "answers of one length"]
)
@pytest.mark.parametrize("before", [0, 4000], ids=["from the start", "after a while"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_beside_50_streams_it_waits_at_most_three_times_as_long(
    naming: Naming, before: int, tokens: int
) -> None:
    load = known(Load(naming, tokens=tokens))
    load.step(before)
    median, most, _ = waits(load, named)
    assert median <= most <= 3


@pytest.mark.parametrize("naming", [one_name, six_names])
def test_so_does_one_without_a_session_beside_one_that_has_some(naming: Naming) -> None:
    for before in (0, 4000):
        load = Load(naming)
        load.step(before)
        median, most, _ = waits(load, unnamed)
        assert median <= most <= 3


def test_a_first_question_waits_for_the_end_of_one_answer() -> None:
    """Whoever was alone for long has all slots."""
    load = known(Load(one_name, tokens=96))
    load.step(1000)
    assert load.steps.busy[-1] == SLOTS
    median, most, first = waits(load, named)
    assert median == most == 1 < first <= 96


def test_who_is_not_told_apart_waits_a_turn_of_all() -> None:
    """What nobody can have without a name: both clients are one to the queue (LIMITATIONS)."""
    median, _, _ = waits(Load(fresh_names, tokens=96), unnamed)
    assert median >= (STREAMS - SLOTS) * 96 // SLOTS


def test_as_many_names_as_slots_are_as_many_clients() -> None:
    """Until payment tells them apart (LIMITATIONS); each has its turn."""
    load = known(Load(lambda stream, count: b"greedy %d" % stream, tokens=96))
    load.step(4000)
    _, most, _ = waits(load, named)
    assert 3 < most <= (STREAMS + 1) * 96 // SLOTS


def test_two_busy_clients_use_all_slots() -> None:
    load = known(Load(lambda stream, count: b"greedy %d" % (stream % 2)))
    load.step(2000)
    assert set(load.steps.busy) == {SLOTS}
    load.question(named(0))
    load.step(100)
    assert load.steps.busy[-1] == SLOTS - 1, "one is kept for the next question"
    load.step(LATELY * 160)
    assert load.steps.busy[-1] == SLOTS
