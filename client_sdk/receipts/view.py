"""How receipts look to people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.channel.messages import Request
from attestation.formats.dates import stamp
from attestation.formats.receipt import Receipt
from client_sdk.auditing.view import show_statements
from client_sdk.disclosure import DisclosedReceipt
from client_sdk.receipts.checking import ReceiptCheck, fields_of


def show_list(console: Console, kept: list[tuple[str, Receipt]]) -> None:
    """One line for each."""
    table = Table(title=f"Receipts: {len(kept)}", title_justify="left")
    for heading in ("id", "time", "tokens in, out", "amount", "ended by", "evidence"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "id")
    for name, receipt in kept:
        tokens = f"{receipt.tokens[0]}, {receipt.tokens[2]}"
        evidence = f"{receipt.evidence_digest.hex()[:12]}…"
        row = (
            name[:16],
            stamp(receipt.time),
            tokens,
            f"{receipt.amount} nano",
            receipt.finish_reason,
        )
        table.add_row(*row, evidence)
    console.print(table)


def show_receipt(console: Console, receipt: Receipt, title: str) -> None:
    """Every field."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in fields_of(receipt).items():
        text = stamp(value) if name == "time" else str(value)
        if isinstance(value, dict):
            text = ", ".join(f"{count} {kind}" for kind, count in value.items())
        if name == "amount":
            text += " nano"
        table.add_row(name.replace("_", " "), Text(text, overflow="fold"))
    console.print(table)


def show_texts(console: Console, shown: DisclosedReceipt) -> None:
    """The request and the answer that the file has, as text without control characters."""
    asked: Request | None = shown.asked()
    if asked is not None:
        console.print(f"request: {asked.method} {asked.path}", markup=False)
        console.print(Text(_plain(asked.content)))
    if shown.response is not None:
        console.print("answer:")
        console.print(Text(_plain(shown.response.content)))


def show_check(console: Console, checked: ReceiptCheck) -> None:
    """The receipt, what rests on what, the verdict."""
    show_receipt(console, checked.receipt, "Receipt")
    show_statements(console, checked.statements)
    for problem in checked.enclave.problems if checked.enclave else ():
        console.print(f"violation: {problem}", style="red", markup=False)
    style = "bold green" if checked.exit_code == 0 else "bold red"
    console.print(f"verdict: {checked.verdict}", style=style, markup=False)


def _plain(content: bytes) -> str:
    """Without the filling, and with nothing that a terminal would act upon."""
    lines = (
        line
        for line in content.decode(errors="replace").rstrip().splitlines()
        if line.strip() not in ("", ":")
    )
    return "\n".join("".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines)
