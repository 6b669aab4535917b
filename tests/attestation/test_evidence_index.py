"""Every file of the evidence index gets the verdict that is written there, for that reason.

Each is given to the same inspection as `umay audit inspect`, with the certificates, RIMs and
collateral that belong to it, at a time at which they were valid. `umay audit inspect` calls
the verifier's own checks, so what holds here holds in the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.platforms.tdx import parse_quote
from attestation.trust.roots import PRODUCTION
from client_sdk.inspection.files import inspect, offered
from client_sdk.inspection.result import CheckInputs, InspectionResult
from tests.helpers.places import EVIDENCE

INDEX = EVIDENCE / "index.json"
ENTRIES = json.loads(INDEX.read_text()) if INDEX.exists() else []
NOW = int(datetime.fromisoformat("2026-11-23T00:00:00+00:00").timestamp())
ANY = "*"

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not ENTRIES, reason=f"no real evidence in {EVIDENCE}: set UMAY_EVIDENCE"),
]

Verdict = dict[str, str]
"""By check: "passed", "not checked", or the code of the failure."""


def seconds(day: str) -> int:
    moment = datetime.fromisoformat(day.replace("Z", "+00:00"))
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def middle(entry: dict) -> int:
    """Halfway through the window that the index gives, or today where it gives none."""
    window = entry["verification_time"]
    if isinstance(window, str) and ".." in window:
        window = window.split("..")
    if not isinstance(window, list) or not isinstance(window[0], str):
        return NOW
    return (seconds(window[0]) + seconds(window[1])) // 2


def given(now: int, *patterns: str) -> CheckInputs:
    paths = sorted(path for pattern in patterns for path in EVIDENCE.glob(pattern))
    return offered(paths, CheckInputs(now, PRODUCTION))


def look(entry: dict, with_: CheckInputs) -> list[InspectionResult]:
    return inspect(entry["file"], (EVIDENCE / entry["file"]).read_bytes(), with_)


def verdict(found: InspectionResult) -> Verdict:
    return {
        check.name: check.code if check.status == "failed" else check.status
        for check in found.checks
    }


def of_kind(*kinds: str) -> list:
    found = [entry for entry in ENTRIES if entry["kind"] in kinds]
    return [pytest.param(entry, id=Path(entry["file"]).name) for entry in found]


def text_of(found: InspectionResult, name: str) -> str:
    return next(check.text for check in found.checks if check.name == name)


INTEL_SAYS = (
    ("UpToDate", {"cpu-tcb": "passed"}),
    ("OutOfDate", {"cpu-tcb": "tcb-status"}),
    ("REJECT: No matching TCB level", {"cpu-tcb": "no-matching-tcb"}),
    ("REJECT: Debug mode", {"cpu-tcb": "debug", "cpu-attributes": "debug"}),
    (
        "REJECT: Failed to verify certificate chain",
        {"cpu-signature": "certificate-not-yet-valid", "cpu-tcb": "not checked"},
    ),
)


@pytest.mark.parametrize("entry", of_kind("tdx_quote"))
def test_tdx_quote(entry: dict) -> None:
    attributes = "sept-ve-disable" if "SEPT_VE_DISABLE=0" in entry["notes"] else "passed"
    alone = look(entry, CheckInputs(NOW, PRODUCTION))[0]
    expected = {"cpu-signature": "passed", "cpu-attributes": attributes, "cpu-tcb": "not checked"}
    if "DEBUG" in entry["notes"]:
        expected["cpu-attributes"] = "debug"
    if any(parse_quote((EVIDENCE / entry["file"]).read_bytes()).mr_config_id):
        expected["cpu-attributes"] = "mr-config-id"  # the plan wants zeros there
    assert verdict(alone) == expected
    assert entry["fmspc"] in text_of(alone, "cpu-signature")
    assert "signatures only" in text_of(alone, "cpu-tcb")
    for judged in entry["verification_time"] or ():
        found = look(entry, given(judged["now"], judged["collateral"]))[0]
        said = next(
            codes for words, codes in INTEL_SAYS if judged["dcap_qvl_0_7_0"].startswith(words)
        )
        assert verdict(found) == expected | {"cpu-tcb": "passed"} | said
        for advisory in judged["advisories"]:
            assert advisory in text_of(found, "cpu-tcb")


@pytest.mark.parametrize("entry", of_kind("sgx_quote"))
def test_sgx_quote_is_refused_by_name(entry: dict) -> None:
    assert verdict(look(entry, CheckInputs(NOW, PRODUCTION))[0]) == {"support": "sgx-quote"}


@pytest.mark.parametrize("entry", of_kind("collateral_bundle"))
def test_bundle_is_signed_and_dated(entry: dict) -> None:
    start, end = (seconds(moment) for moment in entry["verification_time"])
    held = verdict(look(entry, CheckInputs((start + end) // 2, PRODUCTION))[0])
    assert set(held.values()) == {"passed"}
    assert len(held) == 4  # TCB info, QE identity, two CRLs; their chains are what they rest on
    late = verdict(look(entry, CheckInputs(end + 1, PRODUCTION))[0])
    assert set(late.values()) <= {"passed", "collateral-expired"}
    assert "collateral-expired" in late.values()


@pytest.mark.parametrize("entry", of_kind("intel_collateral"))
def test_intels_document_is_signed_and_dated(entry: dict) -> None:
    helpers = ("intel_collateral/*chain*", "collateral_bundle/*", "root_cert/intel*")
    start, end = entry["verification_time"].split("..")
    for found in look(entry, given((seconds(start) + seconds(end)) // 2, *helpers)):
        assert set(verdict(found).values()) == {"passed"}
    if entry["file"].endswith("_chain.txt"):
        return  # certificates outlive what they sign
    days = 100 if "root" in entry["file"] else 3  # Intel renews the root's list once a year
    late = look(entry, given(seconds(end) + days * 86_400, *helpers))[0]
    assert "collateral-expired" in verdict(late).values()
    alone = look(entry, CheckInputs(seconds(start) + 86_400, PRODUCTION))[0]
    if alone.kind.startswith(("Intel", "revocation")):
        assert verdict(alone) == {"signature": "not checked"}


LOGS = {
    "google-ccel_data.dat": ("tdx_quote/*cos-113*", {"measurement": "passed"}),
    "google-ccel_table.dat": ("", {"measurement": "not checked"}),
    "google-nonce.dat": ("", "expected evidence in a known format"),
    "dstack-tee-ccel.bin": ("", {"measurement": "not checked"}),
    "dstack-tee-quote-report.json": (
        "",
        {"measurement": "passed", "event-content": "not checked"},  # blobs, by their places
    ),
    # an application's own events in RTMR3, in the firmware's log
    "confidential-containers-CCEL_AAEL_alibabacloud": ("", {"measurement": "rtmr3-in-ccel"}),
    # td-shim fills its area with zeros where the specification has 0xFF
    "confidential-containers-CCEL_data": ("", {"measurement": "not checked"}),
    "confidential-containers-CCEL_data_gcp": ("", {"measurement": "not checked"}),
    "confidential-containers-CCEL_data_ovmf": ("", {"measurement": "not checked"}),
}


@pytest.mark.parametrize("entry", of_kind("event_log"))
def test_event_log(entry: dict) -> None:
    quotes, expected = LOGS.get(Path(entry["file"]).name, ("", ANY))
    with_ = given(NOW, *([quotes] if quotes else []))
    if isinstance(expected, str) and expected != ANY:
        with pytest.raises(Exception, match=expected):
            look(entry, with_)
        return
    found = look(entry, with_)[0]
    assert expected in (ANY, verdict(found))
    others = given(NOW, "tdx_quote/*tdx_quote_4*")
    if expected == {"measurement": "passed"} and found.kind.startswith("CCEL"):
        assert verdict(look(entry, others)[0]) == {"measurement": "rtmr-mismatch"}


@pytest.mark.parametrize("entry", of_kind("snp_cert"))
def test_amds_certificate_or_list(entry: dict) -> None:
    found = look(entry, given(middle(entry), "snp_cert/*.der"))[0]
    if "invalid" in entry["path"]:  # made to be refused, as its source names it
        assert verdict(found) == {"dates": "passed", "issuer": "bad-signature"}
        return
    assert set(verdict(found).values()) == {"passed"}
    if "SPKI" in entry["notes"]:
        assert any(field.value in entry["notes"] for field in found.fields if field.name == "key")
    late = look(entry, given(seconds(entry["verification_time"][1]) + 86_400, "snp_cert/*.der"))[0]
    assert {"certificate-expired", "crl-expired"} & set(verdict(late).values())


@pytest.mark.parametrize("entry", of_kind("snp_report"))
def test_snp_report(entry: dict) -> None:
    """Azure's were launched with an ID block, which no release of ours names."""
    found = look(entry, given(middle(entry), "snp_cert/*--*.der"))[0]
    attributes = "debug" if "DEBUG" in entry["notes"] else "id-block"
    if "signature OK" not in entry["notes"]:
        assert verdict(found)["cpu-signature"] == "not checked"
        return
    got = verdict(found)
    assert got["cpu-signature"] == "passed"
    assert got["cpu-attributes"] == attributes
    assert got["cpu-tcb"] == "not checked"  # without a CRL
    assert re.match(r"\w+", entry["notes"])[0] in text_of(found, "cpu-signature")


