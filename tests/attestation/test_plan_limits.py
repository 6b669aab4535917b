"""Each step of the plan at its very limits, and each of its checks alone.

Every row changes one thing of a case whose earlier steps have passed, and names the reason for
which the step must refuse it; None where it must not.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from attestation.errors import NotChecked, ParseError, Refused, UmayError, VerificationError
from attestation.formats.digests import engine_digest, host_config_digest
from attestation.formats.evidence import SWITCH
from attestation.formats.measurement import measurement_digest
from attestation.formats.session import SessionAnswer
from attestation.trust.anchor import BlockRef
from attestation.verify import steps
from attestation.verify.case import Case, OpenedSession
from attestation.verify.session_step import SESSION_USE_S
from attestation.verify.verdict import Report
from attestation.verify.verifier import PLAN, Verifier
from attestation.wire import MAX_CONFIG_BYTES
from tests.helpers.world import NOW, SESSION_KEY, World

STEPS = dict(PLAN)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def passed(world: World) -> Case:
    """A case of which every step has passed."""
    presented, anchor = world.logged(world.presented(session=world.session(bytes(32))))
    verifier = Verifier(world.policy)
    case = verifier._case(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    for name, step in PLAN:
        step(case)
        case.passed.add(name)
    case.expiries.clear()
    return case


@pytest.fixture
def case(passed: Case) -> Case:
    """The same, to be changed."""
    fresh = copy.copy(passed)
    fresh.passed, fresh.expiries, fresh.findings = set(passed.passed), [], []
    return fresh


def policy(case: Case, **changes: Any) -> None:
    case.policy = dataclasses.replace(case.policy, **changes)


def bundle(case: Case, **changes: Any) -> None:
    case.bundle = dataclasses.replace(case.bundle, **changes)


def anchor(case: Case, **changes: Any) -> None:
    assert case.anchor is not None
    case.anchor = dataclasses.replace(case.anchor, **changes)


def beacon(case: Case, **changes: Any) -> None:
    assert case.beacon is not None
    case.beacon = dataclasses.replace(case.beacon, **changes)


def beacon_at(case: Case, utime: int) -> None:
    """A beacon of that second, and keys that fit it."""
    beacon(case, utime=utime)
    bundle(case, not_before=min(utime, NOW), not_after=max(utime, NOW) + 60)


def reason(case: Case, step: str) -> str | None:
    """The code for which the step refuses; None where it passes."""
    try:
        STEPS[step](case)
    except (VerificationError, ParseError) as error:
        return error.code
    return None


def collateral_age(case: Case, spare: int) -> None:
    assert case.tcb_issued is not None
    policy(case, max_collateral_age_s=NOW - case.tcb_issued + spare)


def beacon_age(case: Case, more: int) -> None:
    most = case.policy.max_beacon_age_s
    beacon_at(case, NOW - most - more)
    bundle(case, not_before=NOW - most - more, not_after=NOW)


def anchor_age(case: Case, more: int) -> None:
    """The beacon is as old, so that it does not come after the reading."""
    at = NOW - case.policy.max_anchor_age_s - more
    beacon(case, utime=at)
    anchor(case, read_at=at)


def twice(case: Case) -> None:
    devices = case.evidence.devices * 2
    case.evidence = dataclasses.replace(case.evidence, devices=devices)
    bundle(case, gpu_count=2)
    policy(case, gpu_count=None)


def engine_text(case: Case, text: bytes) -> None:
    case.engine_bytes = text
    bundle(case, engine_digest=engine_digest(text))


def engine_config(case: Case, size: int) -> None:
    text = json.dumps({"engine": ""}).encode()
    engine_text(case, text[:-2] + b"x" * (size - len(text)) + text[-2:])


def of_release(case: Case, **listed: bool) -> None:
    digests = {
        "engine_configs": case.bundle.engine_digest,
        "host_configs": case.bundle.host_config_digest,
    }
    sets = {
        name: frozenset({digests[name] if good else bytes(32)}) for name, good in listed.items()
    }
    case.release = dataclasses.replace(case.release, **sets)  # type: ignore[arg-type]


LIMITS: dict[str, tuple[str, Callable[[Case], None], str | None]] = {
    "network id": ("parse", lambda c: policy(c, network="other"), "wrong-network"),
    "platform": (
        "cpu-attributes",
        lambda c: policy(c, platforms=frozenset({"snp"})),
        "platform-not-accepted",
    ),
    "family": (
        "cpu-attributes",
        lambda c: policy(c, families=frozenset({"x"})),
        "family-not-accepted",
    ),
    "instance": (
        "cpu-attributes",
        lambda c: policy(c, instances=frozenset({"00"})),
        "instance-not-accepted",
    ),
    "collateral of the greatest age": ("cpu-tcb", lambda c: collateral_age(c, 0), None),
    "collateral a second older": ("cpu-tcb", lambda c: collateral_age(c, -1), "collateral-too-old"),
    "host config that is measured but not bound": (
        "measurement",
        lambda c: bundle(c, host_config_digest=bytes(32)),
        "host-config-mismatch",
    ),
    "a minute ahead": ("freshness", lambda c: beacon_at(c, NOW + 60), None),
    "more than a minute ahead": ("freshness", lambda c: beacon_at(c, NOW + 61), "beacon-in-future"),
    "oldest beacon": ("freshness", lambda c: beacon_age(c, 0), None),
    "beacon a second older": ("freshness", lambda c: beacon_age(c, 1), "beacon-too-old"),
    "keys a minute before the beacon": (
        "freshness",
        lambda c: bundle(c, not_before=c.beacon.utime - 60),
        None,
    ),
    "keys more than a minute before the beacon": (
        "freshness",
        lambda c: bundle(c, not_before=c.beacon.utime - 61),
        "dated-before-beacon",
    ),
    "keys for two hours": ("freshness", lambda c: bundle(c, not_after=c.beacon.utime + 7200), None),
    "keys for a second more": (
        "freshness",
        lambda c: bundle(c, not_after=c.beacon.utime + 7201),
        "lives-too-long",
    ),
    "last second of the keys": ("freshness", lambda c: bundle(c, not_after=NOW), None),
    "a second after": ("freshness", lambda c: bundle(c, not_after=NOW - 1), "expired"),
    "keys of the next minute": ("freshness", lambda c: bundle(c, not_before=NOW + 60), None),
    "keys of a second later": (
        "freshness",
        lambda c: bundle(c, not_before=NOW + 61),
        "not-yet-valid",
    ),
    "quote of another beacon": (
        "freshness",
        lambda c: bundle(c, beacon=(100, bytes(32))),
        "wrong-report-data",
    ),
    "no device of those bound": ("gpu", lambda c: bundle(c, gpu_count=2), "wrong-count"),
    "as many GPUs as the policy wants": ("gpu", lambda c: policy(c, gpu_count=1), None),
    "more GPUs than the policy wants": ("gpu", lambda c: policy(c, gpu_count=0), "wrong-count"),
    "any number of GPUs": ("gpu", lambda c: policy(c, gpu_count=None), None),
    "architecture": (
        "gpu",
        lambda c: policy(c, gpu_architectures=frozenset({"x"})),
        "architecture-not-accepted",
    ),
    "newer driver": ("gpu", lambda c: policy(c, gpu_min_driver="999.0"), "driver-too-old"),
    "the same device twice": ("gpu", twice, "duplicate-device"),
    "longest engine config": ("engine", lambda c: engine_config(c, MAX_CONFIG_BYTES), None),
    "engine config a byte longer": (
        "engine",
        lambda c: engine_config(c, MAX_CONFIG_BYTES + 1),
        "malformed",
    ),
    "engine config that is a list": ("engine", lambda c: engine_text(c, b"[]"), "malformed"),
    "engine config that is no JSON": ("engine", lambda c: engine_text(c, b"{"), "malformed"),
    "engine config of the release": ("engine", lambda c: of_release(c, engine_configs=True), None),
    "host config of no release": (
        "engine",
        lambda c: of_release(c, host_configs=False),
        "unknown-config",
    ),
    "origin": ("log", lambda c: anchor(c, origin="other.example/log"), "other-origin"),
    "log key": ("log", lambda c: anchor(c, log_key=bytes(32)), "other-log-key"),
    "another size anchored": ("log", lambda c: anchor(c, size=2), "other-history"),
    "anchor read a minute ahead": ("log", lambda c: anchor(c, read_at=NOW + 60), None),
    "anchor read later": ("log", lambda c: anchor(c, read_at=NOW + 61), "anchor-in-future"),
    "oldest anchor": ("log", lambda c: anchor_age(c, 0), None),
    "anchor a second older": ("log", lambda c: anchor_age(c, 1), "anchor-too-old"),
    "anchor read with the beacon": ("log", lambda c: anchor(c, read_at=c.beacon.utime), None),
    "anchor read before it": (
        "log",
        lambda c: anchor(c, read_at=c.beacon.utime - 1),
        "anchor-before-beacon",
    ),
    "a second left": ("mint", lambda c: c.expiries.append(NOW + 1), None),
    "no second left": ("mint", lambda c: c.expiries.append(NOW), "expired"),
}


@pytest.mark.parametrize(("step", "change", "code"), LIMITS.values(), ids=LIMITS)
def test_a_step_at_its_limit(
    case: Case, step: str, change: Callable[[Case], None], code: str | None
) -> None:
    change(case)
    assert reason(case, step) == code


def test_a_case_that_nobody_changed_passes_every_step(case: Case) -> None:
    case.expiries.append(NOW + 1)
    assert {step: reason(case, step) for step in STEPS} == dict.fromkeys(STEPS)


# What bounds valid_until


def bounds(case: Case, step: str) -> list[int]:
    case.expiries.clear()
    STEPS[step](case)
    return sorted(case.expiries)


def test_every_expiry_bounds_how_long_an_enclave_counts(case: Case, world: World) -> None:
    assert case.anchor and case.beacon and case.tcb_issued
    checked = case.policy
    assert bounds(case, "cpu-signature") == [case.cpu.certificates_expire]
    tcb = case.cpu.check_tcb(case.collateral, checked, now=NOW)
    assert bounds(case, "cpu-tcb") == sorted(
        [tcb.expires, tcb.issued + checked.max_collateral_age_s]
    )
    fresh = [case.bundle.not_after, case.beacon.utime + checked.max_beacon_age_s]
    fresh = sorted([*fresh, NOW + SESSION_USE_S])
    assert bounds(case, "freshness") == fresh
    assert bounds(case, "log") == [case.anchor.read_at + checked.max_anchor_age_s]
    answers = bounds(case, "gpu")
    policy(case, gpu_revocation="unsafe-unchecked")
    rim_and_certificates = bounds(case, "gpu")
    assert (len(answers), len(rim_and_certificates)) == (3, 2)
    assert min(answers) < min(rim_and_certificates)


def test_an_enclave_counts_until_the_first_expiry(case: Case) -> None:
    case.expiries[:] = [NOW + 9, NOW + 5, NOW + 7]
    STEPS["mint"](case)
    assert case.valid_until == NOW + 5


# Steps that need others

BY_POLICY = ("registry", "witness")
"""Steps that a policy without these tables does not demand."""


@pytest.mark.parametrize(
    ("step", "needed"),
    [
        *((name, "parse") for name, _ in PLAN[1:-1] if name not in ("cpu-tcb", *BY_POLICY)),
        ("cpu-tcb", "cpu-signature"),
        ("cpu-tcb", "cpu-attributes"),
        ("freshness", "cpu-signature"),
        ("freshness", "cpu-attributes"),
        ("engine", "measurement"),
        ("mint", "log"),
    ],
)
def test_a_step_is_not_checked_without_those_it_builds_on(
    case: Case, step: str, needed: str
) -> None:
    case.passed.discard(needed)
    with pytest.raises(NotChecked, match=needed):
        STEPS[step](case)


@pytest.mark.parametrize(("step", "name"), [("freshness", "beacon"), ("log", "anchor")])
def test_a_step_is_not_checked_without_what_the_caller_reads(
    case: Case, step: str, name: str
) -> None:
    setattr(case, name, None)
    with pytest.raises(NotChecked, match=name):
        STEPS[step](case)


def test_an_anchor_is_judged_without_a_beacon(case: Case) -> None:
    case.beacon = None
    assert reason(case, "log") is None


# The measurement step and what the host set at launch


def launch(case: Case, **found: Any) -> None:
    """The machine as it is, but for what its host set at launch."""

    class Launched:
        def __getattr__(self, name: str) -> Any:
            return found[name] if name in found else getattr(cpu, name)

    cpu = case.cpu
    case.cpu = Launched()  # type: ignore[assignment]


OTHER_LAUNCH = b"\x0f" * 32


def named(case: Case, *, by_this: bool, by_another: bool = False) -> None:
    """Whether the machine's own release, or another one, names OTHER_LAUNCH."""
    ids = {True: frozenset({OTHER_LAUNCH}), False: frozenset[bytes]()}
    this = dataclasses.replace(case.release, launch_ids=ids[by_this])
    shapes = {"other": frozenset({bytes(32)})}
    other = dataclasses.replace(case.release, name="r9", shapes=shapes, launch_ids=ids[by_another])
    policy(case, releases=(this, other))


