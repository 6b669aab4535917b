"""`umay audit inspect`: what a file is, what every field says, and whether it holds.

Files given together explain each other: certificates serve the reports beside them, RIMs
and collateral serve the checks. Nothing is fetched. What cannot be checked for want of a
file is said, and does not count as passed.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from attestation.errors import NotChecked, ParseError, UmayError, UsageError, VerificationError
from attestation.formats.collateral import Collateral
from attestation.trust.roots import Roots
from client_sdk.inspection.pool import SignatureTries

MAX_FILE_BYTES = 32 << 20
_HEX = re.compile(rb"\s*(?:0x)?[0-9a-fA-F][0-9a-fA-F\s]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_\-\s]+")


@dataclass(frozen=True)
class ExplainedField:
    """One field: its value as text, and what it means."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Check:
    """One verdict: status "passed", "failed" or "not checked"; `code` names a failure."""

    name: str
    status: str
    code: str = ""
    text: str = ""
    exit_code: int = 0


@dataclass
class InspectionResult:
    """A file, or one of several things in it."""

    file: str
    kind: str
    encoding: str = "raw"
    fields: list[ExplainedField] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, run: Callable[[], str]) -> bool:
        """Runs one check and keeps what it said; whether it passed."""
        try:
            self.checks.append(Check(name, "passed", text=run()))
        except NotChecked as missing:
            self.checks.append(
                Check(name, "not checked", text=missing.message, exit_code=missing.exit_code)
            )
        except VerificationError as error:
            failed = Check(name, "failed", error.code, error.message, error.exit_code)
            self.checks.append(failed)
        except UmayError as error:
            self.checks.append(Check(name, "failed", error.code, str(error), error.exit_code))
        return self.checks[-1].status == "passed"

    def after(self, what: str, rest: bytes) -> None:
        """Says what stands behind the content: padding of a host's buffer, or what is no part."""
        if any(rest):
            text = f"{len(rest)} bytes after the {what}, not all zero: they are no part of it"
            self.checks.append(Check("length", "failed", "malformed", text, ParseError.exit_code))
        elif rest:
            text = f"{len(rest)} zero bytes after the {what}"
            self.fields.append(ExplainedField("padding", text, "padding of the host's buffer"))

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "kind": self.kind,
            "encoding": self.encoding,
            "fields": [vars(item) for item in self.fields],
            "checks": [
                {"name": c.name, "status": c.status, "code": c.code, "text": c.text}
                for c in self.checks
            ],
        }


def not_checked(text: str) -> Callable[[], str]:
    """A check that could not run, and why."""

    def run() -> str:
        raise NotChecked(text)

    return run


def malformed(file: str, kind: str, error: UmayError) -> InspectionResult:
    """Something that is named, and cannot be read: `error` says what is wrong with it."""
    found = InspectionResult(file, f"{kind}, malformed")
    found.checks.append(Check("format", "failed", error.code, str(error), error.exit_code))
    return found


@dataclass(frozen=True)
class CheckInputs:
    """What all files together offer: `now` is Unix seconds, certificates are DER, quotes TDX,
    `pcrs` the 24 SHA-256 PCRs (32 bytes each) of vTPM quotes; `tries` counts for one file."""

    now: int
    roots: Roots
    collateral: Collateral | None = None
    certificates: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()
    quotes: tuple[bytes, ...] = ()
    pcrs: tuple[tuple[bytes, ...], ...] = ()
    tries: SignatureTries = field(default_factory=SignatureTries, compare=False)


Inspect = Callable[[str, bytes, CheckInputs], InspectionResult | list[InspectionResult]]


def attempt(
    file: str, kind: str, data: bytes, inspect: Inspect, inputs: CheckInputs
) -> list[InspectionResult]:
    """What `inspect` finds; where it cannot read the bytes, the kind by name and the reason."""
    try:
        found = inspect(file, data, inputs)
    except UmayError as error:
        return [malformed(file, kind, error)]
    return found if isinstance(found, list) else [found]


def readings(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes as they are, then as hex or base64 text where they could be that."""
    yield "raw", data
    text = b"".join(data.split())
    if _HEX.fullmatch(data):
        digits = text.removeprefix(b"0x")
        if len(digits) % 2 == 0:
            yield "hex", bytes.fromhex(digits.decode())
    if data.startswith(b"-----BEGIN%20"):
        yield "percent-encoded", unquote_to_bytes(data)
    if _BASE64.fullmatch(data):
        try:
            plain = text.translate(bytes.maketrans(b"-_", b"+/"))
            yield "base64", base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except binascii.Error:
            return


def read_file(path: Path, *, limit: int | None = None) -> bytes:
    """Its content of at most `limit` bytes (MAX_FILE_BYTES unless given).

    Raises UsageError where it cannot be read, ParseError where it is too long.
    """
    limit = MAX_FILE_BYTES if limit is None else limit
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise ParseError(f"{path}: expected at most {limit} bytes, got more")
    return data


def at(moment: str | None) -> int:
    """Unix seconds of a time given as such, or as ISO 8601 (UTC unless said); None is now."""
    if moment is None:
        return int(time.time())
    if moment.isascii() and moment.isdecimal() and len(moment) < 12:
        return int(moment)
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise UsageError(
            "--at: expected a time in ISO 8601, such as 2026-03-01T00:00:00Z, or Unix seconds, got "
            f"{moment}"
        ) from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def exit_code(found: list[InspectionResult]) -> int:
    """3 where something is not authentic, else 4 refused, 6 not checked, 0 good.

    Where no check ran, nothing was checked.
    """
    codes = {check.exit_code for item in found for check in item.checks} or {6}
    return next((code for code in (3, 2, 4, 6) if code in codes), max(codes))
