"""The whole plan over a SEV-SNP guest: one good case, and each CPU step's own bad ones."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from attestation.errors import NotChecked, ParseError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import (
    Evidence,
    fresh_published,
    fresh_session,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import bundle_digest
from attestation.formats.measurement import launch_id, measurement_digest
from attestation.formats.session import SessionAnswer, session_leaf
from attestation.log.merkle import leaf_hash
from attestation.platforms.snp.cpu import SnpCpu
from attestation.platforms.snp.report import VLEK
from attestation.verify.verdict import Report
from attestation.verify.verifier import OpenedSession, Presented, Verifier
from enclave.simulator import pki
from enclave.simulator.amd import SimulatedAmd
from tests.helpers.world import HOST, NOW, SESSION_KEY, World, ask, device_of

MEASUREMENT = hashlib.sha384(b"an SNP image").digest()
Fields = dict[str, int | bytes]


class SnpWorld:
    """`tests.helpers.world`'s network with an SNP machine in place of the TDX one."""

    def __init__(self, world: World, amd: SimulatedAmd) -> None:
        self.amd, b = amd, bundle_digest(world.bundle.to_bytes())
        gpu = ask(world.simulator, "gpu.report", "vm", 0, gpu_nonce(b))
        self.devices = (device_of(gpu),)
        self.half = report_data_binding(b, gpu_evidence_digest(self.devices))
        parts = {**world.collateral.parts, **amd.collateral(NOW)}
        release = dataclasses.replace(
            world.policy.releases[0],
            shapes={"simulated": frozenset({measurement_digest("snp", (MEASUREMENT,))})},
        )
        roots = world.policy.roots
        policy = dataclasses.replace(
            world.policy,
            platforms=frozenset({"snp"}),
            releases=(release,),
            simulated_roots=dataclasses.replace(roots, amd=frozenset({amd.root_spki})),
        )
        self.world = dataclasses.replace(world, policy=policy, collateral=Collateral(parts))

    def report(self, **fields: int | bytes) -> bytes:
        usual: Fields = {
            "measurement": MEASUREMENT,
            "host_data": sha256(HOST),
            "report_data": self.half + fresh_published(self.world.beacon.root_hash),
        }
        return self.amd.report(**{**usual, **fields})

    def evidence(self, **changes: Any) -> Evidence:
        evidence = Evidence(
            platform="snp",
            bundle=self.world.bundle.to_bytes(),
            quote=self.report(),
            cpu_certificates=self.amd.certificates,
            devices=self.devices,
        )
        return dataclasses.replace(evidence, **changes)

    def examine(self, presented: Presented | None = None, **policy: Any) -> Report:
        given, anchor = self.world.logged(presented or self.world.presented(self.evidence()))
        verifier = Verifier(dataclasses.replace(self.world.policy, **policy))
        return verifier.examine(given, anchor=anchor, beacon=self.world.beacon, now=NOW)

    def forged(self, **fields: int | bytes) -> Report:
        evidence = self.evidence(quote=self.report(**fields))
        return self.examine(self.world.presented(evidence))


@pytest.fixture(scope="module")
def snp(tmp_path_factory: pytest.TempPathFactory) -> SnpWorld:
    world = World.start(tmp_path_factory.mktemp("simulator"))
    return SnpWorld(world, SimulatedAmd("Genoa"))


def test_a_genuine_snp_machine_passes_every_step(snp: SnpWorld) -> None:
    presented, anchor = snp.world.logged(snp.world.presented(snp.evidence()))
    verifier = Verifier(snp.world.policy)
    verified = verifier.verify(presented, anchor=anchor, beacon=snp.world.beacon, now=NOW)
    assert verified.report.ok
    assert "Genoa" in verified.report.steps[1].detail


def test_a_session_is_of_the_same_guest(snp: SnpWorld) -> None:
    nonce = bytes(range(32))
    root = leaf_hash(session_leaf(nonce, SESSION_KEY))

    def presented(**fields: bytes) -> Presented:
        report = snp.report(report_data=snp.half + fresh_session(root), **fields)
        answer = SessionAnswer(report, SESSION_KEY, (), 0, 1).to_bytes()
        return snp.world.presented(snp.evidence(), session=OpenedSession(answer, nonce))

    assert snp.examine(presented(), challenge="required").ok
    other = presented(report_id=b"\1" * 32)
    assert refused(snp.examine(other, challenge="required")) == ("freshness", "other-machine")


def refused(report: Report) -> tuple[str, str]:
    failed = [step for step in report.steps if step.status == "failed"]
    assert len(failed) == 1, report
    return failed[0].name, failed[0].code


def other_chip(snp: SnpWorld) -> Report:
    return snp.examine(snp.world.presented(snp.evidence(cpu_certificates=())))


