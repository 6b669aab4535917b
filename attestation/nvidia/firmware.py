"""Whether the firmware of a checked device is published by NVIDIA in RIMs, and not revoked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from attestation.errors import NotAuthentic, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import SWITCH
from attestation.nvidia import ocsp
from attestation.nvidia.check import CheckedDevice
from attestation.nvidia.report import GpuReport
from attestation.nvidia.rim import Rim, read_rim
from attestation.trust.roots import Roots
from attestation.x509.walk import Chain

LS10_BOARD = "5612_0002_890"
"""Project, project SKU and chip SKU: an LS10 does not report its own."""


NVDEC0_INDEX = 35


@dataclass(frozen=True)
class Firmware:
    """Published firmware that a device runs: when the first RIM expires (Unix seconds), and
    the chains that signed them, leaf first."""

    expires: int
    chains: tuple[Chain, ...]


def rim_names(device: CheckedDevice) -> tuple[tuple[str, str], ...]:
    """(id, version) of each RIM, as NVIDIA's service names them: driver and VBIOS of a GPU,
    the BIOS of a switch."""
    report = device.report
    if device.chip.kind == SWITCH:
        bios = report.bios_version
        return ((f"NV_SWITCH_BIOS_{LS10_BOARD}_{bios.replace('.', '')}", bios),)
    driver, vbios = report.driver_version, report.vbios_version
    return (
        (f"NV_GPU_DRIVER_{device.chip.product}_{driver}", driver),
        (f"NV_GPU_VBIOS_{report.board}_{vbios.replace('.', '')}", vbios),
    )


def check_measurements(
    device: CheckedDevice, collateral: Collateral, *, roots: Roots, now: int
) -> Firmware:
    """Every measurement of the report is one that NVIDIA published in the RIMs for this device's
    driver and VBIOS (SWID, ISO 19770-2; NVIDIA's RIM service).

    Raises ParseError, NotAuthentic or Refused("gpu", "rim-…" / "measurement-mismatch").
    """
    rims = [_rim(*name, device, collateral, roots, now) for name in rim_names(device)]
    golden: dict[int, tuple[bytes, ...]] = {}
    for rim in rims:
        overlap = golden.keys() & rim.golden.keys()
        if overlap:
            text = f"RIMs: expected each measurement in one of them, got {min(overlap)} in both"
            raise NotAuthentic("gpu", "rim-overlap", text)
        golden |= rim.golden
    _compare(device.report, golden)
    return Firmware(min(rim.expires for rim in rims), tuple(rim.certificates for rim in rims))


def check_revocation(
    device: CheckedDevice, firmware: Firmware, collateral: Collateral, *, now: int
) -> int:
    """OCSP (RFC 6960) says good of every certificate below a root: the device's own chain and the
    signers of its RIMs.

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
        raise Refused(
            "gpu",
            "rim-missing",
            f"collateral: expected the RIM {name}, got none; fetch it from NVIDIA's RIM service",
        )
    rim = read_rim(data, pinned=roots.nvidia_rim, now=now)
    product = device.chip.product
    if rim.version.upper() != version.upper() or rim.product != product:
        text = f"RIM {name}: expected {product} {version}, got {rim.product} {rim.version}"
        raise NotAuthentic("gpu", "rim-other", text)
    if not rim.golden:
        raise Refused(
            "gpu", "rim-empty", f"RIM {name}: expected at least one active measurement, got none"
        )
    return rim


def _compare(report: GpuReport, golden: dict[int, tuple[bytes, ...]]) -> None:
    for index, measured in enumerate(report.measurements):
        if index == NVDEC0_INDEX and report.nvdec0_disabled:
            continue
        if index in golden and measured not in golden[index]:
            text = (
                f"{report.what}, measurement {index}: expected a digest of the RIM, got "
                f"{measured.hex()}"
            )
            raise Refused("gpu", "measurement-mismatch", text)
    outside = [index for index in golden if index >= len(report.measurements)]
    if outside:
        text = f"{report.what}: expected measurement {outside[0]} of the RIM, got none"
        raise Refused("gpu", "measurement-mismatch", text)
