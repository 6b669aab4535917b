"""Every captured file gets the verdict of its index, from the inspection and from the plan's steps.

The verdicts are sentences of fixed phrases, and `SAYS` names the check behind each phrase: a
new file whose verdict no test knows fails here.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation import nvidia
from attestation.errors import ParseError, VerificationError
from attestation.formats.evidence import GPU, Device
from attestation.platforms.cpu import Cpu
from attestation.platforms.snp.cpu import SnpCpu
from attestation.platforms.tdx import check_tcb, cut_fill, cut_padding, replay
from attestation.platforms.tdx.cpu import TdxCpu
from attestation.trust.policy import Policy
from attestation.trust.roots import PRODUCTION
from attestation.x509.certificate import load_certificate
from client_sdk.cli import umay
from client_sdk.inspection.files import inspect, offered
from client_sdk.inspection.pool import SignatureTries, chip_chain
from client_sdk.inspection.result import CheckInputs, InspectionResult
from tests.attestation.test_policy import GOOD
from tests.helpers.places import CAPTURED, EVIDENCE

INDEX = CAPTURED / "index.json"
ENTRIES: list[dict] = json.loads(INDEX.read_text()) if INDEX.exists() else []
NOW = 1_795_392_000
"""2026-11-23, when every certificate without a verdict time of its own is valid."""

POLICY = Policy.from_toml(
    GOOD.encode()
    .replace(b'platforms = ["tdx"]', b'platforms = ["tdx", "snp"]')
    .replace(b'signers = ["VCEK"]', b'signers = ["VCEK", "VLEK"]')
)

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not ENTRIES, reason=f"no captured evidence in {CAPTURED}"),
]

Verdict = dict[str, str]
"""By check: "passed", "not checked", or the code of the failure."""

SAYS: dict[str, dict[str, Verdict]] = {
    "SNP report": {
        "signature holds (VCEK/VLEK under AMD's root)": {"cpu-signature": "passed"},
        "attributes good": {"cpu-attributes": "passed"},
        "refuse: ID block that no release names": {"cpu-attributes": "id-block"},
        "TCB unchecked without a CRL": {"cpu-tcb": "not checked"},
    },
    "VCEK/VLEK certificate": {
        "certificate of AMD, under its ASK/ASVK": {"dates": "passed", "issuer": "passed"},
    },
    "dcap bundle": {
        "signed and dated": {
            "intel/tcb_info": "passed",
            "intel/qe_identity": "passed",
            "intel/pck_crl": "passed",
            "intel/root_crl": "passed",
        },
    },
    "TDX quote": {
        "signature holds": {"cpu-signature": "passed"},
        "the zeros are padding": {},  # judged below
        "must serve the CCEL beside it": {},
        "refuse: a service TD is bound": {"cpu-attributes": "service-td"},
        "refuse: PERFMON": {"cpu-attributes": "perfmon"},
        "at AT with its collateral: TCB OutOfDate": {"cpu-tcb": "tcb-status"},
    },
    "CCEL": {"replays to RTMR0-2 of FILE": {"measurement": "passed"}},
    "GPU report": {
        "signature and chain hold": {"gpu": "passed"},
        "firmware unchecked (no RIM at hand)": {"gpu-firmware": "not checked"},
    },
}


def kind_of(entry: dict) -> str:
    return next(kind for kind in SAYS if entry["what"].startswith(kind))


def of_kind(*kinds: str) -> list:
    found = [entry for entry in ENTRIES if entry["what"].startswith(kinds)]
    return [pytest.param(entry, id=entry["file"]) for entry in found]


def phrases(entry: dict) -> list[str]:
    """The parts of a verdict, without what a test reads out of it by itself."""
    text = re.sub(r"at \d+ with", "at AT with", entry["right_verdict"])
    text = re.sub(r" of \S+\.bin$", " of FILE", text)
    text = re.sub(r" INTEL-SA[\w,-]*", "", re.sub(r" \(dcap-qvl [\d.]+\)", "", text))
    return text.split("; ")


def expected(entry: dict) -> Verdict:
    says = SAYS[kind_of(entry)]
    return {name: code for phrase in phrases(entry) for name, code in says[phrase].items()}


def content(name: str) -> bytes:
    return (CAPTURED / name).read_bytes()


def moment(entry: dict) -> int:
    """The index's own, else the middle of the signer's life, else NOW."""
    signer = entry.get("signer_certificate") or entry["file"]
    if not signer.endswith(".der"):
        return int(entry.get("at", NOW))
    found = load_certificate(content(signer))
    return int((found.not_valid_before_utc.timestamp() + found.not_valid_after_utc.timestamp()) / 2)


def helpers(entry: dict) -> list[Path]:
    """The files that belong to this one."""
    names = (entry.get(key) for key in ("signer_certificate", "collateral", "chain"))
    beside = [CAPTURED / name for name in names if name]
    if entry["what"].startswith("CCEL"):
        beside.append(CAPTURED / entry["right_verdict"].split()[-1])
    if "snp" in entry["file"]:
        beside += sorted((EVIDENCE / "snp_cert").glob("*--ARK*.der"))
    return beside


def given(entry: dict) -> CheckInputs:
    return offered(helpers(entry), CheckInputs(moment(entry), PRODUCTION))


def look(entry: dict) -> InspectionResult:
    return inspect(entry["file"], content(entry["file"]), given(entry))[0]


def verdict(found: InspectionResult) -> Verdict:
    return said([vars(check) for check in found.checks])


def said(checks: list[dict]) -> Verdict:
    return {
        check["name"]: check["code"] if check["status"] == "failed" else check["status"]
        for check in checks
    }


def plan(cpu: Cpu, at: int) -> Verdict:
    """The codes of the plan's two first steps, as a verifier runs them."""
    return {
        "cpu-signature": code(lambda: cpu.check_signature(roots=PRODUCTION, now=at)),
        "cpu-attributes": code(lambda: cpu.check_attributes(POLICY)),
    }


