"""Checks of devices: the report of each one, then all of them as a set."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from attestation.errors import NotAuthentic, Refused
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia.report import FEATURE, FWID, GpuReport, parse_report
from attestation.nvidia.topology import check_topology
from attestation.trust.roots import Roots
from attestation.x509.certificate import common_name, expires, has_signed, spki_digest
from attestation.x509.profile import NVIDIA
from attestation.x509.walk import Chain, check_chain, load_chain

CHAIN_LENGTH = 5

_FWID_DIGEST = bytes.fromhex("06096086480165030402020430")
"""What stands before the firmware digest in the extension: sha384, OCTET STRING of 48."""
_FWID_SINCE = (550,)
"""Reports of drivers before these carry no firmware digest."""
_MODES = (b"\0\0", b"\1\0", b"\2\0")
"""One GPU, several GPUs, protected PCIe."""
FWID_BYTES = 48


@dataclass(frozen=True)
class Chip:
    """A family of devices. `mark` stands in the names of its certificates, `family` in that
    of the Identity CA above; `product` is its name in RIMs; `fwid` the OID under which its
    leaf names the firmware."""

    mark: str
    family: str
    architecture: str
    kind: int
    blocks: int
    product: str
    fwid: x509.ObjectIdentifier


_DICE = x509.ObjectIdentifier("2.23.133.5.4.1")
_DICE_LIST = x509.ObjectIdentifier("2.23.133.5.4.1.1")
CHIPS = (
    Chip("GH100", "GH100", "hopper", GPU, 64, "GH100", _DICE),
    Chip(
        "GB100",
        "GB100",
        "blackwell",
        GPU,
        64,
        "GB100",
        x509.ObjectIdentifier(_DICE.dotted_string + ".1"),
    ),
    Chip("LS_10", "GH100", "ls10", SWITCH, 31, "LS10", _DICE),
)
"""The Identity CA of GH100 stands above NVSwitches as well."""


@dataclass(frozen=True)
class CheckedDevice:
    """A device whose report is signed by its own key under a pinned root."""

    report: GpuReport
    chip: Chip
    certificates: Chain

    @property
    def architecture(self) -> str:
        return self.chip.architecture

    @property
    def certificates_expire(self) -> int:
        """The Unix second at which the first certificate of the chain ends."""
        return expires(self.certificates)


def check_device(device: Device, *, nonce: bytes, roots: Roots, now: int) -> CheckedDevice:
    """A device's report answers `nonce` (32 bytes) and is signed by its own key under a pinned root
    at `now`, for the firmware it names. Source: SPDM 1.1 (DMTF DSP0274), docs/spec/gpu-evidence.md.

    Raises ParseError, NotAuthentic or Refused("gpu", …).
    """
    report = parse_report(device.report)
    certificates = load_chain(device.chain, NVIDIA, length=CHAIN_LENGTH)
    check_chain(certificates, NVIDIA, pinned=roots.nvidia_device, now=now)
    if not has_signed(certificates[0].public_key(), report.signature, report.signed_region):
        raise NVIDIA.broken(
            "bad-signature",
            f"{report.what}: expected a signature by the chain's leaf, got one that does not hold",
        )
    if not hmac.compare_digest(report.nonce, nonce):
        raise NotAuthentic(
            "gpu",
            "wrong-nonce",
            f"{report.what}: expected nonce {nonce.hex()}, got {report.nonce.hex()}",
        )
    chip = _chip(certificates)
    if (device.kind, len(report.measurements)) != (chip.kind, chip.blocks):
        raise NotAuthentic(
            "gpu",
            "wrong-class",
            f"{report.what}: expected kind {chip.kind} and {chip.blocks} blocks for "
            f"{chip.product}, "
            f"got kind {device.kind} and {len(report.measurements)}",
        )
    _check_fwid(certificates[0], report, chip)
    _check_mode(report)
    return CheckedDevice(report, chip, certificates)


def check_set(devices: Sequence[CheckedDevice]) -> None:
    """Every device is another one, and those that share a fabric name exactly each other
    (docs/spec/gpu-evidence.md, "A protected-PCIe set").

    Raises ParseError, NotAuthentic or Refused("gpu", …).
    """
    keys = {spki_digest(device.certificates[1]) for device in devices}
    if len(keys) != len(devices):
        raise NotAuthentic(
            "gpu",
            "duplicate-device",
            f"devices: expected {len(devices)} different device keys, got {len(keys)}",
        )
    gpus = [device for device in devices if device.chip.kind == GPU]
    switches = [device for device in devices if device.chip.kind == SWITCH]
    protected = sum(gpu.report.protected_pcie for gpu in gpus)
    if not protected and not switches:
        return
    if protected != len(gpus):
        raise Refused(
            "gpu",
            "mixed-modes",
            f"devices: expected protected PCIe on all {len(gpus)} GPUs, got it on {protected}",
        )
    check_topology(gpus, switches)


def check_driver(device: CheckedDevice, *, minimum: str | None) -> None:
    """A GPU's driver (opaque field 3 of its report) is at least `minimum`; a switch has none.

    Raises Refused("gpu", "driver-too-old" or "driver-unknown")."""
    if device.chip.kind == SWITCH:
        return
    got = device.report.driver_version
    if minimum is not None and _version(got) < _version(minimum):
        raise Refused(
            "gpu",
            "driver-too-old",
            f"driver: expected {minimum} or newer (policy [gpu] min_driver), got {got}",
        )


def _check_fwid(leaf: x509.Certificate, report: GpuReport, chip: Chip) -> None:
    """The firmware that the report names is that for which the leaf was made."""
    reported = report.opaque.get(FWID)
    if reported is None:
        if chip.kind == GPU and _version(report.driver_version) >= _FWID_SINCE:
            raise NVIDIA.broken(
                "fwid-missing",
                f"{report.what}, field {FWID}: expected the firmware digest, got none",
            )
        return
    try:
        extension = leaf.extensions.get_extension_for_oid(chip.fwid).value
    except x509.ExtensionNotFound:
        raise NVIDIA.broken(
            "fwid-missing",
            "leaf certificate: expected the firmware digest in extension "
            f"{chip.fwid.dotted_string}, got none",
        ) from None
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(reported) != FWID_BYTES or not _names(value, reported, chip):
        raise NVIDIA.broken(
            "fwid-mismatch",
            f"leaf certificate: expected firmware digest {reported.hex()} as the report has "
            "it, got another",
        )


def _names(extension: bytes, reported: bytes, chip: Chip) -> bool:
    """Hopper's digest ends the extension; of Blackwell's several the first is the firmware's."""
    if chip.fwid == _DICE:
        return extension.endswith(_FWID_DIGEST + reported)
    first = extension.find(_FWID_DIGEST) + len(_FWID_DIGEST)
    return first >= len(_FWID_DIGEST) and extension[first : first + FWID_BYTES] == reported


def _check_mode(report: GpuReport) -> None:
    mode = report.opaque.get(FEATURE)
    if mode is not None and mode not in _MODES:
        raise Refused(
            "gpu",
            "unsupported-mode",
            f"{report.what}, field {FEATURE}: expected feature mode 0, 1 or 2, got bytes "
            f"{mode.hex()}",
        )


def _chip(certificates: Chain) -> Chip:
    """By the names of the device, its provisioner and the Identity CA under the root."""
    identity = common_name(certificates[-2]).split()
    below = [common_name(item).split() for item in certificates[1:-2]]
    for chip in CHIPS:
        if identity[-2:] == [chip.family, "Identity"] and all(chip.mark in item for item in below):
            return chip
    known = ", ".join(chip.product for chip in CHIPS)
    text = f"certificates: expected a device of {known}, got one under {' '.join(identity)!r}"
    raise Refused("gpu", "unsupported-device", text)


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts):
        raise Refused(
            "gpu", "driver-unknown", f"driver: expected a version such as 570.86.15, got {text!r}"
        )
    return tuple(int(part) for part in parts)
