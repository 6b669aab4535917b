"""NVIDIA: a GPU's signed report, the chain it hangs from, and the firmware published for it."""

from __future__ import annotations

from attestation.nvidia.check import (
    CheckedDevice,
    Firmware,
    check_device,
    check_driver,
    check_measurements,
    check_revocation,
    check_set,
    rim_names,
)
from attestation.nvidia.report import GpuReport, parse_report
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
    "parse_report",
    "read_rim",
    "rim_names",
]