BAD: dict[str, tuple[str, str, Callable[[SnpWorld], Report]]] = {
    "no certificates": ("cpu-signature", "bad-chain", other_chip),
    "debug": (
        "cpu-attributes",
        "debug",
        lambda snp: snp.forged(policy=0x30000 | 1 << 19),
    ),
    "family refused": (
        "cpu-attributes",
        "family-not-accepted",
        lambda snp: snp.examine(families=frozenset({"Turin"})),
    ),
    "instance not listed": (
        "cpu-attributes",
        "instance-not-accepted",
        lambda snp: snp.examine(instances=frozenset({"00"})),
    ),
    "platform not accepted": (
        "cpu-attributes",
        "platform-not-accepted",
        lambda snp: snp.examine(platforms=frozenset({"tdx"})),
    ),
    "TCB below the floor": (
        "cpu-tcb",
        "out-of-date",
        lambda snp: snp.examine(snp_min_tcb={"bootloader": 0, "tee": 0, "snp": 25, "microcode": 0}),
    ),
    "no alias check": ("cpu-tcb", "alias-check", lambda snp: snp.forged(platform_info=0)),
    "no CRL": (
        "cpu-tcb",
        "revocation-unknown",
        lambda snp: snp.examine(
            dataclasses.replace(
                snp.world.presented(snp.evidence()),
                collateral=Collateral(
                    {k: v for k, v in snp.world.collateral.parts.items() if "amd/" not in k}
                ),
            )
        ),
    ),
    "unknown measurement": (
        "measurement",
        "unknown-measurement",
        lambda snp: snp.forged(measurement=bytes(48)),
    ),
    "other host config": (
        "measurement",
        "host-config-mismatch",
        lambda snp: snp.forged(host_data=bytes(32)),
    ),
    "other keys": (
        "binding",
        "wrong-report-data",
        lambda snp: snp.forged(report_data=bytes(32) + fresh_published(snp.world.beacon.root_hash)),
    ),
    "other beacon": (
        "freshness",
        "wrong-report-data",
        lambda snp: snp.forged(report_data=snp.half + bytes(32)),
    ),
}


@pytest.mark.parametrize(("step", "code", "bad"), BAD.values(), ids=BAD)
def test_only_the_step_meant_for_it_refuses(
    snp: SnpWorld, step: str, code: str, bad: Callable[[SnpWorld], Report]
) -> None:
    assert refused(bad(snp)) == (step, code)


def test_event_logs_do_not_belong_to_snp(snp: SnpWorld) -> None:
    for logs in ({"ccel": b"\0"}, {"rtmr3_events": (bytes(48),)}):
        with pytest.raises(ParseError, match="no event logs for SNP"):
            SnpCpu.parse(snp.evidence(**logs))


def test_the_alias_check_is_asked_for_where_the_policy_says_so(snp: SnpWorld) -> None:
    presented = snp.world.presented(snp.evidence(quote=snp.report(platform_info=0)))
    assert snp.examine(presented, snp_alias_check=False).ok


def test_a_report_by_another_chip_key_is_of_another_machine(snp: SnpWorld) -> None:
    """Each of the two chains holds; one fact at a time differs."""
    amd, roots = snp.amd, snp.world.policy.simulated_roots
    assert roots is not None

    def checked(report: bytes, leaf: x509.Certificate) -> SnpCpu:
        cpu = SnpCpu(report, (pki.der(leaf), *amd.certificates[1:]))
        cpu.check_signature(roots=roots, now=NOW)
        return cpu

    with pytest.raises(NotChecked, match="signature to have passed"):
        _ = SnpCpu(snp.report(), amd.certificates).key
    first = checked(snp.report(), amd.leaf)
    assert first.same_machine(checked(snp.report(report_data=bytes(64)), amd.leaf))
    assert not first.same_machine(checked(snp.report(), amd.chip_certificate()))
    assert not first.same_machine(checked(snp.report(report_id=b"\1" * 32), amd.leaf))


def test_a_vlek_is_taken_where_the_policy_says_so(snp: SnpWorld) -> None:
    vlek = SnpWorld(snp.world, SimulatedAmd("Genoa", signer=VLEK))
    assert refused(vlek.examine()) == ("cpu-attributes", "signer-not-accepted")
    assert vlek.examine(snp_signers=frozenset({"VCEK", "VLEK"})).ok


ID_BLOCK: Fields = {"family_id": b"\1" * 16, "id_key_digest": b"\2" * 48}
LAUNCH = launch_id("snp", (b"\1" * 16, bytes(16), b"\2" * 48, bytes(48)))


def test_an_id_block_is_taken_where_its_release_names_it(snp: SnpWorld) -> None:
    release = snp.world.policy.releases[0]
    named = dataclasses.replace(release, launch_ids=frozenset({LAUNCH}))
    presented = snp.world.presented(snp.evidence(quote=snp.report(**ID_BLOCK)))
    assert refused(snp.examine(presented)) == ("cpu-attributes", "id-block")
    assert snp.examine(presented, releases=(named,)).ok
    assert refused(snp.examine(releases=(named,))) == ("measurement", "launch-id")


def test_an_id_block_of_another_release_does_not_do(snp: SnpWorld) -> None:
    release = snp.world.policy.releases[0]
    shapes = {"other": frozenset({bytes(32)})}
    other = dataclasses.replace(release, shapes=shapes, launch_ids=frozenset({LAUNCH}))
    presented = snp.world.presented(snp.evidence(quote=snp.report(**ID_BLOCK)))
    report = snp.examine(presented, releases=(release, other))
    assert refused(report) == ("measurement", "launch-id")
    assert any(LAUNCH.hex() in step.detail for step in report.steps)