def code(step: Callable[[], object]) -> str:
    try:
        step()
    except VerificationError as error:
        return error.code
    return "passed"


def test_the_index_is_the_folder() -> None:
    listed = {entry["file"]: entry["sha256"] for entry in ENTRIES}
    chains = {entry.get("chain") for entry in ENTRIES}
    lying = [path for path in CAPTURED.iterdir() if path != INDEX and path.name not in chains]
    assert listed == {path.name: sha256(path.read_bytes()).hexdigest() for path in lying}


@pytest.mark.parametrize("entry", of_kind(""))
def test_every_verdict_is_known(entry: dict) -> None:
    """A new file, or a new word about an old one, needs a test."""
    tested = {param.values[0]["file"] for kinds in KINDS_TESTED for param in of_kind(*kinds)}
    assert entry["file"] in tested
    assert expected(entry)


@pytest.mark.parametrize("entry", of_kind("SNP report"))
def test_snp_report(entry: dict) -> None:
    found = look(entry)
    assert verdict(found) == expected(entry)
    signer, family = ("VLEK", "Milan") if "VLEK" in entry["what"] else ("VCEK", "Turin")
    assert found.checks[0].text == f"signed by a {signer} of {family}"
    cpu = SnpCpu(content(entry["file"]), ())
    cpu.certificates = chip_chain(cpu.report, given(entry).certificates, SignatureTries())
    steps = plan(cpu, moment(entry))
    assert steps.items() <= expected(entry).items()
    assert str(cpu.report.version) in entry["what"] and cpu.key.family == family


@pytest.mark.parametrize("entry", of_kind("SNP report"))
def test_snp_report_by_itself_or_of_another_chip(entry: dict) -> None:
    data = content(entry["file"])
    alone = inspect("alone", data, CheckInputs(moment(entry), PRODUCTION))[0]
    assert verdict(alone)["cpu-signature"] == "not checked"
    others = offered(
        sorted((EVIDENCE / "snp_cert").glob("*.der")), CheckInputs(moment(entry), PRODUCTION)
    )
    beside = inspect("beside others", data, others)[0]
    assert verdict(beside)["cpu-signature"] == "not checked"
    expected = "has signed this report" if "vlek" in entry["file"] else "is this chip's"
    assert expected in beside.checks[0].text
    forged = bytearray(data)
    forged[0x90] ^= 1  # measurement
    found = inspect("forged", bytes(forged), given(entry))[0]
    assert verdict(found)["cpu-signature"] == "bad-signature"


