"""A GPU's or switch's answer to GET_MEASUREMENTS (DMTF DSP0274, SPDM 1.1).

request 37 bytes ‖ response: header 8, measurement record, nonce 32, opaque data,
signature 96 over everything before it. Every byte is accounted for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from attestation.errors import ParseError
from attestation.formats.buffers import cut_zeros

MAX_REPORT_BYTES = 16 * 1024
REQUEST_BYTES, SIGNATURE_BYTES, NONCE_BYTES, DIGEST_BYTES = 37, 96, 32, 48
_REQUEST = bytes.fromhex("11e001ff")
_RESPONSE = bytes.fromhex("1160")
_RESPONSE_HEADER_BYTES = 5
"""Before the record's length: code, parameters and the number of blocks."""

_BLOCK = struct.Struct(f"<BBHBH{DIGEST_BYTES}s")
_FIELD = struct.Struct("<HH")
DMTF_MEASUREMENT = 1
MAX_TEXT_BYTES = 32
_TEXT = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz."
SWITCH_BLOCKS, GPU_BLOCKS = 31, 64
BLOCKS = {SWITCH_BLOCKS: "NVSwitch report", GPU_BLOCKS: "GPU report"}
"""What a report is by its blocks: LS10 switches answer 31, Hopper and Blackwell GPUs 64."""

DRIVER, VBIOS, CHIP_SKU, PROJECT, PROJECT_SKU, FWID, NVDEC0 = 3, 6, 15, 17, 18, 20, 11
FEATURE = 36
SWITCH_PDIS = DEVICE_PDI = 22
"""One number for two fields: a GPU's list of its switches, a switch's own identity."""

SWITCH_GPU_PDIS = 26
NVDEC0_DISABLED = b"\xaa"


@dataclass(frozen=True)
class GpuReport:
    """`measurements[i]` is block i + 1 (48 bytes, SHA-384); `opaque` maps NVIDIA's field
    types to their bytes; `signed_region` is what the 96-byte signature (r ‖ s) covers."""

    nonce: bytes
    measurements: tuple[bytes, ...]
    opaque: Mapping[int, bytes]
    signature: bytes
    signed_region: bytes = field(repr=False)

    @property
    def what(self) -> str:
        """Its name in messages: "GPU report" or "NVSwitch report"."""
        return BLOCKS[len(self.measurements)]

    @property
    def driver_version(self) -> str:
        return self._text(DRIVER)

    @property
    def vbios_version(self) -> str:
        """As NVIDIA writes it, e.g. 96.00.9F.00.01."""
        raw = self.opaque.get(VBIOS, b"")
        if len(raw) != 8 or raw[5:] != b"\0\0\0":
            raise ParseError(
                f"{self.what}, field {VBIOS}: expected a VBIOS version of 8 bytes, got {raw.hex()}"
            )
        return ".".join(f"{byte:02X}" for byte in (raw[3], raw[2], raw[1], raw[0], raw[4]))

    @property
    def bios_version(self) -> str:
        """A switch's, e.g. 96.10.55.00.01."""
        return self._text(VBIOS)

    @property
    def protected_pcie(self) -> bool:
        """Whether this GPU shares its fabric with others under protected PCIe."""
        return self.opaque.get(FEATURE) == b"\2\0"

    @property
    def board(self) -> str:
        """Project, project SKU and chip SKU, as in the name of a VBIOS RIM."""
        return "_".join(self._text(kind) for kind in (PROJECT, PROJECT_SKU, CHIP_SKU))

    @property
    def nvdec0_disabled(self) -> bool:
        return self.opaque.get(NVDEC0) == NVDEC0_DISABLED

    def _text(self, kind: int) -> str:
        raw = self.opaque.get(kind, b"").rstrip(b"\0")
        if not 0 < len(raw) <= MAX_TEXT_BYTES or raw.strip(_TEXT):
            raise ParseError(
                f"{self.what}, field {kind}: expected a version or a name, got other bytes"
            )
        return raw.decode()


