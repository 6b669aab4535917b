"""The commands of `umay client receipts`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from attestation.errors import ParseError, UsageError, VerificationError
from client_sdk.commands.cli import DIRECTORY, FILE, JSON, console

if TYPE_CHECKING:
    from client_sdk.disclosure import DisclosedReceipt
    from client_sdk.receipts.checking import CoseReceipt, ReceiptCheck

T = TypeVar("T")
RECEIPTS = "Directory of the receipts that `chat --receipts` keeps."
CHAIN = (
    "Chain to compare the proof with: lite:CONFIG.json?from=FILE needs no network. Default: what "
    "the proof says about the chain is not checked."
)

kept_in = click.option(
    "--receipts", type=DIRECTORY, default="~/.umay/receipts", show_default=True, help=RECEIPTS
)


@click.group()
def receipts() -> None:
    """Read, verify and show the receipts of your answers.

    A kept receipt holds the request and the answer too: it is as secret as they are. `disclose`
    writes a file that shows only what you choose.
    """


@receipts.command("list")
@kept_in
@click.option("--json", "as_json", is_flag=True, help=JSON)
def list_kept(receipts: Path, as_json: bool) -> None:
    """Print one line for each receipt that is kept.

    Exit codes: 0 all were read; 2 there is no such directory; 3 a file in it is not a receipt, is
    not authentic, or can be read by others; the other ones are listed all the same.
    """
    from client_sdk.receipt_store import ReceiptStore
    from client_sdk.receipts.checking import fields_of
    from client_sdk.receipts.view import show_list

    store, found, damaged = ReceiptStore(receipts), [], 0
    for name in store.ids():
        try:
            found.append((name, store.get(name).check()))
        except (ParseError, UsageError, VerificationError) as error:
            damaged += 1
            click.echo(str(error), err=True)
    if as_json:
        click.echo(json.dumps([{"id": name, **fields_of(receipt)} for name, receipt in found]))
    else:
        show_list(console(), found)
    sys.exit(3 if damaged else 0)


@receipts.command()
@click.argument("receipt")
@kept_in
@click.option("--text", is_flag=True, help="Print the request and the answer too.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt's fields as JSON.")
def show(receipt: str, receipts: Path, text: bool, as_json: bool) -> None:
    """Print the fields of a RECEIPT: the path of a file, or the first digits of the id of a kept
    one.

    Signature and hashes are checked, but not whose key it is: see `verify`. Of a COSE file nothing
    is checked, because it names no key; standard error says so. Exit codes: 0 it was printed; 2 no
    receipt, or more than one, begins so; 3 the file is not a receipt, or is not authentic.
    """
    from client_sdk.receipts.checking import CoseReceipt, check_alone, fields_of
    from client_sdk.receipts.view import show_receipt, show_texts

    found = _found(receipt, receipts)
    checked = check_alone(found).receipt
    if isinstance(found, CoseReceipt):
        click.echo("not checked: a COSE file names no key; see `verify --proof`", err=True)
    if as_json:
        click.echo(json.dumps({"id": found.id, **fields_of(checked)}))
        return
    show_receipt(console(), checked, f"Receipt {found.id}")
    if text and not isinstance(found, CoseReceipt):
        show_texts(console(), found)


@receipts.command()
@click.argument("receipt")
@kept_in
@click.option(
    "--proof",
    type=FILE,
    help="Proof of the enclave, from `umay audit prove`. Default: nothing shows whose key signed "
    "(exit code 6).",
)
@click.option("--policy", type=FILE, help="Policy file: what you accept. Needed with --proof.")
@click.option("--chain", metavar="lite:…", help=CHAIN)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def verify(
    receipt: str,
    receipts: Path,
    proof: Path | None,
    policy: Path | None,
    chain: str | None,
    as_json: bool,
) -> None:
    """Verify a RECEIPT: the path of a file, or the first digits of the id of a kept one.

    The file may be from `disclose` or `export`. Needs no network. Exit codes: 0 the receipt holds
    and the proof shows whose it is; 1 the proof does not hold; 2 wrong options, or there is no
    such file; 3 the receipt is not authentic, or is not of the enclave of the proof; 5 the chain
    has no answer; 6 no proof was given, or something could not be checked.
    """
    from client_sdk.receipts.view import show_check

    if (proof is None) != (policy is None):
        raise UsageError("expected --proof and --policy together, got one of them")
    found = _found(receipt, receipts)
    checked = _checked(found, proof, policy, chain)
    if as_json:
        click.echo(json.dumps(checked.to_json()))
    else:
        show_check(console(), checked)
    sys.exit(checked.exit_code)


@receipts.command()
@click.argument("receipt")
@kept_in
@click.option("--request", is_flag=True, help="Show the request.")
@click.option("--answer", is_flag=True, help="Show the answer.")
@click.option("--out", type=FILE, required=True, help="File to write to.")
def disclose(receipt: str, receipts: Path, request: bool, answer: bool, out: Path) -> None:
    """Write a file with one RECEIPT and what you choose to show of its exchange.

    Anybody can verify the file without a network. A part that is not shown cannot be guessed from
    the file. The receipt itself shows token counts, the amount, the time and the enclave. Exit
    codes: 0 the file was written; 2 no receipt, or more than one, begins so, or the file cannot
    be written; 3 the kept receipt is damaged.
    """
    from client_sdk.auditing.output import output
    from client_sdk.receipt_store import ReceiptStore

    with output(out, private=True) as write:
        kept = ReceiptStore(receipts).get(receipt)
        kept.check()
        shown = kept.showing(request=request, response=answer)
        write(shown.to_bytes())
    parts = [name for name, given in (("the request", request), ("the answer", answer)) if given]
    click.echo(f"{out}: the receipt {kept.id}, with {' and '.join(parts) or 'no text'}")


@receipts.command()
@click.argument("receipt")
@kept_in
@click.option("--out", type=FILE, required=True, help="File to write to.")
def export(receipt: str, receipts: Path, out: Path) -> None:
    """Write one RECEIPT as COSE_Sign1 (RFC 9052), signed by the enclave.

    Any verifier that knows COSE and EdDSA can check it with the enclave's receipt key. It shows
    nothing of the request and the answer. Exit codes: 0 the file was written; 2 no receipt, or
    more than one, begins so, or this one has no COSE signature; 3 the kept receipt is damaged.
    """
    from attestation.formats import receipt_cose
    from client_sdk.auditing.output import output
    from client_sdk.receipt_store import ReceiptStore

    with output(out, private=True) as write:
        kept = ReceiptStore(receipts).get(receipt)
        kept.check()
        if kept.cose is None:
            raise UsageError(
                f"receipt {kept.id}: expected one with a COSE signature, its enclave gave none; "
                "use `disclose`"
            )
        write(receipt_cose.encode(kept.signed.body, kept.cose))
    click.echo(f"{out}: the receipt {kept.id} as COSE_Sign1")


def _found(receipt: str, receipts: Path) -> DisclosedReceipt | CoseReceipt:
    """A file where there is one of that name, else what is kept under that id."""
    from client_sdk.disclosure import MAX_DISCLOSURE_BYTES
    from client_sdk.receipt_store import ReceiptStore
    from client_sdk.receipts.checking import read

    path = Path(receipt)
    if os.path.lexists(path):
        return _read(path, read, limit=MAX_DISCLOSURE_BYTES)
    return ReceiptStore(receipts).get(receipt)


def _checked(
    found: DisclosedReceipt | CoseReceipt,
    proof: Path | None,
    policy: Path | None,
    chain: str | None,
) -> ReceiptCheck:
    from client_sdk import config
    from client_sdk.auditing.proof_file import EnclaveProof
    from client_sdk.receipts.checking import check, check_alone
    from contracts.endpoint import reading

    if proof is None or policy is None:
        return check_alone(found)
    accepted = config.read_policy(policy)
    return check(
        found,
        _read(proof, EnclaveProof.from_bytes),
        accepted,
        reading(chain) if chain else None,
    )


def _read(path: Path, parse: Callable[[bytes], T], *, limit: int | None = None) -> T:
    from client_sdk.inspection.result import read_file

    data = read_file(path, limit=limit)
    try:
        return parse(data)
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from None
