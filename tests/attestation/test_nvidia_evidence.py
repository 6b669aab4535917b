"""Reports, chains and RIMs of real GPUs and switches, under NVIDIA's own roots."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia import (
    CheckedDevice,
    Firmware,
    check_device,
    check_driver,
    check_measurements,
    check_revocation,
    check_set,
    parse_report,
    read_rim,
    rim_names,
)
from attestation.trust.roots import PRODUCTION
from attestation.x509.certificate import has_signed
from attestation.x509.profile import NVIDIA
from attestation.x509.walk import check_chain, load_chain
from client_sdk.inspection.gpu import pem_certificates
from tests.helpers.nvidia_machine import refuses
from tests.helpers.places import EVIDENCE

INDEX = EVIDENCE / "index.json"
ENTRIES = json.loads(INDEX.read_text()) if INDEX.exists() else []

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not ENTRIES, reason=f"no real evidence in {EVIDENCE}: set UMAY_EVIDENCE"),
]
NOW = int(datetime.fromisoformat("2026-11-23T00:00:00+00:00").timestamp())
DAY = 86_400


def entries(kind: str) -> list:
    found = [entry for entry in ENTRIES if entry["kind"] == kind]
    return [pytest.param(entry, id=Path(entry["file"]).stem) for entry in found]


GPUS, SWITCHES = entries("nvidia_gpu_report"), entries("nvidia_switch_report")


def device(entry: dict) -> Device:
    data = (EVIDENCE / entry["file"]).read_bytes()
    kind = GPU if entry["kind"] == "nvidia_gpu_report" else SWITCH
    certificates = x509.load_pem_x509_certificates(pem(entry))
    return Device(kind, data, tuple(item.public_bytes(Encoding.DER) for item in certificates))


def pem(entry: dict) -> bytes:
    """The chain from its own file, or from the list that NVIDIA's tool wrote."""
    path = EVIDENCE / entry["chain"]
    if path.exists():
        return path.read_bytes()
    listed, _, number = path.stem.rpartition("-")
    items = json.loads((EVIDENCE / "nvidia_evidence_json" / f"{listed}.json").read_text())
    item = items[int(number)]
    if base64.b64decode(item["evidence"]) != (EVIDENCE / entry["file"]).read_bytes():
        raise ValueError(f"{entry['file']} is not item {number} of the list")
    return base64.b64decode(item["certificate"])


def check(entry: dict, **changes: object) -> CheckedDevice:
    settings = {"nonce": bytes.fromhex(entry["nonce"]), "roots": PRODUCTION, "now": NOW} | changes
    return check_device(device(entry), **settings)


def named(part: str) -> dict:
    return next(entry for entry in ENTRIES if part in entry["file"] and "report" in entry["kind"])


@pytest.mark.parametrize("entry", [*GPUS, *SWITCHES])
def test_real_report_is_what_the_index_says(entry: dict) -> None:
    report = parse_report((EVIDENCE / entry["file"]).read_bytes())
    assert report.nonce.hex() == entry["nonce"]
    assert len(report.measurements) == entry["blocks"]
    if entry["blocks"] == 64:
        assert (report.driver_version, report.vbios_version) == (entry["driver"], entry["vbios"])
        board = (entry["project"], entry["project_sku"], entry["chip_sku"])
        assert report.board == "_".join(board)
        assert (20 in report.opaque) is entry["fwid"]


@pytest.mark.parametrize("entry", [*GPUS, *SWITCHES])
def test_real_report_is_signed_up_to_nvidias_root(entry: dict) -> None:
    """Signature and chain, whatever the device and its mode."""
    given = device(entry)
    report, certificates = parse_report(given.report), load_chain(given.chain, NVIDIA, length=5)
    check_chain(certificates, NVIDIA, pinned=PRODUCTION.nvidia_device, now=NOW)
    key = certificates[0].public_key()
    assert has_signed(key, report.signature, report.signed_region)
    assert not has_signed(key, report.signature, report.signed_region[:-1])


@pytest.mark.parametrize("entry", GPUS)
def test_real_gpu(entry: dict) -> None:
    gpu = check(entry)
    assert (gpu.architecture, gpu.chip.product) == ("hopper", "GH100")
    assert gpu.report.protected_pcie == (entry["feature_flag"] == "0200")
    check_driver(gpu, minimum=entry["driver"])
    with refuses("wrong-nonce", NotAuthentic):
        check(entry, nonce=bytes(32))
    with refuses("driver-too-old", Refused):
        check_driver(gpu, minimum="999")
    with refuses("revocation-unknown", Refused):
        check_revocation(gpu, Firmware(NOW, ()), Collateral({}), now=NOW)


@pytest.mark.parametrize("entry", SWITCHES)
def test_real_switch_is_no_gpu(entry: dict) -> None:
    assert check(entry).architecture == "ls10"
    as_gpu = dataclasses.replace(device(entry), kind=GPU)
    with refuses("wrong-class", NotAuthentic):
        check_device(as_gpu, nonce=bytes.fromhex(entry["nonce"]), roots=PRODUCTION, now=NOW)


def test_real_gpus_are_different_devices() -> None:
    gpus = [check(entry.values[0]) for entry in GPUS if entry.values[0]["feature_flag"] is None]
    check_set(gpus)
    with refuses("duplicate-device", NotAuthentic):
        check_set([*gpus, gpus[0]])


