"""Collateral by its dates, for people who must renew it in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from attestation.errors import ParseError, UsageError
from attestation.formats.dates import Window
from attestation.vendors.validity import window
from client_sdk.inspection.result import CheckInputs


@dataclass(frozen=True)
class DatedPart:
    """A part of collateral and its window in Unix seconds, None where it names no dates."""

    name: str
    window: Window | None
    now: int

    @property
    def current(self) -> bool:
        return self.window is not None and self.window[0] <= self.now <= self.window[1]

    @property
    def state(self) -> str:
        if self.window is None:
            return "no dates"
        if self.now < self.window[0]:
            return "not yet"
        days = (self.window[1] - self.now) / 86_400
        return f"{days:.1f} days left" if self.current else "expired"

    def day(self, which: int) -> str:
        if self.window is None:
            return ""
        return f"{datetime.fromtimestamp(self.window[which], UTC):%Y-%m-%d %H:%MZ}"

    def to_json(self) -> dict[str, Any]:
        start, end = self.window or (None, None)
        return {"name": self.name, "from": start, "until": end, "state": self.state}


def dated_parts(inputs: CheckInputs) -> list[DatedPart]:
    """The first to expire first. Raises UsageError where no file held collateral."""
    if inputs.collateral is None:
        raise UsageError("expected collateral: Umay's own, dcap-qvl's JSON, or AMD's CRLs")
    parts = [
        DatedPart(name, _window(name, data), inputs.now)
        for name, data in inputs.collateral.parts.items()
    ]
    return sorted(parts, key=lambda part: part.window[1] if part.window else 0)


def _window(name: str, data: bytes) -> Window | None:
    try:
        return window(name, data)
    except ParseError:
        return None
