"""How reports look to people: one line per step of the plan, plain text beyond a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from attestation.verify.verdict import Report, StepResult

MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not checked": ("–", "yellow")}
SIMULATED = "SIMULATED: these machines prove nothing. Their roots are this machine's own."


class _Piped(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to the command: rich would end with 1, which means a violation here."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output, 100 columns where it is no terminal."""
    return _Piped(width=None if sys.stdout.isatty() else 100, highlight=False)


def show_report(console: Console, report: Report, *, title: str) -> None:
    """The whole report: every step, findings, and what no check can show."""
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("#", justify="right")
    table.add_column("step", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for step in report.steps:
        table.add_row(str(step.number), step.name, _mark(step), _detail(step))
    console.print(table)
    if report.simulated:
        console.print(Panel(Text(SIMULATED, style="bold yellow"), expand=False))
    for finding in report.findings:
        console.print(f"finding: {finding.text} [{finding.step}/{finding.code}]", markup=False)
    for caveat in report.caveats:
        console.print(f"note: {caveat}", style="dim", markup=False)


def _mark(step: StepResult) -> Text:
    sign, style = MARKS[step.status]
    return Text(f"{sign} {step.status}", style=style)


def _detail(step: StepResult) -> Text:
    return Text(f"[{step.code}] {step.detail}" if step.code else step.detail)
