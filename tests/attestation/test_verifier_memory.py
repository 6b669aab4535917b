"""What a verifier remembers: the same question only, and only while it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from attestation.errors import VerificationError
from attestation.trust.anchor import Anchor
from attestation.verify import verifier as plan
from attestation.verify.memory import VerificationMemory
from attestation.verify.verdict import VerifiedEnclave
from attestation.verify.verifier import Presented, Verifier
from tests.helpers.world import NOW, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def asked(world: World) -> tuple[Presented, Anchor]:
    return world.logged(world.presented())


def verify(
    world: World, verifier: Verifier, presented: Presented, anchor: Anchor, now: int = NOW
) -> Any:
    return verifier.verify(presented, anchor=anchor, beacon=world.beacon, now=now)


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the plan is run."""
    runs: list[int] = []
    original = plan._run

    def counted(*arguments: Any, **options: Any) -> Any:
        runs.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(plan, "_run", counted)
    return runs


def test_the_same_question_is_worked_out_once(
    world: World, asked: tuple[Presented, Anchor], worked: list[int]
) -> None:
    verifier = Verifier(world.policy)
    first = verify(world, verifier, *asked)
    assert verify(world, verifier, *asked, now=NOW + 1) is first
    assert len(worked) == 1


def test_another_verifier_remembers_nothing_of_it(
    world: World, asked: tuple[Presented, Anchor], worked: list[int]
) -> None:
    for remember in (64, 0, 0):
        verify(world, Verifier(world.policy, remember=remember), *asked)
    forgetful = Verifier(world.policy, remember=0)
    verify(world, forgetful, *asked)
    verify(world, forgetful, *asked)
    assert len(worked) == 5


def test_an_earlier_time_is_worked_out_again(
    world: World, asked: tuple[Presented, Anchor], worked: list[int]
) -> None:
    verifier = Verifier(world.policy)
    verify(world, verifier, *asked, now=NOW + 5)
    verify(world, verifier, *asked, now=NOW)
    assert len(worked) == 2


CHANGES: dict[str, Callable[[Presented], Presented]] = {
    name: lambda given, name=name: dataclasses.replace(given, **{name: getattr(given, name) + b" "})
    for name in ("evidence", "engine_config", "price_table", "host_config", "proof")
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_byte_is_another_question(
    world: World, asked: tuple[Presented, Anchor], change: Callable[[Presented], Presented]
) -> None:
    verifier = Verifier(world.policy)
    verify(world, verifier, *asked)
    with pytest.raises(VerificationError):
        verify(world, verifier, change(asked[0]), asked[1])


@pytest.mark.parametrize("field", ["root", "size", "read_at", "code_hash", "forked"])
def test_another_anchor_is_another_question(
    world: World, asked: tuple[Presented, Anchor], field: str
) -> None:
    verifier = Verifier(world.policy)
    verify(world, verifier, *asked)
    others = {"root": b"\1" * 32, "size": 4, "read_at": NOW - 9999, "code_hash": b"\1" * 32}
    other = dataclasses.replace(asked[1], **{field: others.get(field, True)})
    with pytest.raises(VerificationError):
        verify(world, verifier, asked[0], other)


def test_collateral_cannot_change_under_a_remembered_answer(world: World) -> None:
    with pytest.raises(TypeError):
        world.collateral.parts["intel/root_crl"] = b""  # type: ignore[index]


POLICIES: dict[str, dict[str, int]] = {
    "anchor": {"max_anchor_age_s": 300},
    "beacon": {"max_beacon_age_s": 300, "max_anchor_age_s": 10**6},
    "collateral": {"max_collateral_age_s": 50_000, "max_anchor_age_s": 10**6},
    "bundle": {"max_beacon_age_s": 10**6, "max_anchor_age_s": 10**6},
}


@pytest.mark.parametrize("ages", POLICIES.values(), ids=POLICIES)
def test_valid_until_is_the_last_moment(
    world: World, asked: tuple[Presented, Anchor], ages: dict[str, int]
) -> None:
    """Whatever ends first: just before it every step passes, just after it one refuses."""
    policy = dataclasses.replace(world.policy, **ages)
    end = verify(world, Verifier(policy), *asked).valid_until
    verify(world, Verifier(policy), *asked, now=end - 1)
    with pytest.raises(VerificationError):
        verify(world, Verifier(policy), *asked, now=end + 1)


ENDS_AT_100 = cast(VerifiedEnclave, SimpleNamespace(valid_until=100))


def test_an_enclave_is_recalled_from_its_first_second_to_its_last() -> None:
    memory = VerificationMemory(1)
    memory.keep(b"asked", 50, ENDS_AT_100)
    found = [memory.recall(b"asked", now) is ENDS_AT_100 for now in (49, 50, 99, 100, 101)]
    assert found == [False, True, True, False, False]


@pytest.mark.parametrize("again", ["recall", "keep"])
def test_what_was_asked_for_last_is_forgotten_last(again: str) -> None:
    memory = VerificationMemory(2)
    for asked in (b"first", b"second"):
        memory.keep(asked, 50, ENDS_AT_100)
    if again == "recall":
        memory.recall(b"first", 60)
    else:
        memory.keep(b"first", 60, ENDS_AT_100)
    memory.keep(b"third", 60, ENDS_AT_100)
    kept = [memory.recall(asked, 60) is not None for asked in (b"first", b"second", b"third")]
    assert kept == [True, False, True]