@pytest.mark.parametrize("entry", of_kind("VCEK/VLEK certificate"))
def test_amds_certificate(entry: dict) -> None:
    found = look(entry)
    assert verdict(found) == expected(entry)
    alone = inspect("alone", content(entry["file"]), CheckInputs(moment(entry), PRODUCTION))[0]
    assert verdict(alone)["issuer"] == "not checked"


@pytest.mark.parametrize("entry", of_kind("dcap bundle"))
def test_bundle(entry: dict) -> None:
    user = next(other for other in ENTRIES if other.get("collateral") == entry["file"])
    at = user["at"]
    data = content(entry["file"])
    assert verdict(inspect("bundle", data, CheckInputs(at, PRODUCTION))[0]) == expected(entry)
    late = verdict(inspect("bundle", data, CheckInputs(at + 40 * 86_400, PRODUCTION))[0])
    assert "collateral-expired" in late.values()


@pytest.mark.parametrize("entry", of_kind("TDX quote"))
def test_tdx_quote(entry: dict) -> None:
    found = look(entry)
    right = expected(entry)
    assert right.items() <= verdict(found).items()
    assert not {"length", "format"} & verdict(found).keys()
    cpu = TdxCpu(cut_padding(content(entry["file"])))
    assert f"version {cpu.quote.version}" in found.kind
    assert f"v{cpu.quote.version}" in entry["what"]
    steps = plan(cpu, moment(entry))
    assert steps == {name: verdict(found)[name] for name in steps}
    if "collateral" not in entry:
        assert verdict(found)["cpu-tcb"] == "not checked"
    if not {"refuse", "at"} & set(re.findall(r"\w+", entry["right_verdict"])):
        assert verdict(found)["cpu-attributes"] == "passed"


@pytest.mark.parametrize("entry", [p for p in of_kind("TDX quote") if "at" in p.values[0]])
def test_tdx_quote_with_the_collateral_of_its_day(entry: dict) -> None:
    """The status and exactly these advisories, and the quote as it stands against the policy."""
    advisories = set(re.findall(r"INTEL-SA-\d+", entry["right_verdict"]))
    text = next(check.text for check in look(entry).checks if check.name == "cpu-tcb")
    assert "got OutOfDate" in text
    assert set(re.findall(r"INTEL-SA-\d+", text)) == advisories
    collateral, at = given(entry).collateral, entry["at"]
    cpu = TdxCpu(content(entry["file"]))
    cpu.check_signature(roots=PRODUCTION, now=at)
    assert collateral is not None
    result = check_tcb(cpu.bytes, collateral, root_der=cpu.pck.root_der, now=at)
    assert (result.status, set(result.advisory_ids)) == ("OutOfDate", advisories)
    assert code(lambda: cpu.check_tcb(collateral, POLICY, now=at)) == "tcb-status"


PADDED = [param for param in of_kind("TDX quote") if "zero bytes" in param.values[0]["what"]]


@pytest.mark.parametrize("entry", PADDED)
def test_zeros_after_a_quote_are_padding_and_nothing_else_is(entry: dict) -> None:
    data = content(entry["file"])
    zeros = int(re.search(r"(\d+) zero bytes", entry["what"])[1])
    told = next(field.value for field in look(entry).fields if field.name == "padding")
    assert told == f"{zeros} zero bytes after the quote"
    assert len(cut_padding(data)) == len(data) - zeros
    with pytest.raises(ParseError):
        TdxCpu(data)  # evidence carries the quote alone
    other = data[:-1] + b"\1"
    with pytest.raises(ParseError):
        cut_padding(other)
    got = verdict(inspect("other", other, given(entry))[0])
    assert got["length"] == "malformed" and got["cpu-signature"] == "passed"


@pytest.mark.parametrize("entry", of_kind("CCEL"))
def test_event_log(entry: dict) -> None:
    """It replays to the quote that stands padded beside it, and to no other."""
    assert verdict(look(entry)) == expected(entry)
    data = content(entry["file"])
    quote = TdxCpu(cut_padding(content(entry["right_verdict"].split()[-1]))).quote
    assert replay(cut_fill(data), ())[:3] == quote.rtmrs[:3]
    for other in of_kind("TDX quote"):
        beside = offered([CAPTURED / other.values[0]["file"]], CheckInputs(NOW, PRODUCTION))
        passed = verdict(inspect("log", data, beside)[0])["measurement"] == "passed"
        assert passed is (other.values[0]["file"] in entry["right_verdict"])