# RIMs: what index.json says of each that is no plain, valid RIM.
NEGATIVE = {
    "nvat-incorrect_cert_chain_driver_rim": ("rim-wrong-root", NotAuthentic),
    "nvat-incorrect_signature_driver_rim": ("rim-bad-signature", NotAuthentic),
    "nvat-NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch": ("rim-bad-digest", NotAuthentic),
    "nvat-NV_GPU_DRIVER_GH100_570.124.03_expired": ("rim-bad-digest", NotAuthentic),
    "nvat-NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature": (
        "rim-bad-digest",
        NotAuthentic,
    ),
}


def at(date: str) -> int:
    return int(datetime.fromisoformat(f"{date}T12:00:00+00:00").timestamp())


def read(entry: dict, now: int):
    data = (EVIDENCE / entry["file"]).read_bytes()
    return read_rim(data, pinned=PRODUCTION.nvidia_rim, now=now)


@pytest.mark.parametrize("entry", entries("nvidia_rim"))
def test_real_rim(entry: dict) -> None:
    first, last = (at(date) for date in entry["verification_time"])
    name = entry["file"].split("/")[1].removesuffix(".xml")
    during = first + DAY // 4 if last - first <= DAY else first + DAY
    if name in NEGATIVE:
        code, kind = NEGATIVE[name]
        with refuses(code, kind):
            read(entry, during)
        return
    rim = read(entry, during)
    assert (rim.version, rim.product) == (entry["colloquial_version"], entry["product"])
    expected = 31 if rim.product == "LS10" else 21 if "Driver" in name or "DRIVER" in name else 12
    assert len(rim.golden) == expected
    with refuses("rim-not-yet-valid", Refused):
        read(entry, first - 3 * DAY)
    with refuses("rim-expired", Refused):
        read(entry, last + 3 * DAY)


@functools.cache
def rim_file(part: str) -> bytes:
    return next(EVIDENCE.glob(f"nvidia_rim/*{part}*")).read_bytes()


AT_MATCH = at("2023-12-14")


def measured(driver: str, vbios: str, now: int = AT_MATCH) -> int:
    """The go-nvtrust GPU against two RIM files."""
    parts = {
        "nvidia/rim/NV_GPU_DRIVER_GH100_545.00": rim_file(driver),
        "nvidia/rim/NV_GPU_VBIOS_1010_0200_882_96005E0001": rim_file(vbios),
    }
    gpu = check(named("hopper-gonvtrust-545.00"))
    return check_measurements(gpu, Collateral(parts), roots=PRODUCTION, now=now).expires


OWN_DRIVER, OWN_VBIOS = "Driver_RIM_test_no_gpu", "1010_0200_882_96005E0001_test_no_gpu"


def test_real_gpu_matches_its_published_firmware() -> None:
    assert measured(OWN_DRIVER, OWN_VBIOS) == 1_750_585_134
    with refuses("rim-expired", Refused):
        measured(OWN_DRIVER, OWN_VBIOS, now=NOW)


@pytest.mark.parametrize(
    ("code", "kind", "driver", "vbios"),
    [
        ("rim-other", NotAuthentic, "DRIVER_GH100_550.144.03", OWN_VBIOS),
        ("rim-other", NotAuthentic, OWN_DRIVER, "wheel-1010_0200_882_96005E0003_PROD"),
        ("rim-other", NotAuthentic, OWN_VBIOS, OWN_VBIOS),
        ("measurement-mismatch", Refused, OWN_DRIVER, "VBIOS_1010_0200_882_96005E0001_measurement"),
    ],
    ids=["other-driver", "other-vbios", "vbios-as-driver", "re-issued-with-another-index-9"],
)
def test_real_gpu_against_other_rims(code: str, kind: type, driver: str, vbios: str) -> None:
    now = at("2025-03-01") if "550.144" in driver else AT_MATCH
    with refuses(code, kind):
        measured(driver, vbios, now)


def test_real_report_with_a_stray_byte_is_refused() -> None:
    data = device(named("hopper-nvtrust-550.90.07")).report
    with pytest.raises(ParseError):
        parse_report(data + b"\n")


def real_set() -> list[CheckedDevice]:
    """NVIDIA's own sample of a whole protected-PCIe machine, from its JSON."""
    devices = []
    for kind, name in ((GPU, "hopper-nvtrust-590.12-ppcie"), (SWITCH, "switch-nvtrust-ppcie")):
        path = EVIDENCE / "nvidia_evidence_json" / f"{name}.json"
        for item in json.loads(path.read_text()):
            chain = pem_certificates(base64.b64decode(item["certificate"]))
            given = Device(kind, base64.b64decode(item["evidence"]), chain)
            nonce = bytes.fromhex(item["nonce"])
            devices.append(check_device(given, nonce=nonce, roots=PRODUCTION, now=NOW))
    return devices


def test_real_protected_set_is_exactly_itself() -> None:
    devices = real_set()
    check_set(devices)
    assert len({device.report.nonce for device in devices}) == 1
    for missing in (0, 7, 8, 11):
        with refuses("incomplete-set", Refused):
            check_set(devices[:missing] + devices[missing + 1 :])
    with refuses("duplicate-device", NotAuthentic):
        check_set([*devices[:7], devices[0], *devices[8:]])


def test_real_switch_matches_its_published_firmware() -> None:
    switch = check(named("switch-nvat-ls10"))
    name = rim_names(switch)[0][0]
    rim = next(
        path
        for path in sorted((EVIDENCE / "nvidia_rim").iterdir())
        if name in path.name and "invalid" not in path.name
    )
    collateral = Collateral({f"nvidia/rim/{name}": rim.read_bytes()})
    found = check_measurements(switch, collateral, roots=PRODUCTION, now=at("2026-06-01"))
    assert found.expires == 1_825_199_999
    with refuses("incomplete-set", Refused):
        check_set([switch])
