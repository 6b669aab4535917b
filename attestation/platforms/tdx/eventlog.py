"""The CCEL, TDX's boot event log: TCG2 crypto-agile format, SHA-384 only.

The log is the host's word until it replays to the quote's registers: each event's
digest is extended into one RTMR, and only an equal end makes the list true. An event's
`data` is bound only where its digest is the data's hash; `Event.data_is_measured`
says so, and nothing else about data may be believed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from attestation.errors import NotAuthentic, ParseError
from attestation.platforms.tdx.quote import Cursor, TdQuote

STEP = "measurement"
MAX_CCEL_BYTES = 512 * 1024
MAX_AREA_BYTES = 4 * 1024 * 1024
"""Of the ACPI area around a log: firmware sets 64 KiB to 1 MiB aside."""

MAX_EVENTS = 4096
"""A boot through OVMF and systemd-stub logs fewer than a hundred."""

SHA384 = 0x000C
DIGEST_BYTES = 48
EV_NO_ACTION = 3
SPEC_ID = b"Spec ID Event03\0"
RTMR3_INDEX = 4

EVENT_NAMES = {
    0x1: "POST code",
    0x3: "no action",
    0x4: "separator",
    0x5: "action",
    0x6: "event tag",
    0x7: "CRTM contents",
    0x8: "CRTM version",
    0xA: "platform config flags",
    0xD: "initial program loader",
    0x80000001: "UEFI variable",
    0x80000002: "UEFI boot variable",
    0x80000003: "UEFI boot application",
    0x80000006: "UEFI GPT",
    0x80000007: "UEFI action",
    0x80000008: "firmware blob",
    0x8000000A: "firmware blob 2",
    0x8000000B: "handoff tables 2",
    0x800000E0: "UEFI variable authority",
}


@dataclass(frozen=True)
class Event:
    """`index` is the CC measurement register: 1..4 are RTMR0..3.

    Firmware writes notes of the platform (SP 800-155 events) under 0, which is MRTD: events
    of type EV_NO_ACTION, which extend nothing.
    """

    index: int
    type: int
    digest: bytes
    data: bytes

    @property
    def rtmr(self) -> int:
        return self.index - 1

    @property
    def name(self) -> str:
        return EVENT_NAMES.get(self.type, f"event {self.type:#x}")

    @property
    def extends(self) -> bool:
        return self.type != EV_NO_ACTION

    @property
    def data_is_measured(self) -> bool:
        """Whether `digest` is SHA-384 of `data`."""
        return hashlib.sha384(self.data).digest() == self.digest

    def to_bytes(self) -> bytes:
        head = struct.pack("<IIIH", self.index, self.type, 1, SHA384)
        return head + self.digest + struct.pack("<I", len(self.data)) + self.data


@dataclass(frozen=True)
class EventLog:
    """`header_index` and `specification` are the first record's own; `events` follow it."""

    header_index: int
    specification: bytes
    events: tuple[Event, ...]

    def to_bytes(self) -> bytes:
        head = struct.pack("<II20sI", self.header_index, EV_NO_ACTION, b"", len(self.specification))
        body = b"".join(event.to_bytes() for event in self.events)
        return head + self.specification + body


def parse_ccel(data: bytes) -> EventLog:
    """The log that `data` is, up to its last byte: the fill must be cut off.

    Raises ParseError.
    """
    if len(data) > MAX_CCEL_BYTES:
        raise ParseError(f"CCEL: expected at most {MAX_CCEL_BYTES} bytes, got {len(data)}")
    cursor = Cursor(data, "CCEL")
    index, kind, digest = cursor.u32(), cursor.u32(), cursor.take(20)
    if index not in (0, 1) or kind != EV_NO_ACTION or any(digest):
        raise ParseError("CCEL: expected the Spec ID event as the first, got another event")
    specification = cursor.take(cursor.u32())
    _check_specification(specification)
    events: list[Event] = []
    while cursor.left:
        if len(events) == MAX_EVENTS:
            raise ParseError(f"CCEL: expected at most {MAX_EVENTS} events, got more")
        events.append(_event(cursor))
    return EventLog(index, specification, tuple(events))


