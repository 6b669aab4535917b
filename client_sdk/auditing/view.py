"""How audits, one entry, one proof file and a comparison look to people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.formats.dates import stamp
from attestation.formats.platform import LEAF_PLATFORMS
from attestation.log.leaf import Leaf
from client_sdk.auditing.comparison import Comparison
from client_sdk.auditing.proving import HERE, CheckedProof, Statement
from client_sdk.auditing.results import KINDS, Audit, EntryVerdict
from client_sdk.auditing.single import AuditedEntry
from client_sdk.report_view import SIMULATED, show_report


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


def show_entry(console: Console, single: AuditedEntry, *, explain: bool = False) -> None:
    """Leaf, proof, report, and what of it contradicts. `explain` as in `show_report`."""
    audit = single.audit
    console.print(f"contract   {audit.contract}", markup=False)
    console.print(f"anchored   {audit.size} entries, root {audit.root}", markup=False)
    console.print(f"log        {audit.log_url}", markup=False)
    if single.leaf is not None:
        table = Table(title=f"Entry {single.index}", title_justify="left", show_header=False)
        for name, value in leaf_rows(single.leaf):
            table.add_row(name, Text(value, overflow="fold"))
        console.print(table)
    if single.entry is not None and single.entry.report is not None:
        title = f"boot {single.entry.boot}, as of its own time"
        show_report(console, single.entry.report, title=title, explain=explain)
    if single.proof:
        console.print(Text(single.proof.decode(), overflow="fold", style="dim"))
    show_problems(console, audit)
    verdict = single.entry.verdict if single.entry else "not checked"
    style = "bold green" if audit.ok else "bold red"
    console.print(f"verdict: {verdict}", style=style, markup=False)


def show_proof(console: Console, checked: CheckedProof, *, explain: bool = False) -> None:
    """The report, then what rests on whose word. `explain` as in `show_report`."""
    title = f"entry {checked.index}, boot {checked.boot}, as of {stamp(checked.at)}"
    show_report(console, checked.report, title=title, explain=explain)
    for problem in checked.problems:
        console.print(f"violation: {problem}", style="red", markup=False)
    show_statements(console, checked.statements)
    style = "bold green" if checked.exit_code == 0 else "bold red"
    console.print(f"verdict: {checked.verdict}", style=style, markup=False)


def show_compared(console: Console, done: Comparison) -> None:
    """Both heads, what differs, the verdict."""
    for name, head in zip((done.a, done.b), done.heads, strict=True):
        known = (
            f"{head.origin}, {head.size} entries, root {head.root.hex()}"
            if head
            else "no usable checkpoint"
        )
        console.print(f"{name}: {known}", markup=False)
    for problem in done.problems:
        console.print(f"{problem.severity}: {problem.text}", style="red", markup=False)
    style = "bold green" if done.exit_code == 0 else "bold red"
    console.print(f"verdict: {done.verdict}", style=style, markup=False)


def leaf_rows(leaf: Leaf) -> list[tuple[str, str]]:
    """A leaf's fields in words; what says nothing is left out."""
    rows = [
        ("kind", KINDS[leaf.kind]),
        ("platform", LEAF_PLATFORMS.get(leaf.platform, "")),
        ("evidence", leaf.evidence_digest.hex()),
        ("key bundle", leaf.bundle_digest.hex()),
        ("measurement", leaf.measurement_digest.hex()),
        ("release", "" if leaf.release is None else f"entry {leaf.release}"),
        ("collateral", leaf.collateral_digest.hex()),
        ("beacon", f"block {leaf.beacon[0]}, {leaf.beacon[1].hex()}" if leaf.beacon[0] else ""),
        ("previous", "" if leaf.previous is None else f"entry {leaf.previous}"),
        ("statement", leaf.statement.hex()),
    ]
    return [(name, value) for name, value in rows if value and set(value) != {"0"}]


def _verdict(entry: EntryVerdict) -> Text:
    style = {"verified": "green", "refused": "red"}.get(entry.verdict, "yellow")
    return Text(f"{entry.verdict} {entry.detail}".strip(), style=style)


def show_statements(console: Console, statements: Iterable[Statement]) -> None:
    """What was shown here, and what rests on others."""
    table = Table(title="What this rests on", title_justify="left")
    for heading in ("statement", "rests on"):
        table.add_column(heading, overflow="fold")
    for statement in statements:
        style = "green" if statement.rests_on == HERE else "yellow"
        table.add_row(Text(statement.text), Text(statement.rests_on, style=style))
    console.print(table)
