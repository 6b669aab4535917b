"""The commands of `umay audit`: audits of a log, and inspection of files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attestation.errors import ParseError, UsageError
from client_sdk.auditing.files import cli as files
from client_sdk.commands.cli import (
    CHAIN,
    DIRECTORY,
    EXPLAIN,
    FILE,
    JSON,
    POLICY,
    SAVED,
    console,
    directory,
)

if TYPE_CHECKING:
    from client_sdk.auditing.request import AuditRequest

CONTRACT = "Address of the log's AttestationLog contract."
CURRENT = "Current vendor collateral file (may be repeated)."
ARCHIVE = "Directory of an archive of vendor collateral; the parts valid now are used."


class _Contract(click.types.StringParamType):
    name = "address"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return (
            "`umay up` prints the address of its contract when it starts, and `umay net deploy` "
            "when it deploys one; for another log, ask its operator or read the policy's "
            "log_contract"
        )


@click.group()
def audit() -> None:
    """Verify every entry of a log, starting from its contract; inspect files.

    No server is trusted: what a log or mirror serves is hashed and compared with the contract.
    """


for _command in (files.inspect, files.collateral, files.fetch, files.allowed):
    audit.add_command(_command)


def _audit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that name the contract, the sources and the policy of an audit."""
    for option in (
        directory(SAVED),
        click.option("--archive", type=DIRECTORY, help=ARCHIVE),
        click.option("--collateral", multiple=True, type=FILE, help=CURRENT),
        click.option(
            "--registry",
            metavar="ADDRESS",
            help="Address of a Registry contract that must have allowed every release and model. "
            "Default: no Registry is read.",
        ),
        click.option(
            "--renewals-kept",
            type=click.IntRange(1),
            metavar="DAYS",
            help="Accept that evidence of renewals older than DAYS is gone (exit code 6). Default: "
            "all evidence must be there.",
        ),
        click.option(
            "--mirror",
            metavar="DIR|URL",
            help="Directory or URL of a mirror to read instead of the log's own address.",
        ),
        click.option("--policy", type=FILE, help=POLICY),
        click.option("--chain", metavar="URL", help=CHAIN),
        click.option(
            "--contract", type=_Contract(), required=True, metavar="ADDRESS", help=CONTRACT
        ),
    ):
        command = option(command)
    return command


@audit.command("run")
@_audit_options
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="Verify only N randomly chosen entries (exit code 6). Default: all entries.",
)
@click.option(
    "--state",
    type=FILE,
    help="File that remembers verified entries until the UTC day ends, so that the next run "
    "skips them. Default: every entry is verified again.",
)
@click.option("--html", type=FILE, help="Write the audit to this file as one HTML page.")
@click.option("--json", "as_json", is_flag=True, help=JSON)
def run_audit(as_json: bool, html: Path | None, **options: Any) -> None:
    """Verify every entry of a log again, starting from its contract.

    Every entry is judged as of its own time and as of now. Prints each entry, every problem and
    a verdict. Exit codes: 0 no violation; 1 a violation was found; 3 the address holds no
    AttestationLog; 5 the contract could not be read; 6 something was not checked, as with
    --sample.
    """
    from client_sdk.auditing.output import output
    from client_sdk.auditing.page import page
    from client_sdk.auditing.progress import ProgressDisplay
    from client_sdk.auditing.request import audit_request
    from client_sdk.auditing.view import show_audit

    with output(html) as write:
        with ProgressDisplay() as progress:
            request = audit_request(progress=progress, **options)
            done = request.auditor.run(request.contract, request.scope)
        if html is not None:
            write(page(done).encode())
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        show_audit(console(), done)
    sys.exit(done.exit_code)


@audit.command()
@click.argument("index", type=click.IntRange(0))
@_audit_options
@click.option("--json", "as_json", is_flag=True, help=JSON)
@click.option("--explain", is_flag=True, help=EXPLAIN)
def entry(index: int, as_json: bool, explain: bool, **options: Any) -> None:
    """Verify the entry with this INDEX and print its leaf, proof and report.

    Exit codes: 0 the entry holds; 1 a violation was found; 2 the log has no such entry; 3 the
    address holds no AttestationLog; 5 the contract could not be read; 6 something could not be
    checked.
    """
    from client_sdk.auditing.request import audit_request
    from client_sdk.auditing.single import audit_entry
    from client_sdk.auditing.view import show_entry

    request = audit_request(**options)
    single = audit_entry(request.auditor, request.contract, index, request.scope)
    if as_json:
        click.echo(json.dumps(single.to_json()))
    else:
        show_entry(console(), single, explain=explain)
    sys.exit(single.audit.exit_code)


@audit.command()
@_audit_options
@click.option("--boot", metavar="HEX", help="Boot id (32 hex digits); its newest entry is used.")
@click.option("--index", type=click.IntRange(0), help="Index of the entry.")
@click.option(
    "--evidence",
    metavar="HEX",
    help="Digest of the evidence (64 hex digits), as `umay client receipts show` prints it.",
)
@click.option("--out", type=FILE, required=True, help="File to write the proof to.")
def prove(
    boot: str | None, index: int | None, evidence: str | None, out: Path, **options: Any
) -> None:
    """Verify one enclave's entry and write all that proves it to one file.

    `check-proof` verifies this file without a network. Give --boot, --index or --evidence. Exit
    codes: 0 the file was written; 1 the entry does not hold; 2 wrong options; 5 the contract
    could not be read; 6 something could not be checked, and nothing was written.
    """
    from client_sdk.auditing.output import output
    from client_sdk.auditing.progress import ProgressDisplay
    from client_sdk.auditing.proving import prove as proof_of
    from client_sdk.auditing.request import audit_request
    from client_sdk.auditing.single import audit_entry

    given = [name for name in (boot, index, evidence) if name is not None]
    if len(given) != 1:
        raise UsageError(
            f"expected one of --boot, --index and --evidence, got {len(given)}; give one of them"
        )
    with output(out) as write:
        with ProgressDisplay() as progress:
            request = audit_request(progress=progress, **options)
            if index is None:
                index = _index_of(request, boot, evidence)
            single = audit_entry(request.auditor, request.contract, index, request.scope)
        data = proof_of(single).to_bytes()
        write(data)
    click.echo(f"{out}: entry {index}, {len(data)} bytes")


