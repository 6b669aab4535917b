"""`umay host top`: enclaves of one or several agents, row by row, from their metrics.

Counters of tokens grow in blocks (docs/spec/metrics.md), so their rate is an average: over the last
minute, or since the boot until there is enough to compare.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attestation.errors import ParseError, Unavailable
from attestation.net.error_text import redacted_url
from attestation.process import one_line
from enclave.host.metrics import Page

EVERY_S = 1.0
WINDOW_S, LEAST_S = 60.0, 10.0
"""Of the rate of tokens: at most so long, and not shorter."""

MAX_AT_ONCE = 32
PLAIN_WIDTH = 120
BOOT_SHOWN = 8
COLUMNS = (
    "enclave", "model", "state", "slots", "queue", "tokens/s", "requests", "key age",
)  # fmt: skip
UNREACHABLE, UNREADABLE = "unreachable", "unreadable"

Read = Callable[[], bytes]
"""The page of one agent's feed. Raises Refused or Unavailable."""


@dataclass(frozen=True)
class Row:
    """One enclave at one moment. `error` says why nothing is known of it."""

    feed: str
    state: str
    boot: str = ""
    model: str = ""
    slots: int = 0
    running: int = 0
    waiting: int = 0
    tokens_per_s: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)
    key_age_s: int = 0
    error: str = ""


class Watch:
    """`feeds` are URLs and how each is read; `clock` in seconds."""

    def __init__(
        self, feeds: Sequence[tuple[str, Read]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._feeds, self._clock = feeds, clock
        self._tokens: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._pool = ThreadPoolExecutor(min(len(feeds), MAX_AT_ONCE))

    def look(self) -> list[Row]:
        """A row for each feed, in their order. Raises Refused where an agent has another token."""
        return list(self._pool.map(lambda feed: self._row(*feed), self._feeds))

    def _row(self, url: str, read: Read) -> Row:
        shown = redacted_url(url)
        try:
            page = Page.from_bytes(read(), where=f"{shown}/metrics")
        except ParseError as error:
            return Row(shown, UNREADABLE, error=str(error))
        except Unavailable as error:
            return Row(shown, UNREACHABLE, error=str(error))
        boot = page.label("umay_guest_info", "boot")
        return Row(
            feed=shown,
            state=_state(page),
            boot=boot,
            model=page.label("umay_guest_info", "model"),
            slots=int(page.value("umay_engine_slots")),
            running=int(page.value("umay_engine_running")),
            waiting=int(page.value("umay_engine_waiting")),
            tokens_per_s=round(self._rate((url, boot), page), 1),
            requests={
                name: int(count)
                for name, count in page.by("umay_requests_total", "outcome").items()
            },
            key_age_s=int(page.value("umay_epoch_age_seconds")),
        )

    def _rate(self, enclave: tuple[str, str], page: Page) -> float:
        now, total = self._clock(), page.value("umay_completion_tokens_total")
        seen = self._tokens.setdefault(enclave, deque())
        seen.append((now, total))
        while now - seen[0][0] > WINDOW_S:
            seen.popleft()
        since, before = seen[0]
        if now - since >= LEAST_S:
            return max(0.0, total - before) / (now - since)
        uptime = page.value("umay_uptime_seconds")
        return total / uptime if uptime > 0 else 0.0


def _state(page: Page) -> str:
    if not page.value("umay_agent_guest_answering"):
        return "no guest"
    states = page.by("umay_engine_state", "state")
    for state in ("failed", "draining"):
        if states.get(state):
            return state
    ready = page.value("umay_ready") and page.value("umay_agent_guest_ready")
    return "serving" if ready else "pending"


def run(watch: Watch, *, once: bool, as_json: bool) -> None:
    """Shows what it sees each second; with `once` a single time.

    Raises Unavailable where no agent can be read at the first look; with `once` where any cannot.
    Raises Refused where an agent has another token.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    refreshed = console.is_terminal and not once and not as_json
    with Live(console=console, auto_refresh=False) if refreshed else nullcontext() as screen:
        rows = _shown(watch, console, screen, as_json)
        _check(rows, every=once)
        while not once:
            time.sleep(EVERY_S)
            _shown(watch, console, screen, as_json)


def _shown(watch: Watch, console: Console, screen: Live | None, as_json: bool) -> list[Row]:
    rows = watch.look()
    if as_json:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"at": at, "enclaves": [asdict(row) for row in rows]}
        sys.stdout.write(f"{json.dumps(line)}\n")
        sys.stdout.flush()
    elif screen is not None:
        screen.update(table(rows), refresh=True)
    else:
        console.print(table(rows))
    return rows


def _check(rows: Sequence[Row], *, every: bool) -> None:
    broken = [row.error for row in rows if row.error]
    if broken and (every or len(broken) == len(rows)):
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise Unavailable(broken[0] + more)


def table(rows: Sequence[Row]) -> Table:
    found = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        right = name in ("slots", "queue", "tokens/s", "key age")
        found.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(one_line(cell)) for cell in _cells(row)))
    return found


def _cells(row: Row) -> tuple[str, ...]:
    enclave = f"{row.feed} {row.boot[:BOOT_SHOWN]}"
    if row.error or row.state == "no guest":
        return (enclave, "", row.state, "", "", "", row.error, "")
    ended = ", ".join(f"{count} {name}" for name, count in row.requests.items() if count)
    return (
        enclave, row.model, row.state, f"{row.running}/{row.slots}", str(row.waiting),
        f"{row.tokens_per_s:.1f}", ended or "none", _age(row.key_age_s),
    )  # fmt: skip


def _age(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


__all__ = ["Row", "Watch", "run", "table"]
