"""How reports look to people: one line per step of the plan, plain text beyond a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from attestation.verify.explanation import explained
from attestation.verify.report_text import SIMULATED, counted, told
from attestation.verify.verdict import Report, StepResult

__all__ = ["MARKS", "SIMULATED", "console", "show_report"]
MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not checked": ("–", "yellow")}


class _Plain(Console):
    """What hosts, logs and files say must not steer the terminal that it is shown on."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_plain(segment.text))

    def on_broken_pipe(self) -> None:
        """Leaves it to the command: rich would end with 1, which means a violation here."""
        raise BrokenPipeError


def _plain(text: str) -> str:
    """Without control characters; a line's end stays."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def console() -> Console:
    """Standard output, 100 columns where it is no terminal."""
    return _Plain(width=None if sys.stdout.isatty() else 100, highlight=False)


def show_report(console: Console, report: Report, *, title: str, explain: bool = False) -> None:
    """The whole report: every step, findings, and what no check can show. A step that failed has
    what to do about it; with `explain`, every step has what it checks, and by which document."""
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("#", justify="right")
    table.add_column("step", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for step in report.steps:
        table.add_row(str(step.number), step.name, _mark(step), _detail(step, explain))
    console.print(table)
    console.print(counted(report), markup=False)
    if report.simulated:
        console.print(Panel(Text(SIMULATED, style="bold yellow"), expand=False))
    for finding in report.findings:
        console.print(f"finding: {finding.text} [{finding.step}/{finding.code}]", markup=False)
    for caveat in report.caveats:
        console.print(f"note: {caveat}", style="dim", markup=False)


def _mark(step: StepResult) -> Text:
    sign, style = MARKS[step.status]
    return Text(f"{sign} {step.status}", style=style)


def _detail(step: StepResult, explain: bool) -> Text:
    text = Text(told(step))
    item = next((item for item in explained() if item.name == step.name), None)
    if explain and item is not None:
        text.append(f"\nChecks: {item.checks}\nSource: {item.source}", style="dim")
    if step.advice and (explain or step.status == "failed"):
        text.append(f"\nWhat to do: {step.advice}", style="bold")
    return text
