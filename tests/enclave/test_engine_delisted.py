"""From an engine that stops to a guest that nobody is sent to any more: within five seconds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import pytest

from enclave.guest.command import TOLD_S
from enclave.guest.engines.base import EngineFailed, until_failed
from enclave.host.registrar import QUIET_S, Registrar
from tests.contracts.test_log_server import COLLATERAL
from tests.helpers.guest_room import CHAT, Room, post, room
from tests.helpers.host_parts import CONTRACT, SmallChain, ask

FAILURE = EngineFailed("engine: it was stopped by RuntimeError")
DELISTED_S = 5.0


class Host:
    """What an agent knows of the guest in a room; its log does not answer, and no clock runs."""

    def __init__(self, guest: Room) -> None:
        self.now = 0.0
        self.registrar = Registrar(
            guest=f"http://127.0.0.1:{guest.port}",
            log="http://127.0.0.1:1/log",
            chain=SmallChain(),  # type: ignore[arg-type]
            contract=CONTRACT,
            collateral=lambda: COLLATERAL,
            clock=lambda: self.now,
        )

    def lists(self) -> bool:
        """After its next look."""
        self.now += QUIET_S
        self.registrar.step()
        return self.registrar.status.answering


@pytest.fixture
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


def test_a_guest_whose_engine_has_stopped_is_delisted_at_the_next_look(guest: Room) -> None:
    host = Host(guest)
    assert host.lists()
    guest.engine.failed = FAILURE
    assert not host.lists() and not host.lists()


def test_a_guest_whose_engine_hangs_is_delisted_although_it_answers_all_else(guest: Room) -> None:
    """As a watchdog says it: the process still runs."""
    host = Host(guest)
    assert host.lists()
    guest.engine.failed = EngineFailed("engine: one step has taken more than 120 s")
    url = f"http://127.0.0.1:{guest.port}"
    assert json.loads(ask(url, "/umay/").body) == {"boots": []}
    assert ask(url, f"/umay/{guest.boot}/evidence").status == 200
    assert not host.lists()


def test_who_asks_it_meanwhile_is_told_inside_the_seal(guest: Room) -> None:
    guest.engine.failed = guest.engine.script.refuse = FAILURE
    answer = guest.ask(post(CHAT))
    assert (answer.status, answer.error["code"]) == (503, "engine_failed")


def test_the_pauses_on_the_way_add_up_to_less_than_five_seconds() -> None:
    """A look of the agent; or, where the guest has ended before it, a look of the guest at its
    engine, the time for its clients, and a look of the agent."""
    noticed: float = inspect.signature(until_failed).parameters["every"].default
    assert noticed + TOLD_S + QUIET_S < DELISTED_S
