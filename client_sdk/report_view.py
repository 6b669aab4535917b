"""How reports look to people: one line per step of the plan, plain text beyond a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from attestation.verify.verdict import Report, StepResult
from client_sdk.auditing.results import Audit, EntryVerdict
from client_sdk.inspection.dated import Dated
from client_sdk.inspection.inspected import Inspected
from client_sdk.localnet.drills import Attack

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


def show_inspection(console: Console, found: Inspected) -> None:
    """What a file is, field by field, then every check of it."""
    title = _shown(f"{found.file}: {found.kind} ({found.encoding})")
    console.print(title, style="bold", markup=False)
    if found.fields:
        table = Table(show_lines=False)
        for heading in ("field", "value", "meaning"):
            table.add_column(heading, overflow="fold")
        for item in found.fields:
            table.add_row(*(Text(_shown(t)) for t in (item.name, item.value, item.meaning)))
        console.print(table)
    for check in found.checks:
        mark, colour = MARKS[check.status]
        code = f" [{check.code}]" if check.code else ""
        line = f"{mark} {check.name}: {check.status}; {check.text}{code}"
        console.print(_shown(line), style=colour, markup=False)


def _shown(text: str) -> str:
    """What a file says must not steer the terminal it is shown on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_dated(console: Console, parts: list[Dated]) -> None:
    """Collateral in the order in which it expires."""
    table = Table(show_lines=False)
    for heading in ("part", "from", "until", "state"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        colour = "green" if part.current else "red"
        table.add_row(part.name, part.day(0), part.day(1), Text(part.state, style=colour))
    console.print(table)


def show_parts(console: Console, parts: list[tuple[str, str, str]]) -> None:
    """What runs: (name, address, remark)."""
    table = Table(title="The network", title_justify="left")
    for heading in ("part", "address", ""):
        table.add_column(heading, overflow="fold")
    for name, address, remark in parts:
        table.add_row(name, Text(address), Text(remark))
    console.print(table)


def show_audit(console: Console, audit: Audit) -> None:
    """From the contract's address down to the verdict."""
    console.print(f"contract   {audit.contract}", markup=False)
    console.print(f"anchored   {audit.size} entries, root {audit.root[:16]}…", markup=False)
    console.print(f"log        {audit.log_url}", markup=False)
    table = Table(title="Every entry", title_justify="left")
    for heading in ("#", "what", "enclave", "release, model", "verdict"):
        table.add_column(heading, overflow="fold")
    for entry in audit.entries:
        runs = Text(entry.runs)
        table.add_row(str(entry.index), entry.kind, entry.boot[:16], runs, _verdict(entry))
    console.print(table)
    show_problems(console, audit)
    style = "bold green" if audit.ok else "bold red"
    console.print(f"verdict: {audit.verdict}", style=style, markup=False)


def show_problems(console: Console, audit: Audit) -> None:
    """Problems, findings, and whether the machines are real."""
    for problem in audit.problems:
        console.print(f"{problem.severity}: {problem.text}", style="red", markup=False)
    for finding in audit.findings:
        console.print(f"finding: {finding.text} [{finding.code}]", style="yellow", markup=False)
    if audit.simulated:
        console.print(Text(SIMULATED, style="bold yellow"))


def show_attacks(console: Console, attacks: list[Attack]) -> None:
    table = Table(title="Attacks", title_justify="left")
    for heading in ("attack", "meant for", "refused by", "why"):
        table.add_column(heading, overflow="fold")
    for attack in attacks:
        mark = Text("✓ " if attack.refused else "✗ ", style="green" if attack.refused else "red")
        table.add_row(attack.name, attack.check, mark + ", ".join(attack.by), Text(attack.why))
    console.print(table)


def _mark(step: StepResult) -> Text:
    sign, style = MARKS[step.status]
    return Text(f"{sign} {step.status}", style=style)


def _detail(step: StepResult) -> Text:
    return Text(f"[{step.code}] {step.detail}" if step.code else step.detail)


def _verdict(entry: EntryVerdict) -> Text:
    style = {"verified": "green", "refused": "red"}.get(entry.verdict, "yellow")
    return Text(f"{entry.verdict} {entry.detail}".strip(), style=style)