@pytest.mark.parametrize("entry", of_kind("azure_vtpm"))
def test_azure_is_explained_and_refused_by_name(entry: dict) -> None:
    found = look(entry, given(NOW, "snp_cert/*.der"))
    if entry["file"].endswith(".pem"):
        assert {check.status for item in found for check in item.checks} == {"passed"}
        return
    got = verdict(found[0])
    assert got.pop("support") == "azure-paravisor"
    whole = "evidence" in entry["file"]
    if whole:
        assert got == {"azure-runtime": "passed", "vtpm": "passed"}
        assert verdict(found[1])["cpu-signature"] == "passed"
    else:
        assert set(got.values()) <= {"passed", "not checked"}


def gpu_helpers(entry: dict, now: int) -> CheckInputs:
    chain = EVIDENCE / entry["chain"]
    if chain.exists():
        return given(now, entry["chain"], "nvidia_rim/*")
    lists = "hopper-nvtrust-590.12-ppcie" if "hopper" in entry["file"] else "switch-nvtrust-ppcie"
    return given(now, f"nvidia_evidence_json/{lists}.json", "nvidia_rim/*")


FIRMWARE_AT = {"GPU": "2024-06-01", "switch": "2026-11-01"}


@pytest.mark.parametrize("entry", of_kind("nvidia_gpu_report", "nvidia_switch_report"))
def test_nvidia_report(entry: dict) -> None:
    at = seconds(FIRMWARE_AT["switch" if "switch" in entry["file"] else "GPU"])
    found = look(entry, gpu_helpers(entry, at))[0]
    matched = "FULL MATCH" in entry["notes"]
    got = verdict(found)
    assert got["gpu"] == "passed"
    if matched:
        assert got["gpu-firmware"] == "passed"
    else:
        assert got["gpu-firmware"] in ("not checked", "rim-missing")
    assert ("NVSwitch" in found.kind) is (entry["kind"] == "nvidia_switch_report")


