"""The machine under the guest: its quotes, its RTMR3, its event log.

`TsmPlatform` speaks to the kernel (configfs-tsm, Linux 6.7 and newer; RTMR extension
through sysfs, 6.16). It has not run on hardware yet. The simulator's counterpart is in
`simulated`; nothing else tells the two apart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from attestation.errors import ParseError, Unavailable
from attestation.platforms.tdx.eventlog import MAX_AREA_BYTES, cut_fill
from attestation.platforms.tdx.quote import cut_padding
from attestation.trust.roots import PRODUCTION, Roots

REPORT_DATA_BYTES = 64
REPORTS = Path("/sys/kernel/config/tsm/report")
RTMR3 = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
CCEL = Path("/sys/firmware/acpi/tables/data/CCEL")
PROVIDER = "tdx_guest"
TRIES = 5
PAUSE_S = 0.2
_AGAIN = frozenset({errno.EBUSY, errno.EINTR, errno.EWOULDBLOCK})
"""A quote for somebody else is under way, or the kernel was interrupted."""


@dataclass(frozen=True)
class QuoteWithLogs:
    """A quote and the logs that explain its registers; RTMR3 digests in order, 48 bytes each.

    Quote and CCEL are exact: hosts hand both over in longer buffers, and no verifier reads
    a byte behind them.
    """

    quote: bytes
    ccel: bytes
    rtmr3_events: tuple[bytes, ...]

    @classmethod
    def from_buffers(cls, quote: bytes, ccel: bytes, rtmr3_events: tuple[bytes, ...]) -> Self:
        """Cut out of the buffers that a host handed over.

        Raises Unavailable where what stands behind quote or log is not padding.
        """
        try:
            return cls(cut_padding(quote), cut_fill(ccel), rtmr3_events)
        except ParseError as error:
            raise Unavailable(f"quote: this host gave a broken buffer: {error}") from None


class Platform(Protocol):
    """`roots` are what the guest's own check of its GPUs rests on."""

    @property
    def roots(self) -> Roots: ...

    def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by 48 bytes. Raises Unavailable."""

    def quote(self, report_data: bytes) -> QuoteWithLogs:
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

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        try:
            quote = self._ask(report_data)
            with self._ccel.open("rb") as area:
                ccel = area.read(MAX_AREA_BYTES + 1)
        except OSError as error:
            raise Unavailable(f"quote: {error.strerror}") from None
        except ValueError:
            raise Unavailable("quote: expected a number in the file generation") from None
        return QuoteWithLogs.from_buffers(quote, ccel, tuple(self._events))

    def _ask(self, report_data: bytes) -> bytes:
        for _ in range(TRIES - 1):
            try:
                return self._ask_once(report_data)
            except OSError as error:
                if error.errno not in _AGAIN:
                    raise
            time.sleep(PAUSE_S)
        return self._ask_once(report_data)

    def _ask_once(self, report_data: bytes) -> bytes:
        entry = self._reports / f"umay-{os.getpid()}-{secrets.token_hex(4)}"
        entry.mkdir()
        try:
            return _read(entry, report_data)
        finally:
            with contextlib.suppress(OSError):
                entry.rmdir()


def _read(entry: Path, report_data: bytes) -> bytes:
    """The generation counts writes: one more than ours means that somebody else wrote too."""
    before = int((entry / "generation").read_text())
    (entry / "inblob").write_bytes(report_data)
    quote = (entry / "outblob").read_bytes()
    provider = (entry / "provider").read_text().strip()
    if provider != PROVIDER:
        raise Unavailable(f"quote: expected the provider {PROVIDER}, got {provider}")
    if int((entry / "generation").read_text()) != before + 1:
        raise Unavailable("quote: another program changed this report entry")
    if not quote:
        # Some kernels report success although the quoting service failed.
        raise Unavailable("quote: expected a quote, got nothing")
    return quote