@pytest.mark.parametrize("entry", of_kind("GPU report"))
def test_gpu_report(entry: dict) -> None:
    found = look(entry)
    assert verdict(found) == expected(entry)
    fields = {field.name: field.value for field in found.fields}
    assert f"driver {fields['driver_version']}" in entry["what"]
    assert fields["board"].upper() in entry["what"]
    assert fields["vbios_version"] in entry["file"]
    chain = offered(helpers(entry), CheckInputs(NOW, PRODUCTION)).certificates
    device = Device(GPU, content(entry["file"]), chain)
    nonce = nvidia.parse_report(device.report).nonce
    checked = nvidia.check_device(device, nonce=nonce, roots=PRODUCTION, now=NOW)
    assert checked.architecture == "hopper"
    alone = inspect("alone", device.report, CheckInputs(NOW, PRODUCTION))[0]
    assert verdict(alone)["gpu"] == "not checked"


@pytest.mark.parametrize("entry", of_kind(*SAYS))
def test_the_command_says_the_same(entry: dict) -> None:
    """The exit code follows the worst check: 3 not authentic, 4 refused, 6 not checked."""
    users = [entry, *(user for user in ENTRIES if user.get("collateral") == entry["file"])]
    arguments = ["audit", "inspect", "--json", str(CAPTURED / entry["file"])]
    arguments += ["--at", str(moment(users[-1]))]
    for path in helpers(entry):
        arguments += ["--collateral", str(path)]
    run = CliRunner().invoke(umay, arguments)
    checks = json.loads(run.output)["found"][0]["checks"]
    assert expected(entry).items() <= said(checks).items()
    statuses = {check["status"] for check in checks}
    assert run.exit_code == (4 if "failed" in statuses else 6 if "not checked" in statuses else 0)


def wrappers() -> dict[str, tuple[object, set[str]]]:
    """The captured parts in JSON, as the services that gave them do, and what must pass."""
    quote, log = content("tdx-v4-c8s-padded.bin"), content("ccel-c8s.bin")
    gpu = next(entry for entry in ENTRIES if kind_of(entry) == "GPU report")
    device = {
        "arch": "HOPPER",
        "certificate": base64.b64encode(content(gpu["chain"])).decode(),
        "evidence": base64.b64encode(content(gpu["file"])).decode(),
    }
    nonce = nvidia.parse_report(content(gpu["file"])).nonce.hex()
    payload = {"nonce": nonce, "arch": "HOPPER", "evidence_list": [device]}
    snp = gzip.compress(content("snp-v3-aws-vlek.bin"))
    beside = {"cc_eventlog": base64.urlsafe_b64encode(log).decode(), "quote": quote.hex()}
    return {
        "c8s": ({"platform": "tdx", "evidence": beside}, {"cpu-signature", "measurement"}),
        "Chutes": ([{"quote": quote.hex(), "gpu_evidence": [device]}], {"cpu-signature", "gpu"}),
        "near.ai": (
            {"intel_quote": quote.hex(), "nvidia_payload": json.dumps(payload)},
            {"cpu-signature", "gpu", "nonce"},
        ),
        "payload": (payload, {"gpu", "nonce"}),
        "Tinfoil": (
            {"format": "snp-guest/v2", "body": base64.b64encode(snp).decode()},
            {"cpu-attributes"},
        ),
    }


@pytest.mark.parametrize("name", ["c8s", "Chutes", "near.ai", "payload", "Tinfoil"])
def test_captured_parts_are_found_and_judged_in_their_wrapper(name: str) -> None:
    value, right = wrappers()[name]
    found = inspect(name, json.dumps(value).encode(), CheckInputs(NOW, PRODUCTION))
    checks = [check for item in found for check in item.checks]
    assert right <= {check.name for check in checks if check.status == "passed"}
    assert not [check for check in checks if check.status == "failed"]


KINDS_TESTED = [(kind,) for kind in SAYS]
