"""Inspection of event logs: what was measured, and whether it replays to a quote beside it."""

from __future__ import annotations

import json
from typing import Any

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.platforms import tdx
from attestation.platforms.tdx.eventlog import DIGEST_BYTES, extend
from client_sdk.inspection import cpu as inspect_cpu
from client_sdk.inspection.inspected import Explained, Given, Inspected

Registers = tuple[bytes, ...]
MAX_EVENTS = 4096
_ACPI_TABLE_BYTES = 56


def ccel(file: str, data: bytes, given: Given) -> Inspected:
    """A CCEL event log, with or without the 0xFF fill of its ACPI area."""
    log = tdx.cut_fill(data)
    parsed = tdx.parse_ccel(log)
    found = Inspected(file, f"CCEL event log, {len(parsed.events)} events")
    for number, event in enumerate(parsed.events):
        words = event.name + ("" if event.data_is_measured else "; its data is not what was hashed")
        value = f"RTMR{event.rtmr} {event.digest.hex()[:32]}…"
        found.fields.append(Explained(f"event {number}", value, words))

    def replay() -> str:
        registers = tdx.replay(log, ())
        _explain(found, registers)
        return _compare(registers, given.quotes, parts=3)

    found.check("measurement", replay)
    return found


def acpi_table(file: str, data: bytes, _: Given) -> Inspected:
    """The CCEL table of ACPI, which says where the log lies and is itself no log."""
    if len(data) != _ACPI_TABLE_BYTES or int.from_bytes(data[4:8], "little") != len(data):
        raise ParseError(f"CCEL table: expected {_ACPI_TABLE_BYTES} bytes")
    found = Inspected(file, "ACPI table CCEL")
    size = int.from_bytes(data[40:48], "little")
    found.fields.append(Explained("log area", f"{size} bytes", "where the event log lies"))
    found.check("measurement", _not_here)
    return found


def dstack(file: str, data: bytes, given: Given) -> list[Inspected]:
    """dstack's JSON: a TDX quote, and the events of all four RTMRs as a JSON text."""
    try:
        raw = json.loads(data)
        quote = bytes.fromhex(raw["quote"])
        events = json.loads(raw["event_log"])
        registers = _replay([(event["imr"], bytes.fromhex(event["digest"])) for event in events])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ParseError("not a quote with dstack's event log") from None
    quote = quote[: tdx.quote_length(quote)]
    found = Inspected(file, f"dstack event log, {len(events)} events")
    found.fields += [_event(number, event) for number, event in enumerate(events)]
    _explain(found, registers)
    found.check("measurement", lambda: _compare(registers, (quote,), parts=4))
    return [found, inspect_cpu.quote(f"{file}[quote]", quote, given)]


def _replay(events: list[tuple[int, bytes]]) -> Registers:
    registers = [bytes(DIGEST_BYTES)] * 4
    if len(events) > MAX_EVENTS:
        raise ParseError(f"expected at most {MAX_EVENTS} events")
    for register, digest in events:
        if register not in range(4):
            raise ParseError(f"expected an event of RTMR0..3, got {register}")
        registers[register] = extend(registers[register], digest)
    return tuple(registers)


def _compare(registers: Registers, quotes: tuple[bytes, ...], *, parts: int) -> str:
    """Whether one of the quotes has these registers; RTMR3 is the guest's, not in a CCEL."""
    if not quotes:
        raise NotChecked("no quote was given to compare with")
    if not any(tdx.parse_quote(quote).rtmrs[:parts] == registers[:parts] for quote in quotes):
        raise NotAuthentic("measurement", "rtmr-mismatch", "the log is not the quote's")
    return f"replays to RTMR0 to {parts - 1} of the quote"


def _event(number: int, event: dict[str, Any]) -> Explained:
    name = str(event.get("event", ""))[:80]
    value = f"RTMR{event['imr']} {event['digest'][:32]}…"
    return Explained(f"event {number}", value, name)


def _explain(found: Inspected, registers: Registers) -> None:
    for number, register in enumerate(registers):
        found.fields.append(Explained(f"RTMR{number}", register.hex(), "after replay"))


def _not_here() -> str:
    raise NotChecked("the table names the log's place; the log itself is another file")