def test_a_launch_that_its_release_names(case: Case) -> None:
    named(case, by_this=True)
    launch(case, launch_id=OTHER_LAUNCH)
    assert reason(case, "measurement") is None


def test_a_launch_that_only_another_release_names(case: Case) -> None:
    named(case, by_this=False, by_another=True)
    launch(case, launch_id=OTHER_LAUNCH)
    assert reason(case, "measurement") == "launch-id"


def test_no_launch_where_the_release_names_one(case: Case) -> None:
    named(case, by_this=True)
    assert reason(case, "measurement") == "launch-id"
    for launch_id, told in ((None, "got none"), (OTHER_LAUNCH, f"got {OTHER_LAUNCH.hex()}")):
        named(case, by_this=launch_id is None, by_another=True)
        launch(case, launch_id=launch_id)
        with pytest.raises(Refused, match=told):
            STEPS["measurement"](case)


def test_a_launch_that_nobody_names_is_the_attributes_matter(case: Case) -> None:
    """One fault is not reported by two steps."""
    named(case, by_this=False)
    launch(case, launch_id=OTHER_LAUNCH)
    assert reason(case, "measurement") is None


# A session

NO_QUOTE = SessionAnswer(b"\2" * 1184, SESSION_KEY, (), 0, 1).to_bytes()


