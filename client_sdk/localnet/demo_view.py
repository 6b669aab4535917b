"""The demo for people: tables and colour on a terminal, plain text elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.errors import UmayError
from attestation.verify.verdict import Report
from client_sdk.auditing.results import Audit
from client_sdk.auditing.view import show_audit
from client_sdk.finding import Chosen
from client_sdk.localnet.demo import RelayObservation, Stage
from client_sdk.localnet.drills import Attack
from client_sdk.report_view import show_report
from client_sdk.session import CheckedReceipt
from contracts.coin import shown


class ConsoleStage(Stage):
    """Prints each act when it is done, and the answer token by token."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def starting(self, part: str) -> None:
        self._console.print(f"starting {part} …", style="dim", markup=False)

    def parts(self, parts: list[tuple[str, str, str]]) -> None:
        self._heading("1. The network is up")
        show_parts(self._console, parts)

    def report(self, chosen: Chosen, report: Report) -> None:
        self._heading("2. The cheapest enclave, verified before anything is sent")
        show_report(self._console, report, title=f"boot {chosen.place.boot}")

    def question(self, text: str) -> None:
        self._heading("3. A private conversation")
        self._line(f"you      {text}")
        self._write("enclave  ")

    def token(self, text: str) -> None:
        self._write(text)

    def relay(self, seen: RelayObservation) -> None:
        self._write("\n")
        self._heading("4. What the relay saw")
        sizes = " ".join(str(size) for size in seen.pieces[:12])
        more = f" … {len(seen.pieces)} in all" if len(seen.pieces) > 12 else ""
        self._line(f"question: {seen.request} bytes of ciphertext")
        self._line(f"answer:   pieces of {sizes}{more}")
        found = "FOUND" if seen.plaintext else "not found"
        self._line(
            f"question and answer, as text, JSON, hex or base64, in all {seen.handled} bytes "
            f"that the relay handled: {found}"
        )

    def receipt(self, receipt: CheckedReceipt) -> None:
        self._heading("5. The receipt, checked")
        inner = receipt.receipt
        prompt, cached, completion, _ = inner.tokens
        lines = (
            f"signed by the key in the verified bundle; evidence {inner.evidence_digest.hex()}",
            f"tokens: {prompt} prompt ({cached} cached), {completion} completion; "
            f"finished: {inner.finish_reason}; amount: {shown(inner.amount)}",
            "its hashes are those of the request and answer that this client sealed and opened",
        )
        for line in lines:
            self._line(line)

    def audit(self, audit: Audit) -> None:
        self._heading("6. The audit, from the contract's address")
        show_audit(self._console, audit)

    def attacks(self, attacks: list[Attack]) -> None:
        self._heading("7. Six attacks; each must be refused by the check that is meant for it")
        show_attacks(self._console, attacks)

    def failed(self, step: str, error: UmayError) -> None:
        self._console.print(f"\n{step} failed: {error}", style="bold red", markup=False)

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.rule(text, align="left")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def show_parts(console: Console, parts: list[tuple[str, str, str]]) -> None:
    """What runs: (name, address, remark)."""
    table = Table(title="The network", title_justify="left")
    for heading in ("part", "address", ""):
        table.add_column(heading, overflow="fold")
    for name, address, remark in parts:
        table.add_row(name, Text(address), Text(remark))
    console.print(table)


def show_attacks(console: Console, attacks: list[Attack]) -> None:
    table = Table(title="Attacks", title_justify="left")
    for heading in ("attack", "meant for", "refused by", "why"):
        table.add_column(heading, overflow="fold")
    for attack in attacks:
        mark = Text("✓ " if attack.refused else "✗ ", style="green" if attack.refused else "red")
        table.add_row(attack.name, attack.check, mark + ", ".join(attack.by), Text(attack.why))
    console.print(table)
