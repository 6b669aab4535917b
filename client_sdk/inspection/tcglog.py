"""Event logs in TCG's formats that no step of the plan uses: a TPM's, and CCELs that are broken.

The firmware of a machine with a TPM writes what it extended into the PCRs, either with SHA-1
alone (TCG PC Client 1.2) or with every digest that the TPM has ("crypto-agile", Spec ID
Event03). A CCEL has the second format with SHA-384 alone, and its registers are numbered 1
to 4 for RTMR0 to 3. Reading stops at the first bytes that are not an event, and says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.platforms.tdx.eventlog import EV_NO_ACTION, EVENT_NAMES, MAX_EVENTS
from attestation.platforms.tdx.quote import Cursor
from client_sdk.inspection import eventlog as inspect_log
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult

MAX_LOG_BYTES = 4 << 20
"""Firmware sets at most 1 MiB aside."""

ALGORITHMS = {
    0x04: ("sha1", 20),
    0x0B: ("sha256", 32),
    0x0C: ("sha384", 48),
    0x0D: ("sha512", 64),
    0x12: ("sm3", 32),
}
"""TPM_ALG_ID: name and bytes (TCG Algorithm Registry)."""

SHA1_ONLY = ("sha1",)
CCEL_ALGORITHMS = ("sha384",)
PCR_COUNT = 24
QUOTED_PCRS = range(8)
"""What firmware extends; a running system goes on with the others."""

HEADER_BYTES = 32
SPEC_ID = b"Spec ID Event0"
_SPEC_ID_BYTES = 16
_LOCALITY = b"StartupLocality\0"
_DYNAMIC = range(17, 23)
"""PCRs that are all ones until a measured launch."""

_TPM_EVENTS = {
    0x2: "unused",
    0x9: "CPU microcode",
    0xB: "table of devices",
    0xC: "compact hash",
    0xE: "data of the initial program loader",
    0xF: "code that is not the host's",
    0x10: "configuration that is not the host's",
    0x11: "information that is not the host's",
    0x12: "boot devices left out",
    0x80000009: "handoff tables",
    0x80000010: "event of the hardware's CRTM",
}
NAMES = {**_TPM_EVENTS, **EVENT_NAMES}


@dataclass(frozen=True)
class TcgEvent:
    """One event: its PCR (or, in a CCEL, register index), and each digest by its name."""

    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def extends(self) -> bool:
        return self.type != EV_NO_ACTION

    @property
    def name(self) -> str:
        return NAMES.get(self.type, f"event {self.type:#x}")


@dataclass(frozen=True)
class TcgLog:
    """The readable events. `fill` counts the bytes after them that are all 0xFF or all zero;
    `wrong` says what stands there otherwise, and is empty where the log is whole."""

    algorithms: tuple[str, ...]
    events: tuple[TcgEvent, ...]
    fill: int
    wrong: str

    @property
    def is_tpm(self) -> bool:
        """Whether this is a TPM's. With SHA-384 alone the first register tells: firmware
        measures itself first, into PCR 0, or into RTMR0, whose index is 1."""
        first = next((event.register for event in self.events if event.extends), 1)
        return self.algorithms != CCEL_ALGORITHMS or first == 0


def read(data: bytes) -> TcgLog:
    """Raises ParseError where `data` does not begin as a TCG event log."""
    if len(data) > MAX_LOG_BYTES:
        raise ParseError(f"event log: expected at most {MAX_LOG_BYTES} bytes, got {len(data)}")
    cursor = Cursor(data, "event log")
    agile, algorithms = _header(cursor)
    events: list[TcgEvent] = []
    wrong = ""
    while cursor.left and not wrong and not _is_fill(cursor):
        at = len(data) - cursor.left
        try:
            events.append(_event(cursor, agile, algorithms, len(events)))
        except ParseError as error:
            wrong = f"at byte {at}: {error}"
    return TcgLog(algorithms, tuple(events), 0 if wrong else cursor.left, wrong)


def replay(log: TcgLog, algorithm: str) -> dict[int, bytes]:
    """Each PCR that the log extends, after it, in the bank of one algorithm."""
    registers: dict[int, bytes] = {}
    size, locality = dict(ALGORITHMS.values())[algorithm], _locality(log)
    for event in log.events:
        if not event.extends:
            continue
        number = event.register
        if number not in registers:
            registers[number] = _initial(number, size, locality)
        extended = hashlib.new(algorithm, registers[number] + event.digests[algorithm])
        registers[number] = extended.digest()
    return registers


def log(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A TPM's log, or a CCEL; a CCEL that the plan's parser refuses is shown as far as it goes."""
    found = read(data)
    if found.is_tpm:
        return _tpm(file, found, inputs)
    try:
        return inspect_log.ccel(file, data, inputs)
    except ParseError as error:
        return _broken_ccel(file, found, error)


