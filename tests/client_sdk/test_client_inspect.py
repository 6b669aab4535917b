"""`umay audit inspect`: every format by name, and the reason for each that does not hold."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ParseError, UsageError
from attestation.platforms.tdx.quote import write_pem
from attestation.trust.roots import PRODUCTION
from client_sdk.cli import umay
from client_sdk.inspection import result
from client_sdk.inspection.files import inspect, inspect_files
from client_sdk.inspection.result import CheckInputs, InspectionResult, at, exit_code, readings
from tests.helpers.places import EVIDENCE
from tests.helpers.tdx_machine import machine
from tests.helpers.world import NOW, World
from tests.vectors import generate

MAYBE = CheckInputs(NOW, PRODUCTION)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def codes(found: list[InspectionResult]) -> dict[str, str]:
    """Each failed check and its code."""
    return {c.name: c.code for item in found for c in item.checks if c.status == "failed"}


def kinds(found: list[InspectionResult]) -> list[str]:
    return [item.kind.partition(",")[0] for item in found]


def test_everything_in_evidence_is_explained_and_holds(world: World) -> None:
    mine = CheckInputs(NOW, world.policy.roots, world.collateral)
    found = inspect("e", world.evidence.to_bytes(), mine)
    assert kinds(found) == [
        "Evidence of a TDX machine",
        "KeyBundle",
        "TDX quote",
        "CCEL event log",
        "NVIDIA GPU report",
    ]
    assert exit_code(found) == 0
    assert all(check.status == "passed" for item in found for check in item.checks)


def test_what_lacks_is_not_a_pass(world: World) -> None:
    found = inspect("e", world.evidence.to_bytes(), CheckInputs(NOW, world.policy.roots))
    assert exit_code(found) == 6 and not codes(found)
    assert any("signatures only" in check.text for item in found for check in item.checks)


def test_simulated_evidence_is_no_vendor_s(world: World) -> None:
    found = inspect("e", world.evidence.to_bytes(), CheckInputs(NOW, PRODUCTION, world.collateral))
    assert codes(found)["cpu-signature"] == "simulated-root"
    assert exit_code(found) == 3


def test_forged_debug_td_is_named(world: World) -> None:
    attributes = bytearray.fromhex("0000001000000000")
    attributes[0] |= 1
    quote = world.forge(td_attributes=bytes(attributes)).quote
    found = inspect("q", quote, CheckInputs(NOW, world.policy.roots, world.collateral))
    assert codes(found)["cpu-attributes"] == "debug"


@pytest.mark.parametrize("name", ["key_bundle", "evidence", "collateral", "leaf"])
def test_own_formats_are_known(name: str) -> None:
    values = generate.vectors()
    found = inspect(name, bytes.fromhex(values[name]), MAYBE)
    assert found[0].fields
    if name == "evidence":  # its quote is no quote, which is said beside the rest
        assert codes(found)["format"] == "malformed" and exit_code(found) == 3


@pytest.mark.parametrize("name", ["signed_receipt", "tlog_proof"])
def test_signed_formats_are_known(name: str) -> None:
    assert inspect(name, bytes.fromhex(generate.vectors()[name]), MAYBE)[0].fields


def test_hex_and_base64_are_read(world: World) -> None:
    quote = world.evidence.quote
    forms = {
        "raw": quote,
        "hex": b"0x" + quote.hex().encode() + b"\n",
        "base64": base64.encodebytes(quote),
    }
    for encoding, data in forms.items():
        assert inspect("q", data, MAYBE)[0].encoding == encoding


@given(st.binary(max_size=400))
@settings(max_examples=150)
def test_arbitrary_bytes_are_explained_or_refused(data: bytes) -> None:
    list(readings(data))
    try:
        inspect("x", data, MAYBE)
    except ParseError:
        pass


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1790000000", 1_790_000_000), ("2026-09-21T14:13:20", 1_790_000_000), ("2026-09-21", None)],
)
def test_times(text: str, seconds: int | None) -> None:
    assert at(text) == (seconds if seconds is not None else 1_789_948_800)


def test_a_time_that_is_none() -> None:
    with pytest.raises(UsageError):
        at("yesterday")


def test_the_command(world: World, tmp_path: Path) -> None:
    file, collateral, policy = (tmp_path / name for name in ("e", "c", "p.toml"))
    file.write_bytes(world.evidence.to_bytes())
    collateral.write_bytes(world.collateral.to_bytes())
    arguments = ["audit", "inspect", str(file), "--collateral", str(collateral), "--at", str(NOW)]
    run = CliRunner().invoke(umay, [*arguments, "--json"])
    assert run.exit_code == 3 and json.loads(run.output)["found"][2]["checks"][0]["code"]
    policy.write_text(policy_text(world))
    shown = CliRunner().invoke(umay, [*arguments, "--policy", str(policy)])
    assert shown.exit_code == 0, shown.output
    assert "mr_td" in shown.output


def policy_text(world: World) -> str:
    from tests.attestation.test_policy import GOOD, UNSAFE

    text, roots = GOOD + UNSAFE, world.policy.roots
    for field in dataclasses.fields(roots):
        digests = getattr(roots, field.name)
        if isinstance(digests, frozenset):
            listed = ", ".join(f'"{digest.hex()}"' for digest in digests)
            text = re.sub(rf"(?m)^{field.name} = .*$", f"{field.name} = [{listed}]", text)
    return text


REAL = {
    "DEBUG TD": ("tdx_quote", "tdx_quote_4", {"cpu-attributes": "debug"}, ""),
    "SEPT_VE_DISABLE=0": (
        "tdx_quote",
        "v4-confidential-containers-evidence-v0",
        {"cpu-attributes": "sept-ve-disable"},
        "",
    ),
    "out-of-date TCB": (
        "tdx_quote",
        "tdx_quote-f1c85033",
        {"cpu-tcb": "tcb-status"},
        "2026-10-20 collateral_bundle/b0c06f000000-tdx-2026-10-08.json",
    ),
    "no matching TCB level": (
        "tdx_quote",
        "tdx_quote_outdated",
        {"cpu-tcb": "no-matching-tcb"},
        "2026-03-01 collateral_bundle/90c06f000000-tdx-2026-02-18.json",
    ),
    "expired RIM": ("nvidia_rim", "570.124.03_expired", {"rim": "rim-expired"}, ""),
    "RIM mismatch": ("nvidia_rim", "535.86.09_measurement_mismatch", {"rim": "rim-bad-digest"}, ""),
    "wrong RIM signature": (
        "nvidia_rim",
        "incorrect_signature_driver_rim",
        {"rim": "rim-bad-signature"},
        "",
    ),
    "wrong RIM chain": ("nvidia_rim", "incorrect_cert_chain", {"rim": "rim-wrong-root"}, ""),
    "debug SNP policy": ("snp_report", "google-attestation", {"cpu-attributes": "debug"}, ""),
    "SGX quote": ("sgx_quote", "sgx-quote-v3", {"support": "sgx-quote"}, ""),
    "Azure paravisor": (
        "azure_vtpm",
        "snp-evidence-v0",
        {"support": "azure-paravisor", "cpu-attributes": "id-block"},
        "",
    ),
    "Azure TDX": ("azure_vtpm", "tdx-hcl-report", {"support": "azure-paravisor"}, ""),
}


@pytest.mark.evidence
@pytest.mark.parametrize(("kind", "part", "expected", "beside"), REAL.values(), ids=REAL)
def test_real_samples_are_refused_for_their_own_reason(
    kind: str, part: str, expected: dict[str, str], beside: str
) -> None:
    if not EVIDENCE.exists():
        pytest.skip("no hardware evidence here; set UMAY_EVIDENCE")
    file = next(path for path in sorted((EVIDENCE / kind).iterdir()) if part in path.name)
    arguments = ["audit", "inspect", "--json", str(file)]
    if beside == "chain":
        chain = EVIDENCE / "nvidia_cert_chain" / (file.stem + ".pem")
        arguments += ["--collateral", str(chain)]
    elif beside:
        moment, collateral = beside.split()
        arguments += ["--at", moment, "--collateral", str(EVIDENCE / collateral)]
    run = CliRunner().invoke(umay, arguments)
    failed = {
        check["name"]: check["code"]
        for item in json.loads(run.output)["found"]
        for check in item["checks"]
        if check["status"] == "failed"
    }
    assert run.exit_code in (3, 4)
    assert failed == expected
    assert "" not in failed.values()


@pytest.mark.evidence
def test_real_switch_is_named_as_one() -> None:
    if not EVIDENCE.exists():
        pytest.skip("no hardware evidence here; set UMAY_EVIDENCE")
    file = EVIDENCE / "nvidia_switch_report" / "switch-nvat-ls10.bin"
    chain = EVIDENCE / "nvidia_cert_chain" / "switch-nvat-ls10.pem"
    arguments = ["audit", "inspect", "--json", str(file), "--collateral", str(chain)]
    found = json.loads(CliRunner().invoke(umay, arguments).output)["found"][0]
    assert found["kind"] == "NVIDIA NVSwitch report"
    assert found["checks"][0]["status"] == "passed"


def test_a_certificate_whose_key_is_no_point(tmp_path: Path) -> None:
    """Found by fuzzing: the library reads the certificate and refuses its key only later."""
    good = x509.load_der_x509_certificate(machine().root_der)
    point = good.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    broken = machine().root_der.replace(point, b"\4" + bytes(64))
    file = tmp_path / "broken.pem"
    file.write_bytes(write_pem(broken) + write_pem(machine().root_der))
    run = CliRunner().invoke(umay, ["audit", "inspect", "--json", str(file)])
    assert isinstance(run.exception, SystemExit | ParseError)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_that_is_too_long_leaves_the_others_their_verdict(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(result, "MAX_FILE_BYTES", 1 << 20)
    paths = [tmp_path / "evidence", tmp_path / "collateral"]
    paths[0].write_bytes(world.evidence.to_bytes())
    paths[1].write_bytes(world.collateral.to_bytes())
    alone = inspect_files(paths, CheckInputs(NOW, world.policy.roots))
    long = tmp_path / "long"
    long.write_bytes(bytes((1 << 20) + 1))
    together = [*paths[:place], long, *paths[place:]]
    found = inspect_files(together, CheckInputs(NOW, world.policy.roots))
    named = next(item for item in found if item.file == str(long))
    assert [item for item in found if item is not named] == alone
    expected = f"{long}: expected at most 1048576 bytes, got more"
    assert [(check.status, check.text) for check in named.checks] == [("not checked", expected)]
    assert exit_code([named]) == 6 and exit_code(found) == max(6, exit_code(alone))


def test_a_file_as_long_as_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "MAX_FILE_BYTES", 1 << 10)
    (tmp_path / "file").write_bytes(bytes(1 << 10))
    assert exit_code(inspect_files([tmp_path / "file"], CheckInputs(NOW, PRODUCTION))) == 3


def test_the_command_with_a_file_that_is_too_long(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "evidence").write_bytes(world.evidence.to_bytes())
    (tmp_path / "long").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "policy.toml").write_text(policy_text(world))
    files = [str(tmp_path / "long"), str(tmp_path / "evidence")]
    arguments = ["audit", "inspect", *files, "--policy", str(tmp_path / "policy.toml"), "--json"]
    run = CliRunner().invoke(umay, [*arguments, "--at", str(NOW)])
    assert run.exit_code == 6
    assert len(json.loads(run.stdout)["found"]) > 2
