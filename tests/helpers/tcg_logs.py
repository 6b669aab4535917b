"""Event logs as a TPM's firmware writes them (TCG PC Client Platform Firmware Profile)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

NUMBERS = {"sha1": 0x04, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}
NO_ACTION, SEPARATOR, CRTM_VERSION, VARIABLE = 3, 4, 8, 0x80000001
Event = tuple[int, int, bytes]
"""PCR, type, data; each digest is of the data."""

EVENTS: tuple[Event, ...] = (
    (0, CRTM_VERSION, b"firmware 1"),
    (7, VARIABLE, b"SecureBoot"),
    (4, 0x80000003, b"boot loader"),
    (0, SEPARATOR, bytes(4)),
    (7, SEPARATOR, bytes(4)),
)


def specification(banks: Sequence[str], *, signature: bytes = b"Spec ID Event03\0") -> bytes:
    listed = b"".join(struct.pack("<HH", NUMBERS[b], hashlib.new(b).digest_size) for b in banks)
    return signature + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks)) + listed + b"\0"


def header(content: bytes) -> bytes:
    return struct.pack("<II20xI", 0, NO_ACTION, len(content)) + content


def agile_event(event: Event, banks: Sequence[str]) -> bytes:
    pcr, kind, data = event
    zero = kind == NO_ACTION
    digests = b"".join(
        struct.pack("<H", NUMBERS[bank])
        + (bytes(hashlib.new(bank).digest_size) if zero else hashlib.new(bank, data).digest())
        for bank in banks
    )
    head = struct.pack("<III", pcr, kind, len(banks))
    return head + digests + struct.pack("<I", len(data)) + data


def agile(
    banks: Sequence[str] = ("sha1", "sha256", "sha384"), events: Sequence[Event] = EVENTS
) -> bytes:
    """The log of a TPM 2.0, in which every event has a digest of each bank."""
    written = (agile_event(event, banks) for event in events)
    return header(specification(banks)) + b"".join(written)


def sha1_event(event: Event) -> bytes:
    pcr, kind, data = event
    digest = bytes(20) if kind == NO_ACTION else hashlib.sha1(data).digest()
    return struct.pack("<II20sI", pcr, kind, digest, len(data)) + data


def sha1(events: Sequence[Event] = EVENTS) -> bytes:
    """The log of a TPM 1.2, without the event that names its format."""
    return b"".join(map(sha1_event, events))


def pcrs(bank: str = "sha256", events: Sequence[Event] = EVENTS) -> tuple[bytes, ...]:
    """PCR 0 to 23 after these events."""
    size = hashlib.new(bank).digest_size
    found = [bytes(size)] * 24
    for pcr, kind, data in events:
        if kind != NO_ACTION:
            found[pcr] = hashlib.new(bank, found[pcr] + hashlib.new(bank, data).digest()).digest()
    return tuple(found)