@pytest.mark.parametrize(("bit", "code"), [(0, "debug"), (29, "migratable")])
def test_a_session_of_a_machine_with_other_attributes(
    case: Case, world: World, bit: int, code: str
) -> None:
    attributes = bytearray(8)
    attributes[bit // 8] = 1 << bit % 8
    case.session = world.session(bytes(32), td_attributes=bytes(attributes))
    assert reason(case, "freshness") == code


def test_a_session_quoted_by_firmware_that_is_out_of_date(case: Case, world: World) -> None:
    """Of the same CPU: a renewed or an old certificate may have signed it."""
    case.session = world.session(bytes(32), tee_tcb_svn=bytes(16))
    assert reason(case, "freshness") == "no-matching-tcb"


def test_a_session_is_judged_after_the_cpu(case: Case, world: World) -> None:
    for name in ("cpu-signature", "cpu-attributes", "cpu-tcb"):
        case.passed.discard(name)
        assert reason(case, "freshness") == "not-checked"
        case.passed.add(name)
    assert reason(case, "freshness") is None


def test_a_session_quoted_under_another_root(case: Case, world: World) -> None:
    case.session = world.session(bytes(32), other_root=True)
    assert reason(case, "freshness") == "wrong-root"


@pytest.mark.parametrize("answer", [b"\2" * 1184, NO_QUOTE], ids=["no answer", "no quote"])
def test_a_session_that_is_none(case: Case, answer: bytes) -> None:
    case.session = OpenedSession(answer, bytes(32))
    assert reason(case, "freshness") == "malformed"


# The leaf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("platform", 1),
        ("bundle_digest", bytes(32)),
        ("measurement_digest", bytes(32)),
        ("beacon", (100, bytes(32))),
        ("statement", bytes(32)),
    ],
)
def test_a_leaf_of_something_else(case: Case, world: World, name: str, value: Any) -> None:
    presented, case.anchor = world.logged(world.presented(), **{name: value})
    case.proof = presented.proof
    assert reason(case, "log") == "other-leaf"


