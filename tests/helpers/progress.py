"""What `make test` shows while it runs: a line for each finished file, each failure at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest


class Progress:
    """One line per finished file, in place of dots. For the process that hands out the tests."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._left: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._total = self._done = 0

    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Every worker collects the same tests."""
        if not self._total:
            self._left.update(file_of(one) for one in ids)
            self._total = len(ids)
            self._terminal.write_line(f"{self._total} tests in {len(self._left)} files")

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No letter for what is as it should be."""
        if report.passed:
            return ("passed" if report.when == "call" else "", "", "")
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = file_of(report.nodeid)
        if report.failed:
            self._bad[file] += 1
            self._terminal.ensure_newline()
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)
        if report.when == "teardown":
            self._finished(file)

    def _finished(self, file: str) -> None:
        self._done += 1
        self._left[file] -= 1
        if not self._left[file]:
            percent = 100 * self._done // max(self._total, 1)
            bad = f", {self._bad[file]} failed" if self._bad[file] else ""
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{percent:>3} %  {self._done} of {self._total}  {file}{bad}")


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
