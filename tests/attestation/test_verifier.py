"""The whole plan: one good case, and bad cases that only the step meant for them refuses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from attestation.channel.key_config import KeyConfig
from attestation.channel.sessions import LIFE_SECONDS
from attestation.errors import ParseError, Refused, UsageError, VerificationError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import domain_digest
from attestation.formats.evidence import (
    fresh_published,
    fresh_session,
    gpu_evidence_digest,
    report_data_binding,
)
from attestation.formats.keys import bundle_digest
from attestation.formats.origin import MAX_ORIGIN_BYTES
from attestation.formats.session import SessionAnswer, session_leaf
from attestation.log.merkle import Tree, leaf_hash
from attestation.log.note import COSIGNATURE, VerifierKey
from attestation.platforms.tdx import parse_quote
from attestation.platforms.tdx.cpu import TdxCpu
from attestation.trust.policy import WitnessRules
from attestation.trust.roots import PRODUCTION
from attestation.verify.log_step import _shown, check_pinned
from attestation.verify.session_step import SESSION_USE_S
from attestation.verify.verdict import Report, VerifiedEnclave
from attestation.verify.verifier import PLAN, OpenedSession, Presented, Verifier
from tests.helpers.registries import rules, snapshot
from tests.helpers.world import HOST, NOW, SESSION_KEY, World

OTHER_KEY = KeyConfig(0, 0x20, b"\x0a" * 32).to_bytes()
Change = Callable[[World], tuple[Presented, dict[str, Any]]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def fresh(world: World, **changes: Any) -> World:
    return dataclasses.replace(world, **changes)


def test_a_genuine_machine_passes_every_step(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    verified = Verifier(world.policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    assert verified.report.ok and verified.simulated
    assert [step.name for step in verified.report.steps] == [name for name, _ in PLAN]
    assert verified.bundle == world.bundle
    assert verified.model_name == "demo" and verified.release_name == "r1"
    assert NOW < verified.valid_until <= anchor.read_at + world.policy.max_anchor_age_s


@pytest.mark.parametrize("name", ["r1", "release 2, of May; final", "two\nlines, shape"])
def test_a_report_names_what_was_found_whatever_the_names_look_like(
    world: World, name: str
) -> None:
    release = dataclasses.replace(world.policy.releases[0], name=name)
    digest = world.policy.models[0][1]
    policy = dataclasses.replace(world.policy, releases=(release,), models=((name, digest),))
    presented, anchor = world.logged(world.presented())
    report = Verifier(policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    named = report.named
    assert (named.platform, named.release, named.model) == ("tdx", name, name)
    assert named.shape == "simulated" and named.engine
    assert report.to_json()["named"] == dataclasses.asdict(named)


def test_a_report_names_nothing_that_a_step_did_not_find(world: World) -> None:
    policy = dataclasses.replace(world.policy, models=(("demo", bytes(32)),))
    report = examine(fresh(world, policy=policy), world.presented())
    assert report.named.model is None and report.named.release == "r1"
    assert measurement_changed(world).named.release is None


def test_only_the_verifier_mints(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    verified = Verifier(world.policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    fields = {f.name: getattr(verified, f.name) for f in dataclasses.fields(VerifiedEnclave)}
    with pytest.raises(TypeError):
        VerifiedEnclave(**fields, minted_by=None)
    with pytest.raises(ValueError, match="minted_by"):
        dataclasses.replace(verified, valid_until=NOW * 2)


def test_a_session_for_our_own_nonce(world: World) -> None:
    policy = dataclasses.replace(world.policy, challenge="required")
    presented, anchor = world.logged(world.presented(session=world.session(bytes(range(32)))))
    verified = Verifier(policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    assert verified.report.ok and verified.session is not None
    assert verified.session.config == SESSION_KEY
    assert verified.valid_until == verified.session.until == NOW + SESSION_USE_S
    assert SESSION_USE_S + 60 <= LIFE_SECONDS


def test_without_one_there_is_no_session_to_seal_to(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    verified = Verifier(world.policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    assert verified.session is None


def test_a_log_demands_no_session(world: World) -> None:
    policy = dataclasses.replace(world.policy, challenge="required")
    leaf = Verifier(policy).admit(
        world.presented(), beacon=world.beacon, now=NOW, kind=1, release=0, previous=None
    )
    assert leaf.kind == 1


def test_two_sessions_are_two_questions(world: World) -> None:
    verifier = Verifier(world.policy)
    for config in (SESSION_KEY, OTHER_KEY):
        given = world.presented(session=world.session(bytes(32), config))
        presented, anchor = world.logged(given)
        verified = verifier.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
        assert verified.session is not None and verified.session.config == config


def test_an_answer_that_was_accepted_is_none_to_another_nonce(world: World) -> None:
    verifier, first = Verifier(world.policy), world.session(b"\1" * 32)
    presented, anchor = world.logged(world.presented(session=first))
    verifier.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    again = dataclasses.replace(presented, session=OpenedSession(first.answer, b"\2" * 32))
    with pytest.raises(VerificationError, match="wrong-session"):
        verifier.verify(again, anchor=anchor, beacon=world.beacon, now=NOW)


def test_a_renewed_pck_certificate_is_of_the_same_machine(world: World) -> None:
    cpus = [TdxCpu(world.evidence.quote), TdxCpu(world.evidence.quote)]
    for cpu in cpus:
        cpu.check_signature(roots=world.policy.roots, now=NOW)
    renewed = dataclasses.replace(cpus[1].pck, not_after=NOW * 2, root_der=b"renewed too")
    cpus[1]._pck = renewed
    assert cpus[0].same_machine(cpus[1])
    for change in ({"ppid": bytes(16)}, {"fmspc": bytes(6)}, {"pce_id": b"\7\7"}):
        cpus[1]._pck = dataclasses.replace(renewed, **change)
        assert not cpus[0].same_machine(cpus[1])


def measurement_changed(world: World) -> Report:
    forged = world.forge(mr_td=b"\xaa" * 48)
    return examine(world, world.presented(forged))


def other_bundle(world: World) -> Report:
    """Own keys, own GPU answer, own log entry; the quote still names the real ones."""
    bundle = dataclasses.replace(world.bundle, receipt_key=b"\xee" * 32)
    forged = dataclasses.replace(world.prove(bundle), quote=world.evidence.quote)
    return examine(world, world.presented(forged))


def gpu_nonce_changed(world: World) -> Report:
    return examine(world, world.presented(world.prove(world.bundle, nonce=b"\x99" * 32)))


def gpu_removed(world: World) -> Report:
    evidence = dataclasses.replace(world.evidence, devices=())
    data = report_data_binding(bundle_digest(evidence.bundle), gpu_evidence_digest(()))
    forged = world.forge(report_data=data + fresh_published(world.beacon.root_hash))
    return examine(world, world.presented(dataclasses.replace(forged, devices=())))


def debug_vm(world: World) -> Report:
    attributes = bytearray(parse_quote(world.evidence.quote).td_attributes)
    attributes[0] |= 1
    return examine(world, world.presented(world.forge(td_attributes=bytes(attributes))))


def other_root(world: World) -> Report:
    return examine(world, world.presented(world.forge(other_root=True)))


def simulated_under_shipped_roots(world: World) -> Report:
    policy = dataclasses.replace(world.policy, simulated_roots=None)
    assert policy.roots is PRODUCTION
    return examine(fresh(world, policy=policy), world.presented())


def trailing_byte(world: World) -> Report:
    presented = world.presented()
    return examine(world, dataclasses.replace(presented, evidence=presented.evidence + b"\0"))


def expired_collateral(world: World) -> Report:
    late = NOW + 40 * 86_400
    bundle = dataclasses.replace(world.bundle, not_before=late - 60, not_after=late + 600)
    beacon = dataclasses.replace(world.beacon, utime=late - 60)
    moved = fresh(world, bundle=bundle, beacon=beacon, now=late)
    return examine(moved, moved.presented(moved.prove(bundle)), read_at=late - 10)


def tcb_status_refused(world: World) -> Report:
    policy = dataclasses.replace(world.policy, tcb_status=frozenset({"OutOfDate"}))
    return examine(fresh(world, policy=policy), world.presented())


def collateral_missing(world: World) -> Report:
    parts = {k: v for k, v in world.collateral.parts.items() if k != "intel/tcb_info"}
    return examine(world, world.presented(collateral=Collateral(parts)))


def rim_missing(world: World) -> Report:
    parts = {k: v for k, v in world.collateral.parts.items() if "/rim/" not in k}
    return examine(world, world.presented(collateral=Collateral(parts)))


def ocsp_missing(world: World) -> Report:
    parts = {k: v for k, v in world.collateral.parts.items() if "/ocsp/" not in k}
    return examine(world, world.presented(collateral=Collateral(parts)))


def host_config_served_differs(world: World) -> Report:
    return examine(world, world.presented(host_config=HOST + b"# more\n"))


def event_log_changed(world: World) -> Report:
    forged = dataclasses.replace(world.evidence, rtmr3_events=world.evidence.rtmr3_events[:1])
    return examine(world, world.presented(forged))


def beacon_unknown(world: World) -> Report:
    beacon = dataclasses.replace(world.beacon, root_hash=b"\x0c" * 32)
    return examine(fresh(world, beacon=beacon), world.presented())


def beacon_too_old(world: World) -> Report:
    policy = dataclasses.replace(world.policy, max_beacon_age_s=30)
    return examine(fresh(world, policy=policy), world.presented())


def beacon_claimed(world: World) -> Report:
    beacon = dataclasses.replace(world.beacon, level="claimed")
    return examine(fresh(world, beacon=beacon), world.presented())


def lives_three_hours(world: World) -> Report:
    bundle = dataclasses.replace(world.bundle, not_after=world.beacon.utime + 10_800)
    return examine(world, world.presented(world.prove(bundle)))


def dated_before_its_beacon(world: World) -> Report:
    bundle = dataclasses.replace(world.bundle, not_before=world.beacon.utime - 3600)
    return examine(world, world.presented(world.prove(bundle)))


def no_longer_valid(world: World) -> Report:
    bundle = dataclasses.replace(world.bundle, not_after=NOW - 1)
    return examine(world, world.presented(world.prove(bundle)))


def not_yet_valid(world: World) -> Report:
    bundle = dataclasses.replace(world.bundle, not_before=NOW + 61)
    return examine(world, world.presented(world.prove(bundle)))


def session_absent(world: World) -> Report:
    policy = dataclasses.replace(world.policy, challenge="required")
    return examine(fresh(world, policy=policy), world.presented())


def session_replayed(world: World) -> Report:
    old = dataclasses.replace(world.session(b"\x01" * 32), nonce=b"\x02" * 32)
    return examine(world, world.presented(session=old))


def session_of_another_td(world: World) -> Report:
    other = world.session(b"\x01" * 32, mr_td=b"\xaa" * 48)
    return examine(world, world.presented(session=other))


def session_with(
    change: Callable[[SessionAnswer], SessionAnswer],
) -> Callable[[World], Report]:
    def run(world: World) -> Report:
        nonce = b"\x01" * 32
        answer = SessionAnswer.from_bytes(world.session(nonce).answer)
        other = OpenedSession(change(answer).to_bytes(), nonce)
        return examine(world, world.presented(session=other))

    return run


def session_key_swapped(answer: SessionAnswer) -> SessionAnswer:
    return dataclasses.replace(answer, config=OTHER_KEY)


def session_path_of_another(answer: SessionAnswer) -> SessionAnswer:
    return dataclasses.replace(answer, path=(b"\x55" * 32, *answer.path[1:]))


def session_path_too_short(answer: SessionAnswer) -> SessionAnswer:
    return dataclasses.replace(answer, path=answer.path[:-1])


def session_place_of_another(answer: SessionAnswer) -> SessionAnswer:
    return dataclasses.replace(answer, index=0)


def session_of_other_keys(world: World) -> Report:
    """Of the same machine, in another epoch: [0:32] names other keys."""
    nonce = b"\x01" * 32
    root = leaf_hash(session_leaf(nonce, SESSION_KEY))
    quote = world.forge(report_data=b"\x66" * 32 + fresh_session(root)).quote
    answer = SessionAnswer(quote, SESSION_KEY, (), 0, 1)
    session = OpenedSession(answer.to_bytes(), nonce)
    return examine(world, world.presented(session=session))


def session_in_the_mode_of_a_nonce(world: World) -> Report:
    """Mode 1, which proved nothing about the key that a prompt is sealed to."""
    nonce, half = b"\x01" * 32, parse_quote(world.evidence.quote).report_data[:32]
    data = half + domain_digest("umay/fresh/v1", b"\1", nonce)
    answer = SessionAnswer(world.forge(report_data=data).quote, SESSION_KEY, (), 0, 1)
    session = OpenedSession(answer.to_bytes(), nonce)
    return examine(world, world.presented(session=session))


def published_quote_as_session(world: World) -> Report:
    answer = SessionAnswer(world.evidence.quote, SESSION_KEY, (), 0, 1)
    session = OpenedSession(answer.to_bytes(), b"\x01" * 32)
    return examine(world, world.presented(session=session))


def model_unknown(world: World) -> Report:
    bundle = dataclasses.replace(world.bundle, model_digest=b"\x45" * 32)
    return examine(world, world.presented(world.prove(bundle)))


def engine_config_served_differs(world: World) -> Report:
    return examine(world, world.presented(engine_config=b'{"engine":"other"}'))


def price_table_served_differs(world: World) -> Report:
    return examine(world, world.presented(price_table=b'{"completion":3,"prompt":1}'))


def engine_config_not_of_the_release(world: World) -> Report:
    release = dataclasses.replace(world.policy.releases[0], engine_configs=frozenset({bytes(32)}))
    policy = dataclasses.replace(world.policy, releases=(release,))
    return examine(fresh(world, policy=policy), world.presented())


def not_in_the_log(world: World) -> Report:
    presented, anchor = world.logged(world.presented())
    presented = dataclasses.replace(presented, proof=None)
    return Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def different_history(world: World) -> Report:
    """The log signs a second tree of the same size for this client."""
    presented, _ = world.logged(world.presented())
    other = Tree()
    for entry in (b"first", b"second", b"third"):
        other.append(entry)
    anchor = world.anchor(3, other.root(3))
    return Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def signed_by_another_log(world: World) -> Report:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stranger = fresh(world, log_key=Ed25519PrivateKey.generate())
    presented, anchor = stranger.logged(world.presented())
    return Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def leaf_of_other_evidence(world: World) -> Report:
    presented, anchor = world.logged(world.presented(), evidence_digest=b"\x77" * 32)
    return Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def anchored(world: World, **changes: Any) -> Report:
    presented, anchor = world.logged(world.presented())
    anchor = dataclasses.replace(anchor, **changes)
    return Verifier(world.policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def examine(world: World, presented: Presented, *, read_at: int | None = None) -> Report:
    """Everything else right: the log holds the forged evidence and the chain anchors it."""
    try:
        presented, anchor = world.logged(presented)
    except ParseError:  # nothing that a log could hold
        anchor = world.anchor(1, bytes(32))
    if read_at is not None:
        anchor = dataclasses.replace(anchor, read_at=read_at)
    verifier = Verifier(world.policy)
    return verifier.examine(presented, anchor=anchor, beacon=world.beacon, now=world.now)


def not_in_the_registry(world: World) -> Report:
    presented, anchor = world.logged(world.presented())
    anchor = dataclasses.replace(anchor, seqno=9, registry=snapshot(()))
    policy = dataclasses.replace(world.policy, registry=rules("both"))
    return Verifier(policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def not_cosigned(world: World) -> Report:
    presented, anchor = world.logged(world.presented())
    witness = VerifierKey("w.example", bytes(32), COSIGNATURE), "somebody"
    policy = dataclasses.replace(world.policy, witnesses=WitnessRules(1, 60, (witness,)))
    return Verifier(policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)


BAD: dict[str, tuple[Callable[[World], Report], str, str]] = {
    "trailing byte": (trailing_byte, "parse", "malformed"),
    "quote under another root": (other_root, "cpu-signature", "wrong-root"),
    "debug VM": (debug_vm, "cpu-attributes", "debug"),
    "checkpoint that no witness cosigned": (not_cosigned, "witness", "too-few"),
    "release that the Registry does not list": (not_in_the_registry, "registry", "unlisted"),
    "expired collateral": (expired_collateral, "cpu-tcb", "collateral-expired"),
    "TCB status not accepted": (tcb_status_refused, "cpu-tcb", "tcb-status"),
    "no TCB info": (collateral_missing, "cpu-tcb", "collateral-missing"),
    "changed measurement": (measurement_changed, "measurement", "unknown-measurement"),
    "RTMR3 event left out": (event_log_changed, "measurement", "log-mismatch"),
    "another host config served": (
        host_config_served_differs,
        "measurement",
        "host-config-mismatch",
    ),
    "evidence with another key": (other_bundle, "binding", "wrong-report-data"),
    "beacon of no such block": (beacon_unknown, "freshness", "unknown-beacon"),
    "beacon too old": (beacon_too_old, "freshness", "beacon-too-old"),
    "beacon only claimed": (beacon_claimed, "freshness", "beacon-level"),
    "keys for three hours": (lives_three_hours, "freshness", "lives-too-long"),
    "dated before its beacon": (dated_before_its_beacon, "freshness", "dated-before-beacon"),
    "no longer valid": (no_longer_valid, "freshness", "expired"),
    "not yet valid": (not_yet_valid, "freshness", "not-yet-valid"),
    "no session": (session_absent, "freshness", "no-session"),
    "replayed session": (session_replayed, "freshness", "wrong-session"),
    "session of another TD": (session_of_another_td, "freshness", "other-machine"),
    "session with another key": (session_with(session_key_swapped), "freshness", "wrong-session"),
    "session with a foreign path": (
        session_with(session_path_of_another),
        "freshness",
        "wrong-session",
    ),
    "session with a short path": (
        session_with(session_path_too_short),
        "freshness",
        "wrong-session",
    ),
    "session at another's place": (
        session_with(session_place_of_another),
        "freshness",
        "wrong-session",
    ),
    "session of other keys": (session_of_other_keys, "freshness", "wrong-session"),
    "a quote over a nonce": (session_in_the_mode_of_a_nonce, "freshness", "wrong-session"),
    "the published quote again": (published_quote_as_session, "freshness", "wrong-session"),
    "GPU answered another nonce": (gpu_nonce_changed, "gpu", "wrong-nonce"),
    "GPU taken out": (gpu_removed, "gpu", "wrong-count"),
    "no RIM": (rim_missing, "gpu", "rim-missing"),
    "no revocation answer": (ocsp_missing, "gpu", "revocation-unknown"),
    "unknown model": (model_unknown, "model", "unknown-model"),
    "another engine config served": (engine_config_served_differs, "engine", "config-mismatch"),
    "another price table served": (price_table_served_differs, "engine", "price-mismatch"),
    "engine config of no release": (engine_config_not_of_the_release, "engine", "unknown-config"),
    "no log proof": (not_in_the_log, "log", "no-proof"),
    "a log that shows another history": (different_history, "log", "other-history"),
    "signed by another log": (signed_by_another_log, "log", "*"),
    "leaf of other evidence": (leaf_of_other_evidence, "log", "other-leaf"),
    "forked": (lambda w: anchored(w, forked=True), "log", "forked"),
    "anchor claimed": (lambda w: anchored(w, level="claimed"), "log", "anchor-level"),
    "anchor read long ago": (lambda w: anchored(w, read_at=NOW - 601), "log", "anchor-too-old"),
    "anchor of the future": (lambda w: anchored(w, read_at=NOW + 61), "log", "anchor-in-future"),
    "anchor of another contract": (
        lambda w: anchored(w, address="0:" + "cd" * 32),
        "log",
        "other-contract",
    ),
    "anchor of other code": (lambda w: anchored(w, code_hash=bytes(32)), "log", "other-code-hash"),
    "anchor of another network": (lambda w: anchored(w, network="x"), "log", "other-network"),
    "anchor read before the beacon": (
        lambda w: anchored(w, read_at=w.beacon.utime - 1),
        "log",
        "anchor-before-beacon",
    ),
}


@pytest.mark.parametrize(("bad", "step", "code"), BAD.values(), ids=BAD)
def test_only_the_step_meant_for_it_refuses(
    world: World, bad: Callable[[World], Report], step: str, code: str
) -> None:
    report = bad(world)
    assert not report.ok
    assert report.failed == (step,), report
    assert (report.steps[-1].name, report.steps[-1].status) == ("mint", "not checked")
    got = next(result.code for result in report.steps if result.name == step)
    assert code in ("*", got)


@pytest.mark.parametrize(
    "name",
    [
        "expired collateral", "beacon too old", "keys for three hours", "dated before its beacon",
        "no longer valid", "not yet valid", "anchor read long ago", "anchor of the future",
        "anchor read before the beacon",
    ],
)  # fmt: skip
def test_times_are_told_with_their_zone(world: World, name: str) -> None:
    """And as Unix seconds beside; no second stands alone."""
    bad, step, _ = BAD[name]
    text = next(result.detail for result in bad(world).steps if result.name == step)
    both = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \((\d{10})\)"
    assert len(re.findall(both, text)) == 2, text
    assert not re.search(r"\d{10}", re.sub(both, "", text)), text


def test_a_simulated_machine_is_refused_by_name_under_vendor_roots(world: World) -> None:
    report = simulated_under_shipped_roots(world)
    assert report.steps[1].code == "simulated-root"
    assert not report.simulated


def test_every_plan_step_has_a_bad_case() -> None:
    assert {step for _, step, _ in BAD.values()} == {name for name, _ in PLAN} - {"mint"}


def test_verify_raises_with_the_report_so_far(world: World) -> None:
    presented, anchor = world.logged(world.presented(world.forge(mr_td=b"\xaa" * 48)))
    with pytest.raises(VerificationError) as caught:
        Verifier(world.policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    error = caught.value
    assert (error.step, error.code, error.exit_code) == ("measurement", "unknown-measurement", 4)
    statuses = [step.status for step in error.report.steps]
    assert statuses == ["passed"] * 4 + ["failed"] + ["not checked"] * (len(PLAN) - 5)
    rest = {step.expected for step in error.report.steps[5:]}
    assert rest == {"the step measurement to have passed"}


def test_checkpoint_of_other_origin_is_refused(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    policy = dataclasses.replace(world.policy, log_origin="127.0.0.1:2/log")
    anchor = dataclasses.replace(anchor, origin="127.0.0.1:2/log")
    report = Verifier(policy).examine(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    assert report.failed == ("log",)
    assert MAX_ORIGIN_BYTES == 60


@pytest.mark.parametrize(
    "part",
    ["evidence", "engine_config", "price_table", "host_config", "collateral", "proof", "session"],
)
def test_a_part_of_another_type_is_named(part: str) -> None:
    parts: dict[str, Any] = dict.fromkeys(
        ("evidence", "engine_config", "price_table", "host_config"), b""
    )
    parts["collateral"] = Collateral({})
    Presented(**parts)
    with pytest.raises(UsageError, match=f"presented.{part}: expected"):
        Presented(**parts | {part: "text"})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("presented", b""),
        ("anchor", 7),
        ("beacon", 7),
        ("registry", 7),
        ("now", "now"),
        ("now", 1.0),
    ],
)
def test_an_argument_of_another_type_is_named(world: World, name: str, wrong: object) -> None:
    presented, anchor = world.logged(world.presented())
    given: dict[str, Any] = {"presented": presented, "beacon": world.beacon, "now": NOW}
    leaf = {"kind": 1, "release": 0, "previous": None, "registry": None}
    verifier = Verifier(world.policy)
    for call, more in (
        (verifier.verify, {"anchor": anchor}),
        (verifier.examine, {"anchor": anchor}),
        (verifier.admit, leaf),
    ):
        if name in (arguments := given | more):
            with pytest.raises(UsageError, match=f"{name}: expected"):
                cast(Any, call)(**arguments | {name: wrong})


@pytest.mark.parametrize("name", ["anchor", "beacon"])
def test_to_examine_takes_less_than_to_verify(world: World, name: str) -> None:
    presented, anchor = world.logged(world.presented())
    given: dict[str, Any] = {"anchor": anchor, "beacon": world.beacon, "now": NOW} | {name: None}
    verifier = Verifier(world.policy)
    assert not verifier.examine(presented, **given).ok
    with pytest.raises(UsageError, match=f"{name}: expected"):
        verifier.verify(presented, **given)
    with pytest.raises(UsageError, match="beacon: expected"):
        verifier.admit(presented, beacon=cast(Any, None), now=NOW, kind=1, release=0, previous=None)


def test_a_leafs_field_is_shown_as_numbers_and_hex() -> None:
    assert [_shown(value) for value in (7, b"\1\2", (7, b"\1\2"))] == ["7", "0102", "7 0102"]


def test_the_contract_may_be_spelled_in_another_way() -> None:
    raw = "0:" + "c0" * 32
    pinned = {"network": "n", "code_hash": b"c", "origin": "o", "log_key": b"k"}
    policy = SimpleNamespace(
        network="n", log_contract=raw, log_code_hash=b"c", log_origin="o", log_key=b"k"
    )
    check_pinned(cast(Any, policy), cast(Any, SimpleNamespace(address=raw.upper(), **pinned)))
    other = SimpleNamespace(address="0:" + "c1" * 32, **pinned)
    with pytest.raises(Refused, match="other-contract"):
        check_pinned(cast(Any, policy), cast(Any, other))
