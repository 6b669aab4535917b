"""Two machines of one kind: what they share is verified once, and no check is weaker for it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from attestation import remembered
from attestation.errors import NotAuthentic, Refused, VerificationError
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence
from attestation.nvidia import check_device, ocsp, read_rim
from attestation.platforms import snp, tdx
from attestation.platforms.snp import check as snp_check
from attestation.platforms.tdx import tcb
from attestation.trust.policy import Policy
from attestation.trust.roots import Roots
from attestation.verify.verifier import Verifier
from attestation.x509 import walk
from attestation.x509.certificate import MAX_REMEMBERED_BYTES, common_name, load_certificate
from attestation.x509.profile import INTEL, NVIDIA
from enclave.simulator import pki
from enclave.simulator.amd import SimulatedAmd
from tests.attestation.test_nvidia_ocsp import answer, delegated, responder
from tests.helpers import nvidia_machine, tdx_machine
from tests.helpers.nvidia_machine import (
    NONCE,
    TODAY,
    chain,
    device,
    fresh_key,
    issue,
    roots,
    vendor,
)
from tests.helpers.waiting import HANG_S
from tests.helpers.world import NOW, World, launch

DAY, YEAR = 86_400, 366 * 86_400
SHARED = [name for name in tcb.PARTS if name != tcb.PCK_CRL_CHAIN]
"""dcap-qvl reads the signer of the PCK CRL from the quote, and not from that chain."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World.start(tmp_path_factory.mktemp("simulator"))
    launch(made.simulator, "other")
    made.collateral = Collateral(made.simulator.handle({0: "collateral"})[1])
    return made


@pytest.fixture(scope="module")
def other(world: World) -> Evidence:
    """Evidence of another machine: its own boot, keys, quote and GPU."""
    return world.prove(dataclasses.replace(world.bundle, boot_id=b"\2" * 16), vm="other")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    remembered.forget()
    yield
    remembered.forget()


def verify(
    world: World, evidence: Evidence, *, policy: Policy | None = None, **changes: object
) -> None:
    presented, anchor = world.logged(world.presented(evidence, **changes))
    verifier = Verifier(policy or world.policy)
    verifier.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)