def cut_fill(area: bytes) -> bytes:
    """The log inside the ACPI area `area`: everything before the fill behind it.

    Firmware fills with 0xFF, as the specification has it; td-shim with zeros. For the guest,
    which reads the whole area; evidence carries the cut log only. Raises ParseError where
    an event is broken or the rest is not fill.
    """
    if len(area) > MAX_AREA_BYTES:
        raise ParseError(
            f"CCEL: expected an area of at most {MAX_AREA_BYTES} bytes, got {len(area)}"
        )
    cursor = Cursor(area, "CCEL")
    cursor.take(28)
    cursor.take(cursor.u32())
    while cursor.left >= 4 and cursor.peek(4) != b"\xff" * 4 and any(cursor.peek(12)):
        _event(cursor)
    fill = area[len(area) - cursor.left :]
    if fill.strip(b"\xff") and fill.strip(b"\0"):
        raise ParseError(
            "CCEL: expected 0xFF fill, or zeros, after the last event, got other bytes"
        )
    return area[: len(area) - len(fill)]


def replay(ccel: bytes, rtmr3_events: tuple[bytes, ...]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0..3 (48 bytes each) after these events.

    RTMR3 comes from `rtmr3_events` alone (48-byte digests, in order). Raises ParseError,
    or NotAuthentic("measurement", "rtmr3-in-ccel", ...) where the firmware's log touches it.
    """
    registers = [bytes(DIGEST_BYTES)] * 4
    for event in parse_ccel(ccel).events:
        if event.extends and event.index == RTMR3_INDEX:
            text = "CCEL: expected no event for RTMR3, which the guest alone extends, got one"
            raise NotAuthentic(STEP, "rtmr3-in-ccel", text)
        if event.extends:
            registers[event.rtmr] = extend(registers[event.rtmr], event.digest)
    for digest in rtmr3_events:
        registers[3] = extend(registers[3], digest)
    return registers[0], registers[1], registers[2], registers[3]


def check_replay(quote: TdQuote, ccel: bytes, rtmr3_events: tuple[bytes, ...]) -> None:
    """The event logs replay to the quote's RTMR0 to RTMR3 (TCG event log; TDX RTMRs).

    Raises ParseError or NotAuthentic("measurement", "rtmr-mismatch", ...).
    """
    replayed = replay(ccel, rtmr3_events)
    for number, (expected, got) in enumerate(zip(quote.rtmrs, replayed, strict=True)):
        if expected != got:
            text = f"RTMR{number}: expected {expected.hex()} as quoted, got {got.hex()} by replay"
            raise NotAuthentic(STEP, "rtmr-mismatch", text)


def extend(register: bytes, digest: bytes) -> bytes:
    """SHA-384(register ‖ digest), 48 bytes."""
    if len(digest) != DIGEST_BYTES:
        raise ParseError(f"RTMR: expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
    return hashlib.sha384(register + digest).digest()


def specification(vendor: bytes = b"") -> bytes:
    """The Spec ID event's body for a SHA-384 log."""
    head = struct.pack("<16sIBBBBI", SPEC_ID, 0, 0, 2, 0, 2, 1)
    return head + struct.pack("<HHB", SHA384, DIGEST_BYTES, len(vendor)) + vendor


def _check_specification(data: bytes) -> None:
    cursor = Cursor(data, "CCEL Spec ID event")
    if cursor.take(16) != SPEC_ID:
        raise ParseError("CCEL: expected the signature 'Spec ID Event03', got another one")
    cursor.take(8)  # platform class, specification version, errata, size of UINTN
    if cursor.u32() != 1 or (cursor.u16(), cursor.u16()) != (SHA384, DIGEST_BYTES):
        raise ParseError("CCEL: expected SHA-384 as the only digest algorithm, got others")
    cursor.take(cursor.u8())
    cursor.end()


def _event(cursor: Cursor) -> Event:
    index, kind = cursor.u32(), cursor.u32()
    lowest = 0 if kind == EV_NO_ACTION else 1
    if not lowest <= index <= RTMR3_INDEX:
        text = f"register index {index} and type {kind:#x}"
        raise ParseError(f"CCEL: expected an event for RTMR0..3 or a note for none, got {text}")
    count, algorithm = cursor.u32(), cursor.u16()
    if (count, algorithm) != (1, SHA384):
        raise ParseError(
            f"CCEL: expected one SHA-384 digest per event, got {count} of algorithm {algorithm:#x}"
        )
    digest = cursor.take(DIGEST_BYTES)
    return Event(index, kind, digest, cursor.take(cursor.u32()))
