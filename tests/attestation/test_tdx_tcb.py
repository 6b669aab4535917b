"""TCB status by Intel's signed lists: what dcap-qvl judges and what the policy decides."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, Refused, UmayError
from attestation.formats.collateral import Collateral
from attestation.platforms.tdx import TcbResult, check_status, check_tcb, tcb
from attestation.trust.policy import TCB_STATUSES
from enclave.simulator import intel
from tests.helpers.tdx_machine import DAY, NOW, collateral, flip, good, good_bytes, machine, refuses

MIDNIGHT = NOW - NOW % DAY


def check(quote: bytes | None = None, parts: Collateral | None = None, **options: object):
    arguments = {"root_der": machine().root_der, "now": NOW} | options
    return check_tcb(quote or good_bytes(), parts or collateral(), **arguments)


def without(name: str) -> Collateral:
    return Collateral({key: part for key, part in collateral().parts.items() if key != name})


def changed(name: str, change) -> Collateral:
    parts = dict(collateral().parts)
    return Collateral(parts | {name: change(parts[name])})


def test_good_platform_is_up_to_date() -> None:
    result = check()
    assert (result.status, result.advisory_ids) == ("UpToDate", frozenset())
    assert result.tcb_evaluation_number == intel.EVALUATION_NUMBER
    assert (result.issued, result.expires) == (MIDNIGHT, MIDNIGHT + 30 * DAY)


def test_the_oldest_part_and_the_lowest_number_bound_the_result() -> None:
    """Intel renews the root's list only once a year: it does not count as old, but it ends."""
    parts = dict(machine().collateral(NOW, qe_identity={"tcbEvaluationDataNumber": 19}))
    parts[tcb.TCB_INFO] = machine().collateral(NOW - DAY)[tcb.TCB_INFO]
    parts[tcb.ROOT_CRL] = machine().collateral(NOW - 10 * DAY)[tcb.ROOT_CRL]
    result = check(parts=Collateral(parts))
    assert (result.issued, result.expires) == (MIDNIGHT - DAY, MIDNIGHT + 20 * DAY)
    assert result.tcb_evaluation_number == 19


def test_version_5_quote_is_judged_alike() -> None:
    fields = {"tee_tcb_svn2": intel.TEE_TCB_SVN, "mr_servicetd": bytes(48)}
    quote = machine().forge(replace(good(), version=5, **fields))
    assert check(quote).status == "UpToDate"


@pytest.mark.parametrize("name", tcb.PARTS)
def test_missing_part_is_named(name: str) -> None:
    with refuses("collateral-missing", Refused) as caught:
        check(parts=without(name))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("code", "now"),
    [
        ("collateral-expired", MIDNIGHT + 30 * DAY + 1),
        ("collateral-not-yet-valid", MIDNIGHT - 1),
    ],
)
def test_collateral_outside_its_window(code: str, now: int) -> None:
    with refuses(code, Refused):
        check(now=now)


def test_revoked_pck() -> None:
    with refuses("revoked", Refused):
        check(parts=collateral(revoke_pck=True))


def test_tcb_info_of_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    quote = good_bytes()
    monkeypatch.setattr(intel, "FMSPC", bytes([0x90, 0xC0, 0x6F, 0, 0, 0]))
    with refuses("other-platform", Refused):
        check(quote, collateral())


def test_revoked_tcb_level() -> None:
    with refuses("revoked", Refused):
        check(parts=collateral(tcb_status="Revoked"))


def test_platform_below_every_level() -> None:
    with refuses("no-matching-tcb", Refused):
        check(machine().quote(tee_tcb_svn=bytes(16)))


def test_module_of_another_signer() -> None:
    with refuses("tcb-invalid", NotAuthentic):
        check(machine().quote(mrsigner_seam=b"\1" * 48))


def test_debug_td() -> None:
    with pytest.raises(Refused):
        check(machine().quote(td_attributes=b"\1\0\0\x10\0\0\0\0"))


def test_collateral_of_another_root() -> None:
    with refuses("tcb-invalid", NotAuthentic):
        check(root_der=machine("Stranger").root_der)


