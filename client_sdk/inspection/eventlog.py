"""Inspection of event logs: what was measured, and whether the log replays to a quote that was
given with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.platforms import tdx
from attestation.platforms.tdx.eventlog import DIGEST_BYTES, EV_NO_ACTION, extend
from client_sdk.inspection import cpu as inspect_cpu
from client_sdk.inspection.jsontext import read_json
from client_sdk.inspection.result import (
    CheckInputs,
    ExplainedField,
    InspectionResult,
    attempt,
    malformed,
)

Registers = tuple[bytes, ...]
MAX_EVENTS = 4096
GUEST_REGISTER = 3
"""The register that a guest extends itself. Whatever type the list claims, the digest of every
event there is SHA-384(u32 type, little-endian ‖ ":" ‖ event ‖ ":" ‖ payload)."""

BOUND, UNBOUND, FORGED = "bound", "unbound", "forged"
_CONTENT_WORDS = {
    BOUND: "",
    UNBOUND: "; the content is not bound by the digest",
    FORGED: "; the content is not what was hashed",
}
SHOWN_EVENTS = 8

_ACPI_TABLE_BYTES = 56


def ccel(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A CCEL event log, with or without the fill of its ACPI area."""
    log = tdx.cut_fill(data)
    parsed = tdx.parse_ccel(log)
    found = InspectionResult(file, f"CCEL event log, {len(parsed.events)} events")
    found.fields += [_logged(number, event) for number, event in enumerate(parsed.events)]
    if fill := len(data) - len(log):
        text = f"{fill} bytes of fill after the last event"
        found.fields.append(ExplainedField("padding", text, "the rest of the ACPI area"))

    def replay() -> str:
        registers = tdx.replay(log, ())
        _add_registers(found, registers)
        return _compare(registers, inputs.quotes, parts=3)

    found.check("measurement", replay)
    return found


