"""Shows progress of long work on standard error: a bar on a terminal, elsewhere a line every few
seconds and one at the end. Short work shows nothing.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Remaining

QUIET_S = 2.0
LINE_EVERY_S = 15.0
REDRAW_S = 0.2


class ProgressDisplay:
    """Called with (what, done, total). As a context manager it clears the bar at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._began, self._last = time.monotonic(), 0.0
        self._finished: set[tuple[str, int]] = set()

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tasks:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._began < QUIET_S or (now - self._last < self._pause() and done < total):
            return
        if self._console.is_terminal:
            self._draw(what, done, total)
        elif now - self._last >= self._pause() or (what, total) not in self._finished:
            self._console.print(f"{what}: {done} of {total}", markup=False)
        else:
            return
        if done >= total:
            self._finished.add((what, total))
        self._last = now

    def _pause(self) -> float:
        return REDRAW_S if self._console.is_terminal else LINE_EVERY_S

    def _draw(self, what: str, done: int, total: int) -> None:
        if not self._tasks:
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