@pytest.mark.parametrize("entry", of_kind("nvidia_cert_chain"))
def test_nvidia_chain(entry: dict) -> None:
    found = look(entry, CheckInputs(NOW, PRODUCTION))
    assert len(found) == 5
    assert {check.status for item in found for check in item.checks} == {"passed"}
    assert text_of(found[-1], "issuer") == "it is a pinned root"


@pytest.mark.parametrize("entry", of_kind("nvidia_evidence_json"))
def test_nvidias_own_json(entry: dict) -> None:
    found = look(entry, CheckInputs(NOW, PRODUCTION))
    assert len(found) == (8 if "hopper" in entry["file"] else 4)
    assert {verdict(item)["gpu"] for item in found} == {"passed"}


@pytest.mark.parametrize("entry", of_kind("nvidia_claims"))
def test_claims_are_no_evidence(entry: dict) -> None:
    assert verdict(look(entry, CheckInputs(NOW, PRODUCTION))[0]) == {"support": "unsigned-claims"}


RIM_SAYS = (
    ("signature, digest and chain OK", "passed"),
    ("XML signature, digest and chain to RIM root OK", "passed"),
    ("OK", "passed"),
    ("digest mismatch", "rim-bad-digest"),
    ("signature invalid", "rim-bad-signature"),
    ("GB100 VBIOS RIM", "rim-wrong-root"),
)


@pytest.mark.parametrize("entry", of_kind("nvidia_rim"))
def test_rim(entry: dict) -> None:
    expected = next(code for words, code in RIM_SAYS if entry["notes"].startswith(words))
    assert verdict(look(entry, CheckInputs(middle(entry), PRODUCTION))[0]) == {"rim": expected}
    late = look(
        entry, CheckInputs(seconds(entry["verification_time"][1]) + 2 * 86_400, PRODUCTION)
    )[0]
    assert verdict(late)["rim"] in {expected, "rim-expired"} - {"passed"}


PINNED_ROOTS = ("nvidia-device-identity-ca", "nvidia-corim-root", "intel-sgx-root-ca")


@pytest.mark.parametrize("entry", of_kind("root_cert"))
def test_root(entry: dict) -> None:
    """Three are ours; the others are roots of services that Umay does not believe."""
    found = look(entry, CheckInputs(middle(entry), PRODUCTION))[-1]
    expected = "passed" if Path(entry["file"]).stem in PINNED_ROOTS else "not checked"
    assert verdict(found)["issuer"] == expected


def kinds_tested() -> Iterator[str]:
    return iter(re.findall(r'"(\w+)"', " ".join(re.findall(r"of_kind\(([^)]*)\)", _SOURCE))))


_SOURCE = Path(__file__).read_text()


def test_no_kind_is_left_out() -> None:
    assert {entry["kind"] for entry in ENTRIES} <= set(kinds_tested())
