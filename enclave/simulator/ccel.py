"""What a simulated TD has measured when its guest starts: MRTD, RTMR0..2 and the CCEL.

Registers, order and event types as real clouds boot: OVMF, a boot loader, its kernel. One RTMR2
event is the digest of the guest's own source files, so that changed guest code is
another measurement, as a changed image would be.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import UsageError
from attestation.platforms.tdx.eventlog import EV_NO_ACTION, Event, EventLog, replay, specification
from enclave.simulator.rough import Roughness

SOURCE_ROOT = Path(__file__).resolve().parents[2]
MEASURED_PACKAGES = ("attestation", "enclave/guest")
MRTD = hashlib.sha384(b"SIMULATED TDVF firmware 1").digest()
_SCRIPT = ("set default=0", "linux /vmlinuz", "initrd /initrd", "boot")
COMMAND_LINE = "console=hvc0 quiet umay.simulated=1 initrd=initrd"

_TD_HOB, _CFV, _VARIABLE, _BOOT = 0x8000000B, 0x8000000A, 0x80000001, 0x80000002
_APPLICATION, _ACTION, _SEPARATOR, _TAG, _PLATFORM = 0x80000003, 0x80000007, 0x4, 0x6, 0xA
_POST_CODE, _LOADER, _PARTITIONS, _AUTHORITY = 0x1, 0xD, 0x80000006, 0x800000E0
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_RTMR0, _RTMR1, _RTMR2 = 1, 2, 3
_TIGHT_FILL = 8


@dataclass(frozen=True)
class Launch:
    """A TD's launch measurement: MRTD, RTMR0..2 (48 bytes each) and the events behind them."""

    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes]
    events: tuple[Event, ...]

    @property
    def registers(self) -> tuple[bytes, bytes, bytes, bytes]:
        return self.mr_td, *self.rtmrs

    @property
    def ccel(self) -> bytes:
        """The log alone."""
        return EventLog(_RTMR0, specification(), self.events).to_bytes()

    def area(self, rough: Roughness) -> bytes:
        """The ACPI area in which firmware left the log: with its notes, and filled up."""
        noted = list(self.events)
        for number in range(rough.notes):  # the first in front, the others among the events
            noted.insert(number * 4, _note(number))
        head = specification(rough.log_vendor)
        log = EventLog(rough.log_header, head, tuple(noted)).to_bytes()
        return log + rough.fill * max(_TIGHT_FILL, rough.area - len(log))


def launch(source_root: Path) -> Launch:
    """Measure the guest whose packages lie under `source_root`, as they are on disk now."""
    events = (*_firmware(), *_kernel(), *_guest(source_root))
    ccel = EventLog(_RTMR0, specification(), events).to_bytes()
    rtmr0, rtmr1, rtmr2, _ = replay(ccel, ())
    return Launch(MRTD, (rtmr0, rtmr1, rtmr2), events)


def guest_digest(source_root: Path) -> bytes:
    """SHA-384 over name and content of every source file of the measured packages, sorted."""
    state = hashlib.sha384(b"umay/simulated-guest/v1\0")
    for path in _sources(source_root):
        name, content = path.relative_to(source_root).as_posix().encode(), path.read_bytes()
        state.update(struct.pack(">II", len(name), len(content)) + name + content)
    return state.digest()


def _sources(source_root: Path) -> list[Path]:
    paths = [
        path
        for package in MEASURED_PACKAGES
        for path in (source_root / package).rglob("*.py")
        if path.is_file()
    ]
    if not paths:
        raise UsageError(f"{source_root}: expected the packages {', '.join(MEASURED_PACKAGES)}")
    return sorted(paths, key=lambda path: path.relative_to(source_root).as_posix())


def _firmware() -> list[Event]:
    boot_order, option = struct.pack("<H", 0), b"SIMULATED boot option"
    return [
        _measured(_RTMR0, _POST_CODE, b"SIMULATED ACPI tables"),
        _measured(_RTMR0, _TD_HOB, b"SIMULATED TD HOB"),
        _measured(_RTMR0, _CFV, b"SIMULATED variable store"),
        *(_variable(name) for name in ("SecureBoot", "PK", "KEK", "db", "dbx")),
        _measured(_RTMR0, _SEPARATOR, bytes(4)),
        *(_over(_RTMR0, _PLATFORM, b"ACPI DATA", n.encode()) for n in ("loader", "rsdp", "tables")),
        _over(_RTMR0, _BOOT, _variable_data("BootOrder", boot_order), boot_order),
        _over(_RTMR0, _BOOT, _variable_data("Boot0000", option), option),
        _measured(_RTMR0, _AUTHORITY, _variable_data("db", b"SIMULATED boot loader signer")),
    ]


def _kernel() -> list[Event]:
    return [
        _measured(_RTMR1, _ACTION, b"Calling EFI Application from Boot Option"),
        _measured(_RTMR1, _SEPARATOR, bytes(4)),
        _over(
            _RTMR1, _PARTITIONS, b"SIMULATED partition table", b"SIMULATED partition table, whole"
        ),
        _over(_RTMR1, _APPLICATION, b"SIMULATED boot loader", b"SIMULATED loader Authenticode"),
        _over(_RTMR1, _APPLICATION, b"SIMULATED kernel image", b"SIMULATED kernel Authenticode"),
        _measured(_RTMR1, _ACTION, b"Exit Boot Services Invocation"),
        _measured(_RTMR1, _ACTION, b"Exit Boot Services Returned with Success"),
    ]


def _guest(source_root: Path) -> list[Event]:
    command_line = (COMMAND_LINE + "\0").encode("utf-16-le")
    return [
        *(
            _over(_RTMR2, _LOADER, f"grub_cmd: {line}\0".encode(), line.encode())
            for line in _SCRIPT
        ),
        _measured(_RTMR2, _TAG, command_line),
        Event(_RTMR2, _TAG, guest_digest(source_root), b"SIMULATED initrd: guest sources"),
    ]


def _note(number: int) -> Event:
    """A reference manifest's locator, as the Platform Firmware Profile has it."""
    text = f"SIMULATED manifest {number}\0".encode()
    data = b"SP800-155 Event3" + struct.pack("<I16sB", 0, b"", len(text)) + text
    return Event(0, EV_NO_ACTION, bytes(48), data)


def _variable(name: str) -> Event:
    return _measured(_RTMR0, _VARIABLE, _variable_data(name, b""))


def _variable_data(name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA: GUID, name length in characters, value length, name, value."""
    head = _GLOBAL_VARIABLE + struct.pack("<QQ", len(name), len(value))
    return head + name.encode("utf-16-le") + value


def _measured(index: int, kind: int, data: bytes) -> Event:
    return _over(index, kind, data, data)


def _over(index: int, kind: int, data: bytes, hashed: bytes) -> Event:
    return Event(index, kind, hashlib.sha384(hashed).digest(), data)