def parse_report(data: bytes) -> GpuReport:
    """Raises ParseError for anything that is not exactly one request and its response."""
    if len(data) > MAX_REPORT_BYTES:
        text = f"expected at most {MAX_REPORT_BYTES} bytes, got {len(data)}"
        raise ParseError(f"NVIDIA device report: {text}")
    cursor = _Cursor(data)
    cursor.expect(cursor.take(4) == _REQUEST, "an SPDM 1.1 GET_MEASUREMENTS request")
    nonce = cursor.take(NONCE_BYTES)
    cursor.take(1)  # slot
    cursor.expect(cursor.take(2) == _RESPONSE, "an SPDM 1.1 MEASUREMENTS response")
    cursor.take(2)
    count, size = cursor.take(1)[0], int.from_bytes(cursor.take(3), "little")
    blocks = count in BLOCKS and size == count * _BLOCK.size
    cursor.expect(blocks, "31 or 64 measurement blocks")
    cursor.what = BLOCKS[count]
    measurements = _measurements(cursor, count)
    cursor.take(NONCE_BYTES)  # the responder's own
    opaque = _opaque(cursor.take(int.from_bytes(cursor.take(2), "little")), cursor.what)
    signature = cursor.take(SIGNATURE_BYTES)
    cursor.expect(cursor.at == len(data), "nothing after the signature")
    return GpuReport(nonce, measurements, opaque, signature, data[:-SIGNATURE_BYTES])


def cut_padding(buffer: bytes) -> bytes:
    """The report at the start of a driver's buffer, whose rest must be zero.

    Raises ParseError, also for bytes that are not a report.
    """
    report = cut_zeros(buffer, report_length(buffer), "NVIDIA device report")
    parse_report(report)
    return report


def report_length(data: bytes) -> int:
    """How many bytes of `data` are the report by its own lengths; nothing else is looked at.

    Raises ParseError where `data` ends before its lengths do.
    """
    cursor = _Cursor(data)
    cursor.take(REQUEST_BYTES + _RESPONSE_HEADER_BYTES)
    cursor.take(int.from_bytes(cursor.take(3), "little"))
    cursor.take(NONCE_BYTES)
    cursor.take(int.from_bytes(cursor.take(2), "little"))
    cursor.take(SIGNATURE_BYTES)
    return cursor.at


class _Cursor:
    """Reads fields off `data`; `what` names the data in errors."""

    def __init__(self, data: bytes, what: str = "NVIDIA device report") -> None:
        self.data, self.at, self.what = data, 0, what

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            early = count - len(self.data) + self.at
            raise ParseError(f"{self.what}: expected {early} more byte(s), it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def expect(self, good: bool, expected: str) -> None:
        if not good:
            raise self.other(expected)

    def other(self, expected: str) -> ParseError:
        return ParseError(f"{self.what}: expected {expected}, got other bytes")


def _measurements(cursor: _Cursor, count: int) -> tuple[bytes, ...]:
    """The digests of blocks 1 to `count`."""
    blocks = _BLOCK.iter_unpack(cursor.take(count * _BLOCK.size))
    found = []
    for expected, (index, specification, size, kind, length, digest) in enumerate(blocks, 1):
        if index != expected:
            raise cursor.other(f"block {expected} in its place")
        if specification != DMTF_MEASUREMENT:
            raise cursor.other("DMTF measurements")
        if size != DIGEST_BYTES + 3 or length != DIGEST_BYTES:
            raise cursor.other("digests of 48 bytes")
        if kind & 0x80:
            raise cursor.other("digests, not raw measurements")
        found.append(digest)
    return tuple(found)


def _opaque(data: bytes, what: str) -> dict[int, bytes]:
    cursor, fields = _Cursor(data, what), dict[int, bytes]()
    while cursor.at < len(data):
        kind, size = _FIELD.unpack(cursor.take(_FIELD.size))
        if kind in fields:
            raise cursor.other(f"opaque field {kind} once")
        fields[kind] = cursor.take(size)
    return fields