def test_a_leaf_that_says_it_is_a_retirement(case: Case, world: World) -> None:
    presented, case.anchor = world.logged(world.presented(), kind=5)
    case.proof = presented.proof
    assert reason(case, "log") == "other-leaf"


def test_a_renewal_of_an_earlier_leaf(case: Case, world: World) -> None:
    presented, case.anchor = world.logged(world.presented(), kind=2, previous=0)
    case.proof = presented.proof
    assert reason(case, "log") is None


def test_a_leaf_is_compared_though_the_measurement_was_refused(case: Case, world: World) -> None:
    case.passed.discard("measurement")
    case.measurement_digest = bytes(32)
    assert reason(case, "log") is None
    registers = case.cpu.registers
    assert case.measurement_digest == measurement_digest("tdx", registers)


@pytest.mark.parametrize(("gpus", "platform"), [(0, 1), (1, 17), (8, 17)])
def test_a_leaf_says_whether_there_are_gpus(case: Case, gpus: int, platform: int) -> None:
    bundle(case, gpu_count=gpus)
    assert case.leaf(kind=1, release=0, previous=None).platform == platform


# GPUs


def test_a_device_whose_report_cannot_be_read(case: Case) -> None:
    (gpu,) = case.evidence.devices
    cut = dataclasses.replace(gpu, report=gpu.report[:-1])
    case.evidence = dataclasses.replace(case.evidence, devices=(gpu, cut))
    bundle(case, gpu_count=2)
    policy(case, gpu_count=None)
    with pytest.raises(ParseError, match="device 2 of 2: GPU report: expected 1 more byte"):
        STEPS["gpu"](case)