@pytest.fixture
def signers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose signature on whose certificate was verified, in order."""
    seen: list[str] = []
    original = walk.check_signed._work

    def counted(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        seen.append(common_name(certificate))
        original(certificate, issuer)

    monkeypatch.setattr(walk.check_signed, "_work", counted)
    return seen


def test_the_second_machine_costs_its_own_signatures_alone(
    world: World, other: Evidence, signers: list[str]
) -> None:
    verify(world, world.evidence)
    assert len(signers) > 10
    signers.clear()
    verify(world, other)
    own = [common_name(load_certificate(der)) for der in other.devices[0].chain[:2]]
    assert signers == [*reversed(own), "SIMULATED NVIDIA OCSP Responder"]


@pytest.mark.parametrize(
    "name",
    [*SHARED, "nvidia/rim/driver", "nvidia/rim/vbios", "nvidia/ocsp"],
)
def test_a_changed_byte_in_a_shared_part_is_refused(
    world: World, other: Evidence, name: str
) -> None:
    verify(world, world.evidence)
    parts = dict(world.collateral.parts)
    for part in _named(parts, name, other):
        at = len(parts[part]) // 4  # of a chain: in its first certificate
        changed = {**parts, part: tdx_machine.flip(parts[part], at)}
        with pytest.raises(VerificationError) as caught:
            verify(world, other, collateral=Collateral(changed))
        assert caught.value.step == ("gpu" if part.startswith("nvidia") else "cpu-tcb")


def _named(parts: dict[str, bytes], name: str, evidence: Evidence) -> list[str]:
    """The parts of collateral that are meant: one, or the OCSP answers that machines share."""
    if name == "nvidia/ocsp":
        above = [load_certificate(der) for der in evidence.devices[0].chain[2:-1]]
        return [ocsp.part_name(certificate) for certificate in above]
    kind = {"nvidia/rim/driver": "GPU_DRIVER", "nvidia/rim/vbios": "GPU_VBIOS"}.get(name, name)
    return [next(part for part in parts if kind in part)]


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_changed_byte_in_a_shared_certificate_is_refused(at: int) -> None:
    nvidia_machine.checked()
    good = device(1)
    ders = list(good.chain)
    for where in (len(ders[at]) // 2, len(ders[at]) - 1):
        ders[at] = tdx_machine.flip(good.chain[at], where)
        changed = dataclasses.replace(good, chain=tuple(ders))
        with pytest.raises(NotAuthentic):
            check_device(changed, nonce=NONCE, roots=roots(), now=NOW)


def test_a_changed_certificate_of_the_processor_is_refused() -> None:
    good = tdx_machine.good()
    tdx.check_signature(good, roots=tdx_machine.roots(), now=NOW)
    certificates = [x509.load_der_x509_certificate(der) for der in good.pck_chain]
    stranger = tdx_machine.machine("Stranger")
    theirs = tdx.parse_quote(stranger.quote()).pck_chain
    for at in (1, 2):
        mixed = [*certificates]
        mixed[at] = x509.load_der_x509_certificate(theirs[at])
        quote = dataclasses.replace(good, pck_pem=tdx_machine.pem(*mixed))
        with pytest.raises(NotAuthentic):
            tdx.check_signature(quote, roots=tdx_machine.roots(), now=NOW)


def _amd() -> tuple[SimulatedAmd, snp.ChipKey, Collateral]:
    amd = SimulatedAmd("Milan")
    pins = Roots(frozenset(), frozenset({amd.root_spki}), frozenset(), frozenset(), True)
    report = snp.parse_report(amd.report())
    key = snp.check_signature(report, amd.certificates, roots=pins, now=NOW)
    return amd, key, Collateral(amd.collateral(NOW))


def _answer(now: int) -> object:
    certificate, issuer = chain()[1:3]
    return ocsp.check(certificate, issuer, nvidia_machine.collateral(), now=now)


def _driver() -> bytes:
    """The RIM of the driver."""
    parts = nvidia_machine.collateral().parts
    return next(part for name, part in parts.items() if "DRIVER" in name)


def _rim(now: int) -> object:
    return read_rim(_driver(), pinned=frozenset({vendor().rim_root_spki}), now=now)


def _tcb(now: int) -> object:
    collateral, root = tdx_machine.collateral(), tdx_machine.machine().root_der
    return tcb.check_tcb(tdx_machine.good_bytes(), collateral, root_der=root, now=now)


DATED: dict[str, tuple[Callable[[int], object], int, str]] = {
    "TCB info, expired": (_tcb, NOW + YEAR, "collateral-expired"),
    "TCB info, not yet valid": (_tcb, NOW - YEAR, "collateral-not-yet-valid"),
    "OCSP answer, expired": (_answer, NOW + YEAR, "ocsp-expired"),
    "OCSP answer, not yet valid": (_answer, NOW - YEAR, "ocsp-not-yet-valid"),
    "RIM, expired": (_rim, NOW + 100 * YEAR, "rim-expired"),
    "RIM, not yet valid": (_rim, NOW - 100 * YEAR, "rim-not-yet-valid"),
    "chain, expired": (
        lambda now: nvidia_machine.checked(now=now),
        NOW + 100 * YEAR,
        "certificate-expired",
    ),
}


@pytest.mark.parametrize("name", DATED)
def test_an_expiry_between_two_verifications_is_honoured(name: str) -> None:
    work, later, code = DATED[name]
    work(NOW)
    with pytest.raises(VerificationError) as caught:
        work(later)
    assert caught.value.code == code
    work(NOW)


def test_a_revocation_list_of_amd_expires_and_belongs_to_one_root() -> None:
    _, key, collateral = _amd()
    snp_check.check_revocation(key, collateral, now=NOW)
    with pytest.raises(Refused) as late:
        snp_check.check_revocation(key, collateral, now=NOW + YEAR)
    _, stranger, _ = _amd()
    with pytest.raises(NotAuthentic) as other:
        snp_check.check_revocation(stranger, collateral, now=NOW)
    parts = {name: tdx_machine.flip(data, len(data) - 9) for name, data in collateral.parts.items()}
    with pytest.raises(NotAuthentic) as changed:
        snp_check.check_revocation(key, Collateral(parts), now=NOW)
    codes = [caught.value.code for caught in (late, other, changed)]
    assert codes == ["crl-expired", "crl-signature", "crl-signature"]


def test_the_responder_of_a_remembered_answer_expires() -> None:
    certificate, issuer = chain()[1:3]
    data = delegated(responder(end=TODAY + timedelta(days=2)), end=TODAY + timedelta(days=9))
    collateral = Collateral({ocsp.part_name(certificate): data})
    ocsp.check(certificate, issuer, collateral, now=NOW)
    with pytest.raises(NotAuthentic) as caught:
        ocsp.check(certificate, issuer, collateral, now=NOW + 3 * DAY)
    assert caught.value.code == "ocsp-responder-expired"


def test_an_answer_counts_for_its_own_certificate_and_issuer() -> None:
    certificate, issuer = chain()[1:3]
    data = answer()
    ocsp.check(certificate, issuer, Collateral({ocsp.part_name(certificate): data}), now=NOW)
    for about, above in ((chain(1)[1], issuer), (certificate, chain()[3])):
        with pytest.raises(NotAuthentic):
            ocsp.check(about, above, Collateral({ocsp.part_name(about): data}), now=NOW)


def test_other_roots_share_nothing() -> None:
    verified: list[Callable[[frozenset[bytes]], object]] = [
        lambda pins: read_rim(_driver(), pinned=pins, now=NOW),
        lambda pins: walk.check_chain(chain(), NVIDIA, pinned=pins, now=NOW),
    ]
    good = frozenset({vendor().root_spki, vendor().rim_root_spki})
    stranger = vendor("Stranger")
    for work in verified:
        work(good)
        for pins in (frozenset(), frozenset({stranger.root_spki, stranger.rim_root_spki})):
            with pytest.raises(VerificationError) as caught:
                work(pins)
            assert caught.value.code.removeprefix("rim-") in ("simulated-root", "wrong-root")


def test_another_policy_judges_for_itself(world: World, other: Evidence) -> None:
    verify(world, world.evidence)
    stricter: dict[str, dict[str, Any]] = {
        "tcb-status": {"tcb_status": frozenset({"SWHardeningNeeded"})},
        "evaluation-number": {"min_tcb_evaluation_number": 10_000},
        "collateral-too-old": {"max_collateral_age_s": 0},
        "architecture-not-accepted": {"gpu_architectures": frozenset({"blackwell"})},
        "driver-too-old": {"gpu_min_driver": "999.1"},
    }
    for code, rules in stricter.items():
        policy = dataclasses.replace(world.policy, **rules)
        with pytest.raises(VerificationError) as caught:
            verify(world, other, policy=policy)
        assert caught.value.code == code


def test_a_list_under_another_name_is_another_document() -> None:
    parts = tdx_machine.collateral().parts
    _tcb(NOW)
    swapped = Collateral({**parts, tcb.QE_IDENTITY: parts[tcb.TCB_INFO]})
    with pytest.raises(NotAuthentic) as caught:
        tcb.check_tcb(
            tdx_machine.good_bytes(), swapped, root_der=tdx_machine.machine().root_der, now=NOW
        )
    assert caught.value.code == "collateral-malformed"
    with pytest.raises(NotAuthentic):
        tcb._published(tcb.QE_IDENTITY, parts[tcb.TCB_INFO])


def test_what_is_signed_is_looked_at_with_its_own_key() -> None:
    """The same certificate under an authority of the same name and another key."""
    _, issuer = chain()[1:3]
    walk.check_signed(chain()[1], issuer)
    namesake = issue(
        issuer.subject,
        fresh_key().public_key(),
        issuer=chain()[3],
        signer=vendor().keys["identity"],
        path_length=0,
    )
    with pytest.raises(InvalidSignature):
        walk.check_signed(chain()[1], namesake)


def test_a_failure_is_not_remembered_and_costs_no_good_answer() -> None:
    asked: list[int] = []

    @remembered.remembered(most=2, key=lambda number: number)
    def half(number: int) -> int:
        asked.append(number)
        if number % 2:
            raise ValueError(number)
        return number // 2

    for _ in range(2):
        with pytest.raises(ValueError, match="3"):
            half(3)
        assert half(4) == 2
    assert asked == [3, 4, 3] and len(half) == 1


def test_only_the_last_used_outcomes_are_kept() -> None:
    asked: list[int] = []

    @remembered.remembered(most=2, key=lambda number: number or None)
    def same(number: int) -> int:
        asked.append(number)
        return number

    for number in (1, 2, 1, 3, 1, 2, 0, 0):
        assert same(number) == number
    assert asked == [1, 2, 3, 2, 0, 0] and len(same) == 2
    remembered.forget()
    assert len(same) == 0


def test_many_threads_get_their_own_answers() -> None:
    barrier = threading.Barrier(4)

    @remembered.remembered(most=8, key=lambda number: number)
    def square(number: int) -> int:
        return number * number

    def work(start: int) -> bool:
        barrier.wait(HANG_S)
        numbers = [(start * 7 + step) % 32 for step in range(500)]
        return all(square(number) == number * number for number in numbers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert len(square) == 8


def test_a_long_certificate_is_read_but_not_kept() -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(5000))
    key = fresh_key()
    made = issue("long", key.public_key(), issuer=None, signer=key, extensions=[(extension, False)])
    der = pki.der(made)
    assert len(der) > MAX_REMEMBERED_BYTES and load_certificate(der) == made
    assert len(load_certificate) == 0


def test_authorities_are_known_in_their_place_and_under_their_profile_alone() -> None:
    """A signer under a root is accepted; then neither the root alone nor another profile is."""
    pem = tdx_machine.collateral().parts[tcb.TCB_INFO_CHAIN]
    signer, root = x509.load_pem_x509_certificates(pem)
    pins = tdx_machine.roots().intel
    walk.check_links((signer, root), INTEL, pinned=pins)
    stricter = dataclasses.replace(
        INTEL, above=dataclasses.replace(INTEL.above, keys=frozenset({"P-384"}))
    )
    for certificates, profile, code in (
        ((root,), INTEL, "not-a-ca"),
        ((signer, root), stricter, "wrong-curve"),
    ):
        with pytest.raises(NotAuthentic) as caught:
            walk.check_links(certificates, profile, pinned=pins)
        assert caught.value.code == code
    walk.check_links((signer, root), INTEL, pinned=pins)
