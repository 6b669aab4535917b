"""The gpu step: each device's report, then all of them as a set."""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from attestation.collateral import Collateral
from attestation.errors import NotAuthentic, Refused
from attestation.evidence import GPU, Device
from attestation.nvidia import chain as chains
from attestation.nvidia import ocsp
from attestation.nvidia.report import FEATURE, FWID, GpuReport, parse_report
from attestation.nvidia.rim import Rim, read_rim
from attestation.roots import Roots

CHAIN_LENGTH = 5
_ARCHITECTURES = {"GH100": "hopper"}
_FWID_OID = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID_DIGEST = bytes.fromhex("06096086480165030402020430")
"""What stands before the firmware digest in the extension: sha384, OCTET STRING of 48."""
_FWID_SINCE = (550,)
"""Reports of drivers before these carry no firmware digest."""
_MODES = (b"\0\0", b"\1\0")
"""One GPU, several GPUs; 2 is protected PCIe."""
FWID_BYTES = 48
NVDEC0_INDEX = 35


@dataclass(frozen=True)
class Firmware:
    """Published firmware that a device runs: when the first RIM expires (Unix seconds), and
    the chains that signed them, leaf first."""

    expires: int
    chains: tuple[tuple[x509.Certificate, ...], ...]


@dataclass(frozen=True)
class CheckedDevice:
    """A device whose report is signed by its own key under a pinned root."""

    report: GpuReport
    architecture: str
    certificates: tuple[x509.Certificate, ...]
    chip: str


def check_device(device: Device, *, nonce: bytes, roots: Roots, now: int) -> CheckedDevice:
    """Report, nonce (32 bytes), signature, chain at `now`, firmware identity.

    Raises ParseError, NotAuthentic or Refused("gpu", …).
    """
    report = parse_report(device.report)
    certificates = chains.load(device.chain, length=CHAIN_LENGTH)
    chains.check(certificates, pinned=roots.nvidia_device, now=now)
    chains.verify(certificates[0], report.signature, report.signed_region, "the GPU report")
    if not hmac.compare_digest(report.nonce, nonce):
        raise NotAuthentic("gpu", "wrong-nonce", "the report answers another nonce")
    chip = _chip(certificates)
    if device.kind != GPU or chip not in _ARCHITECTURES or len(report.measurements) != 64:
        raise Refused("gpu", "unsupported-device", f"{chip}: only Hopper GPUs are supported yet")
    _check_fwid(certificates[0], report)
    _check_mode(report)
    return CheckedDevice(report, _ARCHITECTURES[chip], certificates, chip)


def check_set(devices: Sequence[CheckedDevice]) -> None:
    """No device counts twice. Raises NotAuthentic("gpu", "duplicate-device")."""
    keys = {chains.spki_digest(device.certificates[1]) for device in devices}
    if len(keys) != len(devices):
        raise NotAuthentic("gpu", "duplicate-device", "one device appears more than once")


def check_driver(device: CheckedDevice, *, minimum: str | None) -> None:
    """Raises Refused("gpu", "driver-too-old")."""
    got = device.report.driver_version
    if minimum is not None and _version(got) < _version(minimum):
        raise Refused("gpu", "driver-too-old", f"expected driver {minimum} or newer, got {got}")


def rim_names(device: CheckedDevice) -> tuple[str, str]:
    """The ids of the driver's and the VBIOS's RIM, as NVIDIA's service names them."""
    report = device.report
    vbios = report.vbios_version.replace(".", "")
    driver = f"NV_GPU_DRIVER_{device.chip}_{report.driver_version}"
    return driver, f"NV_GPU_VBIOS_{report.board}_{vbios}"