def acpi_table(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """The CCEL table of ACPI. It says where the event log is; it is not the log itself."""
    table, rest = data[:_ACPI_TABLE_BYTES], data[_ACPI_TABLE_BYTES:]
    if not len(table) == int.from_bytes(table[4:8], "little") == _ACPI_TABLE_BYTES:
        raise ParseError(
            f"CCEL table: expected {_ACPI_TABLE_BYTES} bytes, in length and in the length field, "
            "got another length"
        )
    found = InspectionResult(file, "ACPI table CCEL")
    found.after("table", rest)
    size = int.from_bytes(data[40:48], "little")
    found.fields.append(ExplainedField("log area", f"{size} bytes", "where the event log lies"))
    found.check("measurement", _not_here)
    return found


def dstack(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """dstack's JSON: the events of all four RTMRs, alone or as a JSON text beside a quote."""
    raw = read_json(data)
    if isinstance(raw, list):
        return [events(file, raw, inputs)]
    listed, quote = raw.get("event_log"), str(raw.get("quote")).removeprefix("0x")
    listed = read_json(listed) if isinstance(listed, str) else listed
    try:
        content = bytes.fromhex(quote)
    except ValueError:
        raise ParseError("dstack's JSON: quote: expected hex digits, got other text") from None
    if not content or not is_event_list(listed):
        raise ParseError(
            "dstack's JSON: expected a quote, and a list of events as event_log, got other values"
        )
    exact = content[: tdx.quote_length(content)]
    found = event_list(file, listed, replace(inputs, quotes=(exact,)))
    return [*found, *attempt(f"{file}[quote]", "TDX quote", content, inspect_cpu.quote, inputs)]


def event_list(
    file: str, listed: list[dict[str, Any]], inputs: CheckInputs
) -> list[InspectionResult]:
    """The same as `events`, but a list that cannot be read gives a result with the reason."""
    try:
        return [events(file, listed, inputs)]
    except ParseError as error:
        return [malformed(file, f"dstack event log, {len(listed)} events", error)]


def is_event_list(value: Any) -> bool:
    """Whether JSON is a list of dstack's events."""
    return isinstance(value, list) and bool(value) and all(map(_is_event, value))


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and {"imr", "event_type"} <= value.keys()


def events(file: str, listed: list[dict[str, Any]], inputs: CheckInputs) -> InspectionResult:
    """dstack's events of all four RTMRs. Raises ParseError."""
    if len(listed) > MAX_EVENTS:
        raise ParseError(
            f"dstack's event log: expected at most {MAX_EVENTS} events, got {len(listed)}"
        )
    try:
        read = [_event(item) for item in listed]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ParseError(
            "dstack's event log: expected events with imr, event_type, digest, event and "
            "event_payload, got one in another form"
        ) from None
    registers = _replay(read)
    found = InspectionResult(file, f"dstack event log, {len(read)} events")
    found.fields += [event.explained(number) for number, event in enumerate(read)]
    _add_registers(found, registers)
    found.check("measurement", lambda: _compare(registers, inputs.quotes, parts=4))
    found.check("event-content", lambda: _named_by_digests(read))
    return found


def _named_by_digests(events: list[DstackEvent]) -> str:
    """Whether the names and payloads in the list are what was measured, because the registers bind
    only the digests."""
    forged = [str(number) for number, event in enumerate(events) if event.content == FORGED]
    if forged:
        text = (
            f"event {', '.join(forged[:SHOWN_EVENTS])} of RTMR3: expected the name and payload "
            f"from which the digest was made, got others (in {len(forged)} events)"
        )
        raise NotAuthentic("measurement", "event-content", text)
    unbound = [str(number) for number, event in enumerate(events) if event.content == UNBOUND]
    if unbound:
        text = (
            f"{len(unbound)} events have a name or payload that their digest does not bind by a "
            f"known rule (the first are {', '.join(unbound[:SHOWN_EVENTS])}); do not rely on these "
            "names and payloads"
        )
        raise NotChecked(text)
    return "every name and payload in the list is that from which its digest was made"


@dataclass(frozen=True)
class DstackEvent:
    """One event of dstack's list: a register, a digest of 48 bytes, a text that explains it, and
    whether its content (name and payload) is BOUND by the digest, UNBOUND or FORGED."""

    register: int
    type: int
    digest: bytes
    words: str
    content: str

    def explained(self, number: int) -> ExplainedField:
        register = f"RTMR{self.register}" if self.type != EV_NO_ACTION else "no register"
        return ExplainedField(
            f"event {number}", f"{register} {self.digest.hex()[:32]}…", self.words
        )


def _event(raw: dict[str, Any]) -> DstackEvent:
    """One event. Raises ValueError, KeyError or TypeError, or ParseError if a digest is missing."""
    register, kind, name = raw["imr"], raw["event_type"], raw.get("event") or ""
    if not (type(register) is type(kind) is int and type(name) is str and 0 <= kind < 1 << 32):
        raise TypeError
    payload = bytes.fromhex(raw.get("event_payload") or "")
    computed = _sha384(b":".join((kind.to_bytes(4, "little"), name.encode(), payload)))
    digest, words = bytes.fromhex(raw.get("digest") or ""), name[:80]
    if not digest and register == GUEST_REGISTER:
        digest, words = computed, f"{words}; the list has no digest, so it was computed"
    if kind != EV_NO_ACTION and (register not in range(4) or len(digest) != DIGEST_BYTES):
        text = (
            f"expected a register from 0 to 3 and a digest of {DIGEST_BYTES} bytes, got register "
        )
        text += f"{register} and {len(digest)} bytes"
        raise ParseError(f"dstack's event log, event of type {kind:#x}: {text}")
    event = DstackEvent(register, kind, digest, words, BOUND)
    content = _content(event, name, payload, computed)
    return replace(event, words=words + _CONTENT_WORDS[content], content=content)


def _content(event: DstackEvent, name: str, payload: bytes, computed: bytes) -> str:
    """BOUND, UNBOUND or FORGED. A name with a colon could have been cut at another place. Firmware
    hashes the payload, or for some types something else. If neither name nor payload is given,
    nothing is claimed."""
    if event.register == GUEST_REGISTER and event.type != EV_NO_ACTION:
        if event.digest == computed:
            return UNBOUND if ":" in name else BOUND
        return FORGED if name or payload else BOUND
    if event.type != EV_NO_ACTION and not name and event.digest == _sha384(payload):
        return BOUND
    return UNBOUND if name or payload else BOUND


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def _replay(events: list[DstackEvent]) -> Registers:
    registers = [bytes(DIGEST_BYTES)] * 4
    for event in events:
        if event.type != EV_NO_ACTION:
            registers[event.register] = extend(registers[event.register], event.digest)
    return tuple(registers)


@lru_cache(maxsize=1024)  # every log of a file is compared with every quote beside it
def _quoted(quote: bytes) -> Registers:
    return tdx.parse_quote(quote).rtmrs


def _compare(registers: Registers, quotes: tuple[bytes, ...], *, parts: int) -> str:
    """Whether one of the quotes has these registers. A CCEL does not cover RTMR3, which the guest
    extends itself."""
    if not quotes:
        raise NotChecked(
            "needs the quote with which the log is compared, and none was given; name its file in "
            "the same call"
        )
    if not any(_quoted(quote)[:parts] == registers[:parts] for quote in quotes):
        text = (
            f"event log: expected that it replays to RTMR0 to RTMR{parts - 1} of a quote that was "
            "given, got other values"
        )
        raise NotAuthentic("measurement", "rtmr-mismatch", text)
    return f"the log replays to RTMR0 to RTMR{parts - 1} of the quote"


def _logged(number: int, event: tdx.Event) -> ExplainedField:
    words = event.name
    if event.extends and not event.data_is_measured:
        words += "; the data is not what was hashed"
    register = f"RTMR{event.rtmr}" if event.extends else "no register"
    return ExplainedField(f"event {number}", f"{register} {event.digest.hex()[:32]}…", words)


def _add_registers(found: InspectionResult, registers: Registers) -> None:
    for number, register in enumerate(registers):
        found.fields.append(ExplainedField(f"RTMR{number}", register.hex(), "after replay"))


def _not_here() -> str:
    raise NotChecked(
        "needs the event log itself, which is another file; this table only says where the log is "
        "in memory"
    )
