"""A monitor: audits a log at intervals and makes an alert for every new problem.

A problem of one entry is reported once. A problem of the whole log is reported when it begins,
when it begins again after it had ended, and after a restart. A round in which the log or contract
could not be read is an alert too, and so is its end: silence must not look like success.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from attestation.errors import UmayError, UsageError
from attestation.files import open_own, read_trusted, unusable
from client_sdk.auditing.results import Audit, Problem

STALE_BEACON_S = 600
"""Seconds. An entry that is older than this when it is first seen was held back by its host."""

BLIND, SEES = "cannot-look", "looks-again"
PASSING = ("finding", "unanchored-tail", None)
"""A growing log always has some entries that wait for their anchor. These cause no alert."""

_BEGIN = b'{"time": '
_FIELDS = frozenset({"time", "severity", "code", "text", "index"})


@dataclass(frozen=True)
class Alert:
    """`time` in Unix seconds is when it was noticed; `index` the entry it is about, if any."""

    time: int
    severity: str
    code: str
    text: str
    index: int | None

    @property
    def subject(self) -> tuple[str, str, int | None]:
        """What makes two alerts the same."""
        return self.severity, self.code, self.index

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}: {self.text}"


MAX_ALERT_BYTES = 256 << 20
"""Size limit of the file; an alert has some hundred bytes."""


class AlertFile:
    """The file of all alerts so far, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a file that cannot be used or is no such file."""
        self._path = path
        try:
            data = read_trusted(path, limit=MAX_ALERT_BYTES) or b""
            whole = data[: data.rfind(b"\n") + 1]
            self.alerts = [_alert(line) for line in whole.splitlines()]
            cut_off = data[len(whole) :]
            if cut_off[: len(_BEGIN)] != _BEGIN[: len(cut_off)]:
                raise UsageError(
                    f"{path}: expected alerts that `umay audit watch` wrote; give another --keep"
                )
            if cut_off:  # as it was written
                os.truncate(path, len(whole))
        except OSError as error:
            raise unusable(path, error) from None

    def add(self, alerts: list[Alert]) -> None:
        text = "".join(json.dumps(alert.to_json()) + "\n" for alert in alerts)
        try:
            with FileIO(open_own(self._path, os.O_WRONLY | os.O_APPEND), "a") as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    _write_all(file, text.encode())
                except OSError:
                    file.truncate(before)  # or the next line would end a half one
                    raise
        except OSError as error:
            raise unusable(self._path, error) from None
        self.alerts += alerts


class Watch:
    """`look` makes one audit; `clock` gives Unix seconds."""

    def __init__(
        self, look: Callable[[], Audit], alerts: AlertFile, clock: Callable[[], float]
    ) -> None:
        self._look, self._alerts, self._clock = look, alerts, clock
        self._seen: int | None = None
        self._going_on: set[tuple[str, str, int | None]] = set()

    def round(self) -> list[Alert]:
        """What is new since the last round, kept as told. Raises UsageError, and Unavailable
        where the disk is full: anything else that goes wrong is an alert."""
        try:
            audit = self._look()
        except UsageError:
            raise
        except UmayError as error:
            return self._new([self._alert("incomplete", BLIND, str(error))])
        noticed = [self._of(problem) for problem in (*audit.problems, *audit.findings)]
        noticed += self._stale(audit)
        if any(code == BLIND for _, code, _ in self._going_on):
            noticed.insert(0, self._alert("finding", SEES, "the audit works again"))
        new = self._new([alert for alert in noticed if alert.subject != PASSING])
        if audit.entries:
            self._seen = len(audit.entries)
        return new

    def _stale(self, audit: Audit) -> Iterator[Alert]:
        """Of entries that came since the last round: when the earlier ones came is not known."""
        if self._seen is None:
            return
        for entry in audit.entries[self._seen :]:
            age = int(self._clock()) - entry.since if entry.since is not None else 0
            if age > STALE_BEACON_S:
                text = f"entry {entry.index}: its beacon was {age} s old when it was first seen"
                yield self._alert("finding", "stale-beacon", text, entry.index)

    def _new(self, noticed: list[Alert]) -> list[Alert]:
        known = {alert.subject for alert in self._alerts.alerts if alert.index is not None}
        known |= self._going_on
        new = {alert.subject: alert for alert in reversed(noticed) if alert.subject not in known}
        alerts = list(new.values())[::-1]
        self._alerts.add(alerts)  # first: what could not be kept is new again next time
        self._going_on = {alert.subject for alert in noticed if alert.index is None}
        return alerts

    def _of(self, problem: Problem) -> Alert:
        return self._alert(problem.severity, problem.code, problem.text, problem.index)

    def _alert(self, severity: str, code: str, text: str, index: int | None = None) -> Alert:
        return Alert(int(self._clock()), severity, code, text, index)


def _write_all(file: FileIO, data: bytes) -> None:
    """A disk that fills up takes a part without a word."""
    while data:
        data = data[file.write(data) :]


def _alert(line: bytes) -> Alert:
    try:
        fields = json.loads(line)
        if fields.keys() != _FIELDS or type(fields["time"]) is not int:
            raise ValueError
        return Alert(**fields)
    except (ValueError, AttributeError, RecursionError):
        raise UsageError("expected one alert of `umay audit watch` as JSON on every line") from None