def test_only_gpus_are_counted(case: Case) -> None:
    (gpu,) = case.evidence.devices
    switch = dataclasses.replace(gpu, kind=SWITCH)
    case.evidence = dataclasses.replace(case.evidence, devices=(switch,))
    assert reason(case, "gpu") == "wrong-count"


@pytest.mark.parametrize(
    ("revocation", "devices", "found"),
    [("required", 1, 0), ("unsafe-unchecked", 1, 1), ("unsafe-unchecked", 0, 0)],
)
def test_revocation_that_a_policy_leaves_unchecked_is_a_finding(
    case: Case, revocation: str, devices: int, found: int
) -> None:
    policy(case, gpu_revocation=revocation, gpu_count=None)
    case.evidence = dataclasses.replace(case.evidence, devices=case.evidence.devices[:devices])
    bundle(case, gpu_count=devices)
    assert reason(case, "gpu") is None
    assert [finding.code for finding in case.findings] == ["revocation-unchecked"] * found


def test_no_revocation_answer_is_asked_for_where_the_policy_wants_none(case: Case) -> None:
    policy(case, gpu_revocation="unsafe-unchecked")
    parts = {name: data for name, data in case.collateral.parts.items() if "/ocsp/" not in name}
    case.collateral = dataclasses.replace(case.collateral, parts=parts)
    assert reason(case, "gpu") is None


# What is said


def test_a_beacon_ahead_of_our_clock_is_not_of_a_negative_age(case: Case) -> None:
    beacon_at(case, NOW + 30)
    assert ", 0 s old" in STEPS["freshness"](case)
    beacon_at(case, NOW - 30)
    assert ", 30 s old" in STEPS["freshness"](case)


def test_a_model_that_the_registry_has_to_allow_is_told_as_such(case: Case) -> None:
    assert STEPS["model"](case).endswith("…")
    policy(case, models=(("demo", None),))
    assert STEPS["model"](case).endswith("…, if the Registry allows it")


def test_a_report_of_no_step_is_not_good() -> None:
    assert not Report(steps=(), simulated=False).ok


def test_limits_are_as_the_design_says() -> None:
    assert (steps.MAX_CLOCK_SKEW_S, steps.MAX_BUNDLE_LIFE_S) == (60, 7200)


def test_a_host_config_is_bound_by_its_bytes(case: Case) -> None:
    assert host_config_digest(case.host_bytes) == case.bundle.host_config_digest


def test_unknown_beacons_are_never_of_a_later_step(case: Case) -> None:
    case.beacon = BlockRef(100, b"\x0c" * 32, NOW - 60, "reported")
    with pytest.raises(UmayError, match="beacon block 100: expected root hash"):
        STEPS["freshness"](case)
