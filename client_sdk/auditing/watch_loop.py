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
from client_sdk.auditing.request import audit_request
from client_sdk.auditing.results import Audit
from client_sdk.auditing.watching import Alert, AlertFile, Watch
from client_sdk.transport import Transport, check_url

MAX_WAITING = 10_000
"""Alerts kept for a webhook that does not answer; beyond that the oldest are dropped."""


@dataclass
class WatchLoop:
    """`options` are the arguments of `audit_request`. `tell` gets every new alert, `warn` every
    failure of the loop itself. `last` is the last audit, None where the log could not be read."""

    keep: Path
    options: dict[str, Any]
    webhook: str | None
    tell: Callable[[Alert], None]
    warn: Callable[[str], None]
    alerts: AlertFile
    last: Audit | None = None
    transport: Transport = field(default_factory=Transport)
    waiting: list[Alert] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        keep: Path,
        options: dict[str, Any],
        *,
        webhook: str | None,
        tell: Callable[[Alert], None],
        warn: Callable[[str], None],
    ) -> Self:
        """Raises UsageError."""
        own_directory(keep)
        checked = check_url(webhook, name="--webhook", show=False) if webhook else None
        return cls(keep, options, checked, tell, warn, AlertFile(keep / "alerts.jsonl"))

    def __post_init__(self) -> None:
        self.watch = Watch(self.look, self.alerts, time.time)
        self.started = int(time.time())

    def look(self) -> Audit:
        self.last = None
        request = audit_request(state=self.keep / "state", **self.options)
        try:
            self.last = request.auditor.run(request.contract, request.scope)
        finally:
            if request.scope.state is not None:
                request.scope.state.close()
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
        feed = atom(self.options["contract"], self.alerts.alerts, started=self.started)
        replace(self.keep / "feed.atom", feed, mode=0o644)

    def _send(self, new: list[Alert]) -> None:
        if self.webhook is None:
            return
        self.waiting = [*self.waiting, *new][-MAX_WAITING:]
        if not self.waiting:
            return
        alerts = [alert.to_json() for alert in self.waiting]
        body = {"contract": self.options["contract"], "alerts": alerts}
        try:
            self.transport.notify(self.webhook, json.dumps(body).encode())
        except Unavailable as error:
            self.warn(f"{error}; {len(alerts)} alert(s) are sent again with the next round")
        else:
            self.waiting = []