def _index_of(request: AuditRequest, boot: str | None, evidence: str | None) -> int:
    from client_sdk.auditing.request import boot_id, evidence_id
    from client_sdk.auditing.single import find_boot, find_evidence

    about = request.auditor, request.contract
    if evidence is not None:
        return find_evidence(*about, evidence_id(evidence), request.scope)
    return find_boot(*about, boot_id(boot or ""), request.scope)


@audit.command("check-proof")
@click.argument("file", type=FILE)
@click.option("--policy", type=FILE, required=True, help="Policy file: what you accept.")
@click.option(
    "--chain",
    metavar="lite:…",
    help="Chain to compare the file with: lite:CONFIG.json?from=FILE needs no network. Default: "
    "the file's own statements about the chain are not checked.",
)
@click.option("--json", "as_json", is_flag=True, help=JSON)
@click.option("--explain", is_flag=True, help=EXPLAIN)
def check_proof(file: Path, policy: Path, chain: str | None, as_json: bool, explain: bool) -> None:
    """Verify a FILE from `prove` without a network, as of the enclave's own time.

    Prints the report and, for every statement, what it rests on. Statements about the chain rest
    on the prover's word, unless --chain gives the answers that `prove` saved (prove --chain
    lite:CONFIG.json?save=FILE): then they are proven from the block that CONFIG.json pins. Exit
    codes: 0 the proof holds, as far as the statements that it rests on; 1 it does not hold; 3 the
    file is not a proof; 5 the chain has no answer; 6 something could not be checked.
    """
    from client_sdk import config
    from client_sdk.auditing.proof_file import EnclaveProof
    from client_sdk.auditing.proving import check
    from client_sdk.auditing.view import show_proof
    from client_sdk.inspection.result import read_file
    from contracts.endpoint import reading

    accepted = config.read_policy(policy)
    data = read_file(file)
    try:
        proof = EnclaveProof.from_bytes(data)
    except ParseError as error:
        raise ParseError(f"{file}: {error}") from None
    checked = check(proof, accepted, reading(chain) if chain else None)
    if as_json:
        click.echo(json.dumps(checked.to_json()))
    else:
        show_proof(console(), checked, explain=explain)
    sys.exit(checked.exit_code)


@audit.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--policy",
    type=FILE,
    help="Policy file with the log's key. Default: signatures are not checked (exit code 6).",
)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def compare(a: str, b: str, policy: Path | None, as_json: bool) -> None:
    """Compare two copies of a log entry by entry; A and B are URLs or directories.

    Prints both checkpoints, the first difference and a verdict. Exit codes: 0 both are the same
    log, and one may be longer; 1 the log signed two contradicting trees; 6 a copy is damaged or
    lacks something, or no --policy was request.
    """
    from client_sdk import config
    from client_sdk.auditing.comparison import compare as compared
    from client_sdk.auditing.progress import ProgressDisplay
    from client_sdk.auditing.sources import open_source
    from client_sdk.auditing.view import show_compared
    from client_sdk.transport import Transport

    accepted = config.read_policy(policy) if policy else None
    transport = Transport()
    with ProgressDisplay() as progress:
        sides = open_source(a, transport, name="A"), open_source(b, transport, name="B")
        done = compared(*sides, accepted, progress)
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        show_compared(console(), done)
    sys.exit(done.exit_code)


@audit.command()
@_audit_options
@click.option(
    "--keep",
    type=DIRECTORY,
    required=True,
    help="Directory for the audit state, the alerts and the Atom feed.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two audits.",
)
@click.option("--webhook", metavar="URL", help="URL to which new alerts are posted as JSON.")
@click.option("--once", is_flag=True, help="Make one audit, and end with its exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print each alert as one line of JSON.")
def watch(
    keep: Path, every: int, webhook: str | None, once: bool, as_json: bool, **options: Any
) -> None:
    """Audit a log at intervals until stopped, and report every new problem as an alert.

    Alerts go to standard output, to an Atom feed (feed.atom in the --keep directory) and to the
    webhook. Verified entries are not verified again until the next UTC day. Exit codes with
    --once: 0 no violation; 1 a violation was found; 5 the contract or the log could not be read;
    6 something was not checked.
    """
    from client_sdk.auditing.watch_loop import WatchLoop
    from client_sdk.auditing.watching import Alert

    def tell(alert: Alert) -> None:
        click.echo(json.dumps(alert.to_json()) if as_json else str(alert))

    def warn(text: str) -> None:
        click.echo(text, err=True)

    loop = WatchLoop.open(keep, options, webhook=webhook, tell=tell, warn=warn)
    if once:
        sys.exit(loop.one())
    loop.forever(every)
