"""The machine under the guest: its quotes, its RTMR3, its event log.

`TsmPlatform` speaks to the kernel (configfs-tsm, Linux 6.7 and newer; RTMR extension
through sysfs, 6.16). It has not run on hardware yet. The simulator's counterpart is in
`simulated`; nothing else tells the two apart.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attestation.errors import Unavailable
from attestation.roots import PRODUCTION, Roots

REPORT_DATA_BYTES = 64
REPORTS = Path("/sys/kernel/config/tsm/report")
RTMR3 = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
CCEL = Path("/sys/firmware/acpi/tables/data/CCEL")


@dataclass(frozen=True)
class Quoted:
    """A quote and the logs that explain its registers; RTMR3 digests in order, 48 bytes each."""

    quote: bytes
    ccel: bytes
    rtmr3_events: tuple[bytes, ...]


class Platform(Protocol):
    """`roots` are what the guest's own check of its GPUs rests on."""

    @property
    def roots(self) -> Roots: ...

    def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by 48 bytes. Raises Unavailable."""

    def quote(self, report_data: bytes) -> Quoted:
        """A quote over 64 bytes. Raises Unavailable."""


class TsmPlatform:
    """A TD under Linux. The paths are arguments so that tests can stand a kernel up."""

    roots = PRODUCTION

    def __init__(self, *, reports: Path = REPORTS, rtmr3: Path = RTMR3, ccel: Path = CCEL) -> None:
        self._reports, self._rtmr3, self._ccel = reports, rtmr3, ccel
        self._events: list[bytes] = []

    def extend(self, digest: bytes) -> None:
        try:
            # One write of the whole digest is one TDG.MR.RTMR.EXTEND.
            with self._rtmr3.open("r+b", buffering=0) as register:
                register.write(digest)
        except OSError as error:
            raise Unavailable(f"RTMR3: {error.strerror}") from None
        self._events.append(digest)

    def quote(self, report_data: bytes) -> Quoted:
        entry = self._reports / f"umay-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            entry.mkdir()
            try:
                quote = _read(entry, report_data)
            finally:
                with contextlib.suppress(OSError):
                    entry.rmdir()
            return Quoted(quote, self._ccel.read_bytes(), tuple(self._events))
        except OSError as error:
            raise Unavailable(f"quote: {error.strerror}") from None


def _read(entry: Path, report_data: bytes) -> bytes:
    """The generation counts writes: one more than ours means that somebody else wrote too."""
    before = int((entry / "generation").read_text())
    (entry / "inblob").write_bytes(report_data)
    quote = (entry / "outblob").read_bytes()
    provider = (entry / "provider").read_text().strip()
    if provider != "tdx_guest":
        raise Unavailable(f"quote: expected the provider tdx_guest, got {provider}")
    if int((entry / "generation").read_text()) != before + 1:
        raise Unavailable("quote: another program used this report entry")
    return quote
