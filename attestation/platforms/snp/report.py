"""The SEV-SNP attestation report: AMD's SEV-SNP ABI (56860), table ATTESTATION_REPORT.

1184 bytes, little-endian; the signature (P-384, SHA-384) covers the first 0x2A0. Versions
2 to 5. What a version reserves must be zero; bits of policy and platform that no version
names are refused, since what they allow is unknown.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from attestation.errors import ParseError
from attestation.formats.buffers import cut_zeros

REPORT_BYTES = 1184
RESPONSE_HEADER = struct.pack("<II24x", 0, REPORT_BYTES)
"""MSG_REPORT_RSP: status, size, reserved; it stands before the report."""

SIGNED_BYTES = 0x2A0
VERSIONS = (2, 3, 4, 5)
ECDSA_P384_SHA384 = 1
SCALAR_BYTES, SCALAR_FIELD_BYTES = 48, 72
CHIP_ID_BYTES, TCB_BYTES = 64, 8
VCEK, VLEK = 0, 1


@dataclass(frozen=True)
class SnpReport:
    """Field names as in the ABI. `cpuid` is (family, model, stepping), None in version 2;
    mitigation vectors are 0 before version 5; `signature` is r ‖ s, big-endian, 96 bytes."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_build: bytes
    committed_build: bytes
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signature: bytes
    signed_region: bytes = field(repr=False)

    @property
    def signer(self) -> int:
        """VCEK, VLEK, or a key kind that AMD reserves."""
        return self.key_info >> 2 & 7

    @property
    def chip_key_masked(self) -> bool:
        return bool(self.key_info & 2)

    @property
    def identity(self) -> tuple[object, ...]:
        """What stays the same between two reports of one guest on one machine."""
        return (
            self.policy,
            self.vmpl,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.reported_tcb,
            self.chip_id,
            self.signer,
        )


def cut_padding(buffer: bytes) -> bytes:
    """The report in a host's buffer, whose rest must be zero.

    /dev/sev-guest hands over the firmware's whole answer, header and all, in a buffer of
    4,000 bytes; configfs-tsm the report alone. Raises ParseError, also for bytes that are
    not a report.
    """
    content = buffer.removeprefix(RESPONSE_HEADER)
    report = cut_zeros(content, REPORT_BYTES, "SNP report")
    parse_report(report)
    return report


def parse_report(data: bytes) -> SnpReport:
    """Raises ParseError for anything but exactly one report, reserved bytes zero."""
    if data[:4] == b"HCLA":
        raise ParseError(
            "SNP report: expected the report alone, got an HCL report of Azure's "
            "paravisor, which is "
            "unsupported"
        )
    if len(data) != REPORT_BYTES:
        raise ParseError(f"SNP report: expected {REPORT_BYTES} bytes, got {len(data)}")
    version = _number(data, 0x00, 4)
    if version not in VERSIONS:
        raise ParseError(f"SNP report: expected version 2 to 5, got {version}")
    if _number(data, 0x34, 4) != ECDSA_P384_SHA384:
        raise ParseError(
            "SNP report, 0x34: expected signature algorithm 1 (ECDSA P-384 with SHA-384), "
            "got another"
        )
    _check_reserved(data, version)
    return SnpReport(
        version=version,
        guest_svn=_number(data, 0x04, 4),
        policy=_number(data, 0x08, 8),
        family_id=data[0x10:0x20],
        image_id=data[0x20:0x30],
        vmpl=_number(data, 0x30, 4),
        current_tcb=data[0x38:0x40],
        platform_info=_number(data, 0x40, 8),
        key_info=_number(data, 0x48, 4),
        report_data=data[0x50:0x90],
        measurement=data[0x90:0xC0],
        host_data=data[0xC0:0xE0],
        id_key_digest=data[0xE0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=data[0x180:0x188],
        cpuid=(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_build=data[0x1E8:0x1EB],
        committed_build=data[0x1EC:0x1EF],
        launch_tcb=data[0x1F0:0x1F8],
        launch_mit_vector=_number(data, 0x1F8, 8),
        current_mit_vector=_number(data, 0x200, 8),
        signature=_scalar(data, 0x2A0) + _scalar(data, 0x2A0 + SCALAR_FIELD_BYTES),
        signed_region=data[:SIGNED_BYTES],
    )


def _check_reserved(data: bytes, version: int) -> None:
    spans = [(0x4C, 0x50), (0x18B if version >= 3 else 0x188, 0x1A0)]
    spans += [(0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208 if version >= 5 else 0x1F8, SIGNED_BYTES)]
    spans += [(SIGNED_BYTES + 2 * SCALAR_FIELD_BYTES, REPORT_BYTES)]
    for start, end in spans:
        if any(data[start:end]):
            raise ParseError(
                f"SNP report: expected zero from {start:#x} to {end:#x}, got other values"
            )


def _scalar(data: bytes, at: int) -> bytes:
    """48 bytes, big-endian, of a little-endian field of 72."""
    value = data[at : at + SCALAR_FIELD_BYTES]
    if any(value[SCALAR_BYTES:]):
        raise ParseError(
            f"SNP report, {at:#x}: expected a signature value of at most 48 bytes, got a longer one"
        )
    return value[:SCALAR_BYTES][::-1]


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
