"""NVIDIA: a GPU's signed report, its certificate chain, and the firmware published for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.lazy import lazy_names

if TYPE_CHECKING:
    from attestation.nvidia.check import CheckedDevice, check_device, check_driver, check_set
    from attestation.nvidia.firmware import (
        Firmware,
        check_measurements,
        check_revocation,
        rim_names,
    )
    from attestation.nvidia.report import GpuReport, cut_padding, parse_report, report_length
    from attestation.nvidia.rim import Rim, read_rim

__all__ = [
    "CheckedDevice",
    "Firmware",
    "GpuReport",
    "Rim",
    "check_device",
    "check_driver",
    "check_measurements",
    "check_revocation",
    "check_set",
    "cut_padding",
    "parse_report",
    "read_rim",
    "report_length",
    "rim_names",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CheckedDevice": "attestation.nvidia.check",
        "Firmware": "attestation.nvidia.firmware",
        "GpuReport": "attestation.nvidia.report",
        "Rim": "attestation.nvidia.rim",
        "check_device": "attestation.nvidia.check",
        "check_driver": "attestation.nvidia.check",
        "check_measurements": "attestation.nvidia.firmware",
        "check_revocation": "attestation.nvidia.firmware",
        "check_set": "attestation.nvidia.check",
        "cut_padding": "attestation.nvidia.report",
        "parse_report": "attestation.nvidia.report",
        "read_rim": "attestation.nvidia.rim",
        "report_length": "attestation.nvidia.report",
        "rim_names": "attestation.nvidia.firmware",
    },
)