def check_measurements(
    device: CheckedDevice, collateral: Collateral, *, roots: Roots, now: int
) -> Firmware:
    """Every measurement against the RIMs of this driver and VBIOS.

    Raises ParseError, NotAuthentic
    or Refused("gpu", "rim-…" / "measurement-mismatch").
    """
    report = device.report
    driver_id, vbios_id = rim_names(device)
    driver_rim = _rim(driver_id, report.driver_version, device, collateral, roots, now)
    vbios_rim = _rim(vbios_id, report.vbios_version, device, collateral, roots, now)
    overlap = driver_rim.golden.keys() & vbios_rim.golden.keys()
    if overlap:
        text = f"driver and VBIOS RIM both name measurement {min(overlap)}"
        raise NotAuthentic("gpu", "rim-overlap", text)
    _compare(report, {**driver_rim.golden, **vbios_rim.golden})
    expires = min(driver_rim.expires, vbios_rim.expires)
    return Firmware(expires, (driver_rim.certificates, vbios_rim.certificates))


def check_revocation(
    device: CheckedDevice, firmware: Firmware, collateral: Collateral, *, now: int
) -> int:
    """OCSP of every certificate below a root: the device's own chain and its RIMs' signers.

    Returns when the first answer expires (Unix seconds). The leaf below the device's
    identity is made by the device itself at each boot and has no responder.
    """
    chains = dict.fromkeys((device.certificates[1:], *firmware.chains))
    return min(
        ocsp.check(item, issuer, collateral, now=now)
        for chain in chains
        for item, issuer in itertools.pairwise(chain)
    )


def _rim(
    name: str, version: str, device: CheckedDevice, collateral: Collateral, roots: Roots, now: int
) -> Rim:
    data = collateral.parts.get(f"nvidia/rim/{name}")
    if data is None:
        raise Refused("gpu", "rim-missing", f"the collateral has no RIM {name}")
    rim = read_rim(data, pinned=roots.nvidia_rim, now=now)
    if rim.version.upper() != version.upper() or rim.product != device.chip:
        text = f"expected {device.chip} {version}, got {rim.product} {rim.version}"
        raise NotAuthentic("gpu", "rim-other", text)
    if not rim.golden:
        raise Refused("gpu", "rim-empty", f"the RIM {name} names no measurement")
    return rim


def _compare(report: GpuReport, golden: dict[int, tuple[bytes, ...]]) -> None:
    for index, measured in enumerate(report.measurements):
        if index == NVDEC0_INDEX and report.nvdec0_disabled:
            continue
        if index in golden and measured not in golden[index]:
            raise Refused("gpu", "measurement-mismatch", f"measurement {index} is not published")
    outside = [index for index in golden if index >= len(report.measurements)]
    if outside:
        raise Refused("gpu", "measurement-mismatch", f"measurement {outside[0]} is missing")


def _check_fwid(leaf: x509.Certificate, report: GpuReport) -> None:
    reported = report.opaque.get(FWID)
    if reported is None:
        if _version(report.driver_version) >= _FWID_SINCE:
            raise chains.broken("fwid-missing", "the report names no firmware")
        return
    try:
        extension = leaf.extensions.get_extension_for_oid(_FWID_OID).value
    except x509.ExtensionNotFound:
        raise chains.broken("fwid-missing", "the certificate names no firmware") from None
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(reported) != FWID_BYTES or not value.endswith(_FWID_DIGEST + reported):
        raise chains.broken("fwid-mismatch", "the certificate is for other firmware")


def _check_mode(report: GpuReport) -> None:
    """In protected-PCIe mode NVLink is in the clear, through switches nobody checks yet."""
    mode = report.opaque.get(FEATURE)
    if mode is not None and mode not in _MODES:
        raise Refused("gpu", "unsupported-mode", f"the GPU runs in feature mode {mode.hex()}")


def _chip(certificates: tuple[x509.Certificate, ...]) -> str:
    """The chip family, by the name under the root; provisioner and device must name it too.

    NVSwitches hang from the Identity certificate of GH100 as well.
    """
    words = chains.name(certificates[-2]).split()
    if len(words) < 2 or words[-1] != "Identity":
        return "unknown"
    below = [chains.name(item).split() for item in certificates[1:-2]]
    return words[-2] if all(words[-2] in names for names in below) else "unknown"


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts):
        raise Refused("gpu", "driver-unknown", f"{text!r} is no driver version")
    return tuple(int(part) for part in parts)