def sha1_log(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A TPM 1.2 log without the event that names its format: it must be whole."""
    found = read(data)
    if found.wrong or not found.events or found.algorithms != SHA1_ONLY:
        raise ParseError("event log: expected a whole one with SHA-1 digests, got other bytes")
    return _tpm(file, found, inputs)


def _tpm(file: str, found: TcgLog, inputs: CheckInputs) -> InspectionResult:
    item = InspectionResult(file, f"TPM event log, {len(found.events)} events")
    item.fields.append(
        ExplainedField(
            "digests", ", ".join(found.algorithms), "the log has one bank of PCRs for each"
        )
    )
    bank = "sha256" if "sha256" in found.algorithms else found.algorithms[-1]
    item.fields += _explained(found, bank, "PCR", 0)
    registers = {} if bank == "sm3" else replay(found, bank)
    for number, value in sorted(registers.items()):
        item.fields.append(ExplainedField(f"PCR{number}", value.hex(), f"after replay, {bank}"))
    item.check("measurement", lambda: _compare(found, registers, bank, inputs.pcrs))
    return item


def _broken_ccel(file: str, found: TcgLog, error: ParseError) -> InspectionResult:
    item = InspectionResult(file, f"CCEL event log, {len(found.events)} readable events")
    item.fields += _explained(found, "sha384", "RTMR", 1)
    text = f"{error}; the events before that place can be read" if found.wrong else str(error)

    def broken() -> str:
        raise ParseError(text)

    item.check("measurement", broken)
    return item


def _explained(found: TcgLog, bank: str, register: str, first: int) -> list[ExplainedField]:
    fields = []
    for number, event in enumerate(found.events):
        where = f"{register}{event.register - first}" if event.extends else "no register"
        value = f"{where} {event.digests[bank].hex()[:32]}…"
        fields.append(ExplainedField(f"event {number}", value, event.name))
    if found.fill:
        text = f"{found.fill} bytes of fill stand after the last event"
        fields.append(ExplainedField("padding", text, "the rest of the area"))
    return fields


def _compare(
    found: TcgLog, registers: dict[int, bytes], bank: str, quoted: tuple[tuple[bytes, ...], ...]
) -> str:
    if found.wrong:
        raise ParseError(found.wrong)
    if bank != "sha256":
        raise NotChecked(f"the log has PCRs of {bank}, and a vTPM quote has PCRs of sha256 only")
    if not quoted:
        raise NotChecked(
            "needs the vTPM quote with which the log is compared, and none was given; name its "
            "file in the same call"
        )
    own = {number: registers[number] for number in QUOTED_PCRS if number in registers}
    if not any(all(pcrs[number] == value for number, value in own.items()) for pcrs in quoted):
        text = (
            "event log: expected to replay to the PCRs of a vTPM quote that was given, got others"
        )
        raise NotAuthentic("measurement", "pcr-mismatch", text)
    return f"the log replays to PCR {', '.join(map(str, own))} of the vTPM quote"


def _header(cursor: Cursor) -> tuple[bool, tuple[str, ...]]:
    """Whether events name their digests, and which: by the first event, where that says so."""
    first = Cursor(cursor.peek(HEADER_BYTES + _SPEC_ID_BYTES), "event log")
    register, kind, digest, size = first.u32(), first.u32(), first.take(20), first.u32()
    marker = first.peek(_SPEC_ID_BYTES)
    if not marker.startswith(SPEC_ID):
        _check_event(register, kind)
        return False, SHA1_ONLY
    if kind != EV_NO_ACTION or any(digest):
        raise ParseError(
            "event log: expected a Spec ID event that extends nothing, got one that does"
        )
    cursor.take(HEADER_BYTES)
    return _specification(Cursor(cursor.take(size), "Spec ID event"))


def _specification(cursor: Cursor) -> tuple[bool, tuple[str, ...]]:
    """The algorithms of a crypto-agile log; SHA-1 for a log of the older form."""
    if cursor.take(_SPEC_ID_BYTES) != SPEC_ID + b"3\0":
        return False, SHA1_ONLY
    cursor.take(8)  # platform class, specification version, errata, size of UINTN
    count = cursor.u32()
    if not 1 <= count <= len(ALGORITHMS):
        raise ParseError(f"event log: expected 1 to {len(ALGORITHMS)} algorithms, got {count}")
    named = [(cursor.u16(), cursor.u16()) for _ in range(count)]
    cursor.take(cursor.u8())  # the vendor's own
    cursor.end()
    known = [ALGORITHMS[number][0] for number, size in named if _known(number, size)]
    if len(set(known)) != count:
        raise ParseError(f"event log: expected known algorithms, each once, got {named}")
    return True, tuple(known)


def _known(number: int, size: int) -> bool:
    return number in ALGORITHMS and ALGORITHMS[number][1] == size


def _event(cursor: Cursor, agile: bool, algorithms: tuple[str, ...], number: int) -> TcgEvent:
    if number == MAX_EVENTS:
        raise ParseError(f"expected at most {MAX_EVENTS} events, got more")
    register, kind = cursor.u32(), cursor.u32()
    digests = _digests(cursor, algorithms) if agile else {"sha1": cursor.take(20)}
    size = cursor.u32()
    _check_event(register, kind)
    return TcgEvent(register, kind, digests, cursor.take(size))


def _digests(cursor: Cursor, algorithms: tuple[str, ...]) -> dict[str, bytes]:
    """Exactly one digest of each algorithm that the log's first event names."""
    count, digests = cursor.u32(), dict[str, bytes]()
    if count != len(algorithms):
        raise ParseError(f"expected {len(algorithms)} digests in an event, got {count}")
    for _ in range(count):
        number = cursor.u16()
        name, size = ALGORITHMS.get(number, ("", 0))
        if name not in algorithms or name in digests:
            raise ParseError(f"expected a digest of {', '.join(algorithms)}, got {number:#x}")
        digests[name] = cursor.take(size)
    return digests


def _check_event(register: int, kind: int) -> None:
    if register >= PCR_COUNT and kind != EV_NO_ACTION:
        raise ParseError(f"expected an event for PCR 0 to {PCR_COUNT - 1}, got {register}")
    if kind not in NAMES:
        raise ParseError(f"expected an event of a known type, got {kind:#x}")


def _is_fill(cursor: Cursor) -> bool:
    """Looks at the whole rest only where no event can begin."""
    if cursor.peek(8).strip(b"\xff") and cursor.peek(8).strip(b"\0"):
        return False
    rest = cursor.peek(cursor.left)
    return not rest.strip(b"\xff") or not rest.strip(b"\0")


def _locality(log: TcgLog) -> bytes:
    """The byte of the first note that names the locality which started the TPM, or nothing."""
    notes = (event.data for event in log.events if not event.extends)
    named = next((data for data in notes if data.startswith(_LOCALITY)), b"")
    return named[len(_LOCALITY) : len(_LOCALITY) + 1]


def _initial(register: int, size: int, locality: bytes) -> bytes:
    """A PCR at reset; PCR 0 holds the locality that started the TPM."""
    if register in _DYNAMIC:
        return b"\xff" * size
    return (locality if register == 0 else b"").rjust(size, b"\0")
