"""What simulated Hoppers and their switches say of themselves: slots, opaque fields, digests.

All GPUs run one firmware. Slots, fields, their order and sizes are those of real reports
under driver 550.90.07; docs/spec/simulator.md compares them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence

from attestation.nvidia.report import (
    CHIP_SKU,
    DRIVER,
    FEATURE,
    FWID,
    NVDEC0,
    PROJECT,
    PROJECT_SKU,
    SWITCH_PDIS,
    VBIOS,
)
from attestation.nvidia.topology import LINKS, SWITCHES

CHIP = "GH100"
DRIVER_VERSION = "550.90.07"
VBIOS_VERSION = "96.00.9F.00.01"
BOARD = ("1010", "0200", "882")
BLOCKS = 64
ZERO_SLOTS = frozenset({0, 8, 10, *range(12, 21), 23, 24, 28, *range(41, BLOCKS)})
"""Of a Hopper's 64 measurements, those that are zero."""

MEASUREMENTS = tuple(
    bytes(48)
    if index in ZERO_SLOTS
    else hashlib.sha384(f"SIMULATED GH100 measurement {index}".encode()).digest()
    for index in range(BLOCKS)
)
VBIOS_INDICES, DRIVER_INDICES = (*range(7), *range(8, 13)), (7, *range(21, 41))
"""Which measurements NVIDIA's RIMs of either kind name; the others are nobody's."""

ALTERNATIVES = {12: 4, 23: 2, 24: 2, 32: 2, 33: 2, 34: 2, 35: 4, 36: 3}
"""How many digests a RIM gives for an index, where it gives several."""

FIRMWARE = hashlib.sha384(b"SIMULATED GSP firmware").digest()
OPAQUE: Mapping[int, bytes] = {
    VBIOS: bytes.fromhex("009f009601000000"),
    14: bytes.fromhex("b1030000"),
    CHIP_SKU: b"882\0\0\0\0\0\0",
    16: b"0\0\0\0\0",
    PROJECT: b"1010\0",
    PROJECT_SKU: b"0200\0",
    19: bytes(2),
    DRIVER: DRIVER_VERSION.encode() + b"\0",
    4: bytes.fromhex("8001000000000000"),
    12: b"".join(struct.pack("<I", number) for number in range(64)),
    13: bytes.fromhex("00c00100"),
    NVDEC0: b"\x55",
    FWID: FIRMWARE,
    21: b"\x55",
}
"""In the order of a Hopper under driver 550.90.07; fields without a name are not read."""

SWITCH_BIOS = "96.10.55.00.01"
SWITCH_MEASUREMENTS = tuple(
    hashlib.sha384(f"SIMULATED LS10 measurement {index}".encode()).digest() for index in range(31)
)


def gpu_pdi(index: int) -> bytes:
    """A GPU's own identity, 8 bytes."""
    return hashlib.sha256(f"SIMULATED GPU {index}".encode()).digest()[:8]


def switch_pdi(index: int) -> bytes:
    return hashlib.sha256(f"SIMULATED switch {index}".encode()).digest()[:8]


def published(indices: Iterable[int]) -> dict[int, tuple[bytes, ...]]:
    """The golden digests of these indices: what is measured, among those of other versions."""
    golden = {}
    for index in indices:
        count = ALTERNATIVES.get(index, 1)
        older = [f"SIMULATED GH100 other {index}/{n}".encode() for n in range(count)]
        digests = [hashlib.sha384(text).digest() for text in older]
        digests[index % count] = MEASUREMENTS[index]
        golden[index] = tuple(digests)
    return golden


def newer_opaque() -> dict[int, bytes]:
    """A GPU's opaque fields as drivers from 590 on write them, outside protected PCIe."""
    return {**OPAQUE, 34: b"\1\0", FEATURE: bytes(2)}


def protected_opaque() -> dict[int, bytes]:
    """A GPU's opaque fields under protected PCIe: it names its four switches, bytes reversed."""
    links = b"".join(switch_pdi(link % SWITCHES)[::-1] for link in range(LINKS))
    return {**OPAQUE, 21: b"\xaa", SWITCH_PDIS: links, 34: b"\1\0", FEATURE: b"\2\0"}


def unsigned_report(
    nonce: bytes, measurements: Sequence[bytes], opaque: Mapping[int, bytes]
) -> bytes:
    """Request and response up to the signature, over a nonce of 32 bytes."""
    record = b"".join(
        struct.pack("<BBHBH", index, 1, 51, 1, 48) + digest
        for index, digest in enumerate(measurements, 1)
    )
    fields = b"".join(struct.pack("<HH", kind, len(raw)) + raw for kind, raw in opaque.items())
    return b"".join(
        (
            bytes.fromhex("11e001ff") + nonce + b"\0",
            bytes.fromhex("11600000") + bytes([len(measurements)]),
            len(record).to_bytes(3, "little") + record,
            hashlib.sha256(b"SIMULATED responder nonce" + nonce).digest(),
            len(fields).to_bytes(2, "little") + fields,
        )
    )
