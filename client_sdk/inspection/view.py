"""How inspected files and dated collateral look to people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client_sdk.inspection.dated import DatedPart
from client_sdk.inspection.result import InspectionResult
from client_sdk.report_view import MARKS


def show_inspection(console: Console, found: InspectionResult) -> None:
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


def show_dated(console: Console, parts: list[DatedPart]) -> None:
    """Collateral in the order in which it expires."""
    table = Table(show_lines=False)
    for heading in ("part", "from", "until", "state"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        colour = "green" if part.current else "red"
        table.add_row(part.name, part.day(0), part.day(1), Text(part.state, style=colour))
    console.print(table)