BROKEN = {
    "tcb-info-signature": (tcb.TCB_INFO, lambda b: b[:-4] + bytes([b[-4] ^ 1]) + b[-3:]),
    "tcb-info-two-bodies": (tcb.TCB_INFO, lambda b: b + b),
    "tcb-info-is-qe-identity": (tcb.TCB_INFO, lambda b: collateral().parts[tcb.QE_IDENTITY]),
    "tcb-info-no-dates": (tcb.TCB_INFO, lambda b: b.replace(b"nextUpdate", b"nextupdate")),
    "tcb-info-short-date": (
        tcb.TCB_INFO,
        lambda b: re.sub(rb'("nextUpdate":"[0-9]{4})-[0-9]{2}', rb"\1-9", b),
    ),
    "tcb-info-date-without-zone": (
        tcb.TCB_INFO,
        lambda b: re.sub(rb'("nextUpdate":"[^"]*)Z"', rb'\1"', b),
    ),
    "tcb-info-no-day": (
        tcb.TCB_INFO,
        lambda b: re.sub(rb'("nextUpdate":"[0-9]{4})-[0-9]{2}-[0-9]{2}', rb"\1-02-30", b),
    ),
    "tcb-info-no-number": (
        tcb.TCB_INFO,
        lambda b: b.replace(b'"tcbEvaluationDataNumber":20', b'"tcbE":20'),
    ),
    "qe-identity-changed": (tcb.QE_IDENTITY, lambda b: b.replace(b'"isvsvn":4', b'"isvsvn":3')),
    "tcb-info-changed": (tcb.TCB_INFO, lambda b: b.replace(b"OutOfDate", b"UpToDate")),
    "tcb-info-unknown-status": (tcb.TCB_INFO, lambda b: b.replace(b"OutOfDate", b"Fine")),
    "pck-crl-signature": (tcb.PCK_CRL, lambda b: flip(b, len(b) - 1)),
    "pck-crl-is-root-crl": (tcb.PCK_CRL, lambda b: collateral().parts[tcb.ROOT_CRL]),
    "root-crl-trailing": (tcb.ROOT_CRL, lambda b: b + b"\0"),
    "chain-not-ascii": (tcb.TCB_INFO_CHAIN, lambda b: b"\xff" + b),
    "chain-empty": (tcb.QE_IDENTITY_CHAIN, lambda b: b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_collateral_is_not_authentic(name: str) -> None:
    part, change = BROKEN[name]
    with pytest.raises(NotAuthentic):
        check(parts=changed(part, change))


@pytest.mark.parametrize(
    "name",
    [
        "tcb-info-is-qe-identity",
        "tcb-info-unknown-status",
        "tcb-info-two-bodies",
        "tcb-info-short-date",
        "tcb-info-date-without-zone",
        "tcb-info-no-day",
    ],
)
def test_what_intel_s_service_does_not_answer_is_malformed(name: str) -> None:
    part, change = BROKEN[name]
    with refuses("collateral-malformed", NotAuthentic):
        check(parts=changed(part, change))


@pytest.mark.parametrize("number", ["20", True, None, 20.0])
def test_an_evaluation_number_that_is_none(number: object) -> None:
    parts = collateral(qe_identity={"tcbEvaluationDataNumber": number})
    with refuses("collateral-malformed", NotAuthentic) as caught:
        check(parts=parts)
    assert "as a whole number" in str(caught.value)


def test_a_qe_identity_is_no_tcb_info() -> None:
    with refuses("collateral-malformed", NotAuthentic):
        tcb.signed_answer(tcb.TCB_INFO, collateral().parts[tcb.QE_IDENTITY])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(tcb.PARTS), st.binary(max_size=200), st.integers(0, 5000))
def test_any_part_raises_only_our_errors(name: str, data: bytes, at: int) -> None:
    for change in (lambda _: data, lambda b: b[:at] + data + b[at + len(data) :]):
        try:
            check(parts=changed(name, change))
        except UmayError:
            pass


GOOD = TcbResult("UpToDate", frozenset(), 20, MIDNIGHT, MIDNIGHT + DAY)


def decide(result: TcbResult, **options: object) -> None:
    accepted = {"accepted": frozenset({"UpToDate"}), "refused_advisories": frozenset()}
    check_status(result, **(accepted | {"min_evaluation_number": 18} | options))


def test_policy_accepts() -> None:
    decide(GOOD)
    decide(GOOD, min_evaluation_number=20)


def test_out_of_date_status_is_the_policys_to_refuse() -> None:
    result = check(machine().quote(tee_tcb_svn=intel.OUT_OF_DATE_SVN))
    assert result.status == "OutOfDate"
    with refuses("tcb-status", Refused) as caught:
        decide(result)
    assert "SIMULATED-SA-00001" in str(caught.value)
    decide(result, accepted=frozenset({"UpToDate", "OutOfDate"}))


def test_unknown_status_is_refused_even_where_named() -> None:
    with refuses("tcb-status", Refused):
        decide(replace(GOOD, status="Fine"), accepted=frozenset({"Fine"}))


def test_refused_advisory() -> None:
    result = replace(GOOD, advisory_ids=frozenset({"INTEL-SA-01313", "INTEL-SA-00001"}))
    with refuses("advisory", Refused):
        decide(result, refused_advisories=frozenset({"INTEL-SA-01313"}))
    decide(result, refused_advisories=frozenset({"INTEL-SA-09999"}))


def test_old_evaluation_number() -> None:
    with refuses("evaluation-number", Refused):
        decide(GOOD, min_evaluation_number=21)


BY_RELAUNCH = {"TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"}
LEVELS = sorted(TCB_STATUSES - {"UpToDate"} - BY_RELAUNCH)
LATER = {"tcb": {"isvsvn": 200}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}


@pytest.mark.parametrize("status", LEVELS)
def test_every_status_of_intels_list_is_told(status: str) -> None:
    result = check(parts=collateral(tcb_status=status))
    assert result.status == status
    with refuses("tcb-status", Refused):
        decide(result)
    decide(result, accepted=frozenset({status}))


def test_launched_before_an_update() -> None:
    """The platform runs the new module; this TD was launched under the old one."""
    fields = {"tee_tcb_svn2": intel.TEE_TCB_SVN, "mr_servicetd": bytes(48)}
    old = replace(good(), version=5, tee_tcb_svn=intel.OUT_OF_DATE_SVN, **fields)
    result = check(machine().forge(old))
    assert result.status == "TDRelaunchAdvised"
    with refuses("tcb-status", Refused):
        decide(result)


QE_IDENTITIES = {
    "other signer": {"mrsigner": "11" * 32},
    "other product": {"isvprodid": 1},
    "other attributes": {"attributes": "13" + "00" * 15},
    "SGX's enclave": {"id": "QE"},
    "every level above": {"tcbLevels": [LATER]},
    "no level": {"tcbLevels": []},
}


@pytest.mark.parametrize("change", QE_IDENTITIES.values(), ids=QE_IDENTITIES)
def test_quoting_enclave_of_another_identity(change: dict) -> None:
    """Signed by Intel, and not about the enclave that signed this quote."""
    parts = collateral(qe_identity=change)
    with refuses("qe-identity", Refused):
        check(parts=parts)
