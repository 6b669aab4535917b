"""Step "registry": every refusal by name, each way to fill in [registry], and one block."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from attestation.errors import NotChecked, Refused, VerificationError
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Release
from attestation.trust.registry import GUEST, MODEL, Entry, RegistrySnapshot, Unread
from attestation.verify.reading import check_reading
from attestation.verify.verifier import Presented, Verifier
from tests.helpers.registries import entry, rules, snapshot
from tests.helpers.world import NOW, World

BLOCK = 9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def logged(world: World) -> tuple[Presented, Anchor]:
    return world.logged(world.presented())


def both(world: World, kind: int = GUEST, **release: int) -> tuple[Entry, ...]:
    """What the machine runs, both allowed; `release` changes the entry of its release."""
    measurement = measured(world)
    return entry(kind, measurement, **release), entry(MODEL, world.bundle.model_digest)


def measured(world: World) -> bytes:
    (digest,) = world.policy.releases[0].shapes["simulated"]
    return digest


def verify(
    world: World,
    logged: tuple[Presented, Anchor],
    registry: RegistrySnapshot | None,
    *,
    source: str = "both",
    seqno: int = BLOCK,
    now: int = NOW,
    **changes: Any,
) -> Any:
    presented, anchor = logged
    policy = dataclasses.replace(world.policy, registry=rules(source), **changes)
    anchor = dataclasses.replace(anchor, seqno=seqno, registry=registry)
    return Verifier(policy).verify(presented, anchor=anchor, beacon=world.beacon, now=now)


def refusal(world: World, logged: tuple[Presented, Anchor], *args: Any, **options: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(world, logged, *args, **options)
    report = caught.value.report
    assert report is not None
    failed = [step for step in report.steps if step.status == "failed"]
    assert [step.name for step in failed] in (["registry"], [])
    return f"{caught.value.step}/{caught.value.code}"


@pytest.mark.parametrize("source", ["file", "registry", "both"])
def test_what_the_registry_allows_is_verified(
    world: World, logged: tuple[Presented, Anchor], source: str
) -> None:
    changes = slots(world) if source == "registry" else {}
    found = verify(world, logged, snapshot(both(world)), source=source, **changes)
    step = next(step for step in found.report.steps if step.name == "registry")
    assert step.status == "passed" and "nothing revoked" in step.detail
    shape = "shape 3" if source == "registry" else "simulated"
    assert (found.report.named.shape, found.model_name) == (shape, "demo")


def slots(world: World) -> dict[str, Any]:
    release = dataclasses.replace(world.policy.releases[0], shapes={})
    return {"releases": (release,), "models": (("demo", None),)}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "pending": ({"active": NOW}, "registry/pending"),
    "revoked": ({"revoked": NOW - 10}, "registry/revoked"),
    "unlisted": ({"kind": MODEL}, "registry/unlisted"),
}


@pytest.mark.parametrize(("change", "code"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("source", ["file", "registry", "both"])
def test_a_release_that_is_not_in_force(
    world: World, logged: tuple[Presented, Anchor], change: dict[str, Any], code: str, source: str
) -> None:
    registry = snapshot(both(world, **change))
    changes = slots(world) if source == "registry" else {}
    if source == "file" and code != "registry/revoked":
        assert verify(world, logged, registry, source=source)
    else:
        assert refusal(world, logged, registry, source=source, **changes) == code


def test_a_model_that_is_revoked_or_not_listed(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    release, model = both(world)
    gone = dataclasses.replace(model, revoked_at=NOW - 20, reason=2)
    assert refusal(world, logged, snapshot((release, gone)), source="file") == "registry/revoked"
    assert refusal(world, logged, snapshot((release,))) == "registry/unlisted"


@pytest.mark.parametrize("kind", [GUEST, MODEL])
@pytest.mark.parametrize(("releases", "models"), [("both", "file"), ("file", "both")])
def test_releases_and_models_have_each_their_own_source(
    world: World, logged: tuple[Presented, Anchor], kind: int, releases: str, models: str
) -> None:
    """The Registry lists one of both, which has to be the one that it is asked for."""
    listed = snapshot(tuple(item for item in both(world) if item.kind == kind))
    code = "" if (kind == GUEST) == (releases == "both") else "unlisted"
    demanded = dataclasses.replace(rules("file"), releases=releases, models=models)
    policy = dataclasses.replace(world.policy, registry=demanded)
    anchor = dataclasses.replace(logged[1], seqno=BLOCK, registry=listed)
    step = (
        Verifier(policy).examine(logged[0], anchor=anchor, beacon=world.beacon, now=NOW).steps[10]
    )
    assert (step.name, step.status == "passed") == ("registry", not code)
    assert step.code == code


def test_an_entry_counts_from_its_first_second_to_the_one_before_its_revocation() -> None:
    item = entry(GUEST, bytes(32), active=100, revoked=200)
    allowed = [moment for moment in (0, 99, 100, 101, 199, 200, 201) if item.allowed_at(moment)]
    assert allowed == [100, 101, 199]
    assert [moment for moment in (0, 199, 200, 201) if item.revoked_by(moment)] == [200, 201]
    never = dataclasses.replace(item, revoked_at=0)
    assert never.allowed_at(2**40) and not never.revoked_by(2**40)


def test_a_reading_counts_to_the_last_second_of_its_age(world: World) -> None:
    policy = dataclasses.replace(world.policy, max_anchor_age_s=600)
    about: dict[str, Any] = {"level": "reported", "policy": policy, "now": NOW}
    for read_at in (NOW - 600, NOW, NOW + 60):
        check_reading("registry", "registry", read_at=read_at, **about)
    for read_at, code in ((NOW - 601, "registry-too-old"), (NOW + 61, "registry-in-future")):
        with pytest.raises(Refused, match=code):
            check_reading("registry", "registry", read_at=read_at, **about)


def test_a_release_that_another_entry_allows_is_not_revoked(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    gone = entry(GUEST, measured(world), revoked=NOW - 20)
    assert verify(world, logged, snapshot((gone, *both(world))))


def test_a_registry_that_nobody_read_is_not_checked(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    with pytest.raises(NotChecked) as caught:
        verify(world, logged, None)
    assert (caught.value.step, caught.value.code) == ("registry", "not-checked")
    assert caught.value.exit_code == 6
    policy = dataclasses.replace(world.policy, registry=rules("file"))
    report = Verifier(policy).examine(logged[0], anchor=None, beacon=world.beacon, now=NOW)
    assert [s.name for s in report.steps if s.status == "not checked"] == [
        "registry",
        "log",
        "mint",
    ]


def test_a_registry_that_was_not_read_says_why(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    policy = dataclasses.replace(world.policy, registry=rules("file"))
    for unread, why in ((None, "nobody read it"), (Unread("the endpoint is silent"), "is silent")):
        anchor = dataclasses.replace(logged[1], seqno=BLOCK, registry=unread)
        with pytest.raises(NotChecked, match=why):
            Verifier(policy).verify(logged[0], anchor=anchor, beacon=world.beacon, now=NOW)


def test_what_was_not_measured_is_not_judged(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    policy = dataclasses.replace(world.policy, registry=rules("file"), releases=())
    anchor = dataclasses.replace(logged[1], seqno=BLOCK, registry=snapshot(both(world)))
    report = Verifier(policy).examine(logged[0], anchor=anchor, beacon=world.beacon, now=NOW)
    assert report.failed == ("measurement",)
    assert {s.name for s in report.steps if s.status == "not checked"} >= {"registry"}
    policy = dataclasses.replace(world.policy, registry=rules("file"), models=())
    report = Verifier(policy).examine(logged[0], anchor=anchor, beacon=world.beacon, now=NOW)
    assert report.failed == ("model",)
    assert {s.name for s in report.steps if s.status == "not checked"} >= {"registry"}


SNAPSHOTS: dict[str, tuple[dict[str, Any], str]] = {
    "another contract": ({"address": "0:" + "ee" * 32}, "registry/other-contract"),
    "other code": ({"code_hash": bytes(32)}, "registry/other-code-hash"),
    "a later block": ({"seqno": BLOCK + 1}, "registry/other-block"),
    "another moment": ({"read_at": NOW - 11}, "registry/other-block"),
    "handed over": ({"level": "claimed"}, "registry/registry-level"),
    "too old": ({"read_at": NOW - 601}, "registry/registry-too-old"),
    "in future": ({"read_at": NOW + 61}, "registry/registry-in-future"),
}


@pytest.mark.parametrize(("change", "code"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_snapshot_that_is_not_the_pinned_contract_now(
    world: World, logged: tuple[Presented, Anchor], change: dict[str, Any], code: str
) -> None:
    registry = dataclasses.replace(snapshot(both(world)), **change)
    assert refusal(world, logged, registry) == code


def test_a_block_that_is_not_known_is_no_common_block(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    registry = dataclasses.replace(snapshot(both(world)), seqno=0)
    assert refusal(world, logged, registry, seqno=0) == "registry/other-block"


def test_a_slot_takes_launch_ids_and_configs_from_the_file(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    release: Release = dataclasses.replace(
        slots(world)["releases"][0], engine_configs=frozenset({bytes(32)})
    )
    with pytest.raises(Refused) as caught:
        verify(
            world,
            logged,
            snapshot(both(world)),
            source="registry",
            releases=(release,),
            models=(("demo", None),),
        )
    assert (caught.value.step, caught.value.code) == ("engine", "unknown-config")


def test_a_log_admits_what_its_registry_allows(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    policy = dataclasses.replace(world.policy, registry=rules("both"))
    verifier, presented = Verifier(policy), logged[0]
    about: dict[str, Any] = {"beacon": world.beacon, "now": NOW, "kind": 1}
    places: dict[str, Any] = {"release": 0, "previous": None}
    assert verifier.admit(presented, **about, **places, registry=snapshot(both(world))).kind == 1
    with pytest.raises(NotChecked):
        verifier.admit(presented, **about, **places)
    with pytest.raises(Refused) as caught:
        verifier.admit(presented, **about, **places, registry=snapshot(()))
    assert caught.value.code == "unlisted"


def test_a_revocation_counts_once_it_is_read_and_the_verdict_ends_with_the_reading(
    world: World, logged: tuple[Presented, Anchor]
) -> None:
    policy = dataclasses.replace(world.policy, registry=rules("file"), max_anchor_age_s=100)
    verifier, (presented, anchor) = Verifier(policy), logged
    before = dataclasses.replace(anchor, seqno=BLOCK, registry=snapshot(both(world)))
    after = dataclasses.replace(before, registry=snapshot(both(world, revoked=NOW - 10)))
    found = verifier.verify(presented, anchor=before, beacon=world.beacon, now=NOW)
    assert found.valid_until == before.read_at + 100
    with pytest.raises(Refused, match="revoked"):  # another question than the remembered one
        verifier.verify(presented, anchor=after, beacon=world.beacon, now=NOW)
