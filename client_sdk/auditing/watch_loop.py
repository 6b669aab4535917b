"""The rounds of `umay audit watch`: audit, keep, feed, tell.

A webhook that does not answer gets its alerts with the next round's; nothing is lost while the
watch runs, and the feed has everything.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from attestation.errors import Unavailable
from attestation.files import own_directory, replace
from client_sdk.auditing.feed import atom
from client_sdk.auditing.given import asked
from client_sdk.auditing.results import Audit
from client_sdk.auditing.watching import Alert, Told, Watch
from client_sdk.transport import Transport, check_url

MAX_WAITING = 10_000
"""Alerts kept for a webhook that does not answer; the oldest go."""


@dataclass
class Rounds:
    """`asking` is what `asked` takes; `tell` and `warn` speak to whoever watches; `last` is the
    last audit, None where it could not look."""

    keep: Path
    asking: dict[str, Any]
    webhook: str | None
    tell: Callable[[Alert], None]
    warn: Callable[[str], None]
    told: Told
    last: Audit | None = None
    transport: Transport = field(default_factory=Transport)
    waiting: list[Alert] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        keep: Path,
        asking: dict[str, Any],
        *,
        webhook: str | None,
        tell: Callable[[Alert], None],
        warn: Callable[[str], None],
    ) -> Self:
        """Raises UsageError."""
        own_directory(keep)
        checked = check_url(webhook) if webhook else None
        return cls(keep, asking, checked, tell, warn, Told(keep / "alerts.jsonl"))

    def __post_init__(self) -> None:
        self.watch = Watch(self.look, self.told, time.time)
        self.started = int(time.time())

    def look(self) -> Audit:
        self.last = None
        given = asked(state=self.keep / "state", **self.asking)
        try:
            self.last = given.auditor.run(given.contract, given.scope)
        finally:
            if given.scope.state is not None:
                given.scope.state.close()
        return self.last

    def one(self) -> int:
        """One round; the exit code of its audit."""
        new = self.watch.round()
        for alert in new:
            self.tell(alert)
        self._write_feed()
        self._send(new)
        return Unavailable.exit_code if self.last is None else self.last.exit_code

    def forever(self, every: int) -> None:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        while not stopped.is_set():
            try:
                self.one()
            except Unavailable as error:  # a full disk: what is new then is new again later
                self.warn(str(error))
            stopped.wait(every)

    def _write_feed(self) -> None:
        """Whole or not at all, for readers meanwhile."""
        feed = atom(self.asking["contract"], self.told.alerts, started=self.started)
        replace(self.keep / "feed.atom", feed, mode=0o644)

    def _send(self, new: list[Alert]) -> None:
        if self.webhook is None:
            return
        self.waiting = [*self.waiting, *new][-MAX_WAITING:]
        if not self.waiting:
            return
        alerts = [alert.to_json() for alert in self.waiting]
        body = {"contract": self.asking["contract"], "alerts": alerts}
        try:
            self.transport.notify(self.webhook, json.dumps(body).encode())
        except Unavailable as error:
            self.warn(f"{error}; {len(alerts)} alert(s) wait")
        else:
            self.waiting = []
