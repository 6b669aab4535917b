"""The commands of `umay audit`: audits of a log, and inspection of files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from attestation.errors import Incomplete, UsageError
from client_sdk.commands.cli import (
    AT,
    CHAIN,
    DIRECTORY,
    FILE,
    JSON,
    POLICY,
    ROOTS,
    SAVED,
    console,
    directory,
)

CONTRACT = "Address of the log's AttestationLog contract."
CURRENT = "Current vendor collateral file (may be repeated)."
ARCHIVE = "Directory of an archive of vendor collateral; the parts valid now are used."
PCCS = "Base URL of a PCCS to use instead of Intel's PCS."
AMD = "Base URL to use instead of AMD's KDS."
NVIDIA_RIM = "Base URL to use instead of NVIDIA's RIM service."
NVIDIA_OCSP = "URL to use instead of NVIDIA's OCSP service."
ROOT_CRL = "URL of Intel's root CA CRL. Default: Intel's own."


@click.group()
def audit() -> None:
    """Verify every entry of a log, starting from its contract; inspect files.

    No server is trusted: what a log or mirror serves is hashed and compared with the contract.
    """


def _asking(command: Callable[..., None]) -> Callable[..., None]:
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
        click.option("--contract", required=True, metavar="ADDRESS", help=CONTRACT),
    ):
        command = option(command)
    return command


@audit.command("run")
@_asking
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
def run_audit(as_json: bool, html: Path | None, **asking: Any) -> None:
    """Verify every entry of a log again, starting from its contract.

    Every entry is judged as of its own time and as of now. Prints each entry, every problem and
    a verdict. Exit codes: 0 no violation; 1 a violation was found; 3 the address holds no
    AttestationLog; 5 the contract could not be read; 6 something was not checked, as with
    --sample.
    """
    from client_sdk.auditing.given import asked
    from client_sdk.auditing.output import output
    from client_sdk.auditing.page import page
    from client_sdk.auditing.progress import Shown
    from client_sdk.auditing.view import show_audit

    with output(html) as write:
        with Shown() as progress:
            given = asked(progress=progress, **asking)
            done = given.auditor.run(given.contract, given.scope)
        if html is not None:
            write(page(done).encode())
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        show_audit(console(), done)
    sys.exit(done.exit_code)


@audit.command()
@click.argument("index", type=click.IntRange(0))
@_asking
@click.option("--json", "as_json", is_flag=True, help=JSON)
def entry(index: int, as_json: bool, **asking: Any) -> None:
    """Verify the entry with this INDEX and print its leaf, proof and report.

    Exit codes: 0 the entry holds; 1 a violation was found; 2 the log has no such entry; 3 the
    address holds no AttestationLog; 5 the contract could not be read; 6 something could not be
    checked.
    """
    from client_sdk.auditing.given import asked
    from client_sdk.auditing.single import audit_entry
    from client_sdk.auditing.view import show_entry

    given = asked(**asking)
    single = audit_entry(given.auditor, given.contract, index, given.scope)
    if as_json:
        click.echo(json.dumps(single.to_json()))
    else:
        show_entry(console(), single)
    sys.exit(single.audit.exit_code)


@audit.command()
@_asking
@click.option("--boot", metavar="HEX", help="Boot id (32 hex digits); its newest entry is used.")
@click.option("--index", type=click.IntRange(0), help="Index of the entry.")
@click.option("--out", type=FILE, required=True, help="File to write the proof to.")
def prove(boot: str | None, index: int | None, out: Path, **asking: Any) -> None:
    """Verify one enclave's entry and write all that proves it to one file.

    `check-proof` verifies this file without a network. Give --boot or --index. Exit codes: 0 the
    file was written; 1 the entry does not hold; 2 wrong options; 5 the contract could not be
    read; 6 something could not be checked, and nothing was written.
    """
    from client_sdk.auditing.given import asked, boot_id
    from client_sdk.auditing.output import output
    from client_sdk.auditing.progress import Shown
    from client_sdk.auditing.proving import prove as proof_of
    from client_sdk.auditing.single import audit_entry, find_boot

    if (boot is None) == (index is None):
        got = "neither" if boot is None else "both"
        raise UsageError(f"expected either --boot or --index, got {got}; give one of them")
    with output(out) as write:
        with Shown() as progress:
            given = asked(progress=progress, **asking)
            if index is None:
                index = find_boot(given.auditor, given.contract, boot_id(boot or ""), given.scope)
            single = audit_entry(given.auditor, given.contract, index, given.scope)
        data = proof_of(single).to_bytes()
        write(data)
    click.echo(f"{out}: entry {index}, {len(data)} bytes")


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
def check_proof(file: Path, policy: Path, chain: str | None, as_json: bool) -> None:
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
    proof = EnclaveProof.from_bytes(read_file(file))
    checked = check(proof, accepted, reading(chain) if chain else None)
    if as_json:
        click.echo(json.dumps(checked.to_json()))
    else:
        show_proof(console(), checked)
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
    lacks something, or no --policy was given.
    """
    from client_sdk import config
    from client_sdk.auditing.comparing import compare as compared
    from client_sdk.auditing.progress import Shown
    from client_sdk.auditing.sources import open_source
    from client_sdk.auditing.view import show_compared
    from client_sdk.transport import Transport

    accepted = config.read_policy(policy) if policy else None
    transport = Transport()
    with Shown() as progress:
        sides = open_source(a, transport), open_source(b, transport)
        done = compared(*sides, accepted, progress)
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        show_compared(console(), done)
    sys.exit(done.exit_code)


@audit.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option(
    "--collateral",
    multiple=True,
    type=FILE,
    help="Vendor collateral file for the checks (may be repeated).",
)
@click.option("--at", "moment", metavar="TIME", help=AT)
@click.option("--policy", type=FILE, help=ROOTS)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def inspect(
    files: tuple[Path, ...],
    collateral: tuple[Path, ...],
    moment: str | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Print what FILES are, field by field, and whether their signatures and rules hold.

    Reads quotes, reports, event logs, certificates, RIMs, collateral, the JSON of NVIDIA and of
    providers, and Umay's own formats, as raw bytes, hex or base64. Files given together are used
    for each other's checks. Exit codes: 0 all checks hold; 2 a file cannot be read; 3 not
    authentic; 4 refused; 6 something could not be checked.
    """
    from attestation.trust.roots import PRODUCTION
    from client_sdk import config
    from client_sdk.inspection.files import inspect_files, offered
    from client_sdk.inspection.result import CheckInputs, at, exit_code
    from client_sdk.inspection.view import show_inspection

    roots = config.read_policy(policy).roots if policy else PRODUCTION
    given = offered(collateral, CheckInputs(at(moment), roots))
    found = inspect_files(files, given)
    if as_json:
        click.echo(json.dumps({"at": given.now, "found": [item.to_json() for item in found]}))
    else:
        for item in found:
            show_inspection(console(), item)
    sys.exit(exit_code(found))


@audit.command()
@click.argument("files", nargs=-1, type=FILE, metavar="FILE...")
@click.option(
    "--archive", type=DIRECTORY, help="Directory of an archive; all versions in it are read."
)
@click.option("--at", "moment", metavar="TIME", help=AT)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def collateral(
    files: tuple[Path, ...], archive: Path | None, moment: str | None, as_json: bool
) -> None:
    """Print when each part of vendor collateral in FILES expires, by its own dates.

    Exit codes: 0 every part has a version that is valid at that time; 2 no collateral was given;
    4 a part has no valid version.
    """
    from attestation.trust.roots import PRODUCTION
    from attestation.vendors.archive import Archive
    from client_sdk.inspection.dated import DatedPart, dated_parts
    from client_sdk.inspection.files import offered
    from client_sdk.inspection.result import CheckInputs, at
    from client_sdk.inspection.view import show_dated

    given = offered(files, CheckInputs(at(moment), PRODUCTION))
    parts = dated_parts(given) if files else []
    if archive is not None:
        kept = Archive(archive).versions()
        parts += [DatedPart(name, dates, given.now) for name, _, dates in kept]
    if not parts:
        raise UsageError("expected collateral to read, got none; give files, --archive, or both")
    if as_json:
        click.echo(json.dumps({"at": given.now, "parts": [part.to_json() for part in parts]}))
    else:
        show_dated(console(), parts)
    counting = {part.name for part in parts if part.current}
    sys.exit(0 if all(part.name in counting for part in parts) else 4)


@audit.command()
@click.argument("evidence", type=FILE)
@click.option("--out", type=FILE, help="Write the collateral to this file.")
@click.option("--archive", type=DIRECTORY, help="Add the collateral to this archive.")
@click.option("--policy", type=FILE, help=ROOTS)
@click.option("--intel", metavar="URL", help=PCCS)
@click.option("--amd", metavar="URL", help=AMD)
@click.option("--nvidia-rim", metavar="URL", help=NVIDIA_RIM)
@click.option("--nvidia-ocsp", metavar="URL", help=NVIDIA_OCSP)
@click.option("--intel-root-crl", metavar="URL", help=ROOT_CRL)
def fetch(
    evidence: Path,
    out: Path | None,
    archive: Path | None,
    policy: Path | None,
    **services: str | None,
) -> None:
    """Get the collateral that verifies an EVIDENCE file from the hardware vendors.

    Give --out, --archive, or both. Exit codes: 0 all parts were written; 2 wrong options; 3 the
    evidence is not authentic; 5 a vendor did not answer; 6 a vendor does not have a part, and the
    others were written.
    """
    from attestation.formats.evidence import Evidence
    from attestation.trust.roots import PRODUCTION
    from attestation.vendors.archive import Archive
    from attestation.vendors.collect import collect
    from attestation.vendors.fetch import HttpFetcher, Services
    from client_sdk import config
    from client_sdk.auditing.output import output
    from client_sdk.inspection.result import at, read_file

    if out is None and archive is None:
        raise UsageError("expected a place to write to, got none; give --out, --archive, or both")
    given = {name: url for name, url in services.items() if url}
    roots = config.read_policy(policy).roots if policy else PRODUCTION
    parsed = Evidence.from_bytes(read_file(evidence))
    kept = Archive(archive) if archive is not None else None
    with output(out) as write:
        got = collect(parsed, HttpFetcher(), services=Services(**given), roots=roots, now=at(None))
        found = got.collateral
        write(found.to_bytes())
    if out is not None:
        click.echo(f"{out}: {len(found.parts)} parts")
    if kept is not None:
        digest = kept.add(found)
        click.echo(f"{archive}: {len(found.parts)} parts, set {digest.hex()}")
    if got.missing:
        lacking = "; ".join(f"{name} ({answer})" for name, answer in got.missing.items())
        raise Incomplete(f"the vendors do not have {len(got.missing)} part(s): {lacking}")


@audit.command()
@click.option(
    "--registry", required=True, metavar="ADDRESS", help="Address of the Registry contract."
)
@click.option(
    "--measurement",
    required=True,
    metavar="HEX",
    help="Digest of a measurement or of a model, 64 hex digits.",
)
@click.option("--at", "moment", metavar="TIME", help=AT)
@click.option("--chain", metavar="URL", help=CHAIN)
@directory(SAVED)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def allowed(
    registry: str, measurement: str, moment: str | None, as_json: bool, **where: Any
) -> None:
    """Print which Registry entries list a measurement, and which allowed it at a time.

    The answer rests on the chain endpoint that you chose. Exit codes: 0 at least one entry
    allowed it; 3 the address holds no Registry; 4 no entry allowed it; 5 the chain did not answer.
    """
    from client_sdk import config
    from client_sdk.auditing.allowed import entries_of
    from client_sdk.inspection.result import at
    from contracts.chain import raw_address
    from contracts.endpoint import reading
    from contracts.registry import read_registry

    found = config.load(url="-", policy=Path("-"), **where)
    state, read_at = read_registry(
        reading(found.chain), address=raw_address(registry, "--registry")
    )
    entries = entries_of(state, measurement, at(moment))
    if as_json:
        click.echo(json.dumps({"at": at(moment), "read_at": read_at, "entries": entries}))
    for entry in [] if as_json else entries:
        state_ = "allowed" if entry["allowed"] else "not allowed"
        click.echo(f"{state_}: manifest {entry['manifest']}, from {entry['from']}")
    if not entries and not as_json:
        click.echo("no release or model of this Registry has this digest")
    sys.exit(0 if any(entry["allowed"] for entry in entries) else 4)


@audit.command()
@_asking
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
    keep: Path, every: int, webhook: str | None, once: bool, as_json: bool, **asking: Any
) -> None:
    """Audit a log at intervals until stopped, and report every new problem as an alert.

    Alerts go to standard output, to an Atom feed (feed.atom in the --keep directory) and to the
    webhook. Verified entries are not verified again until the next UTC day. Exit codes with
    --once: 0 no violation; 1 a violation was found; 5 the contract or the log could not be read;
    6 something was not checked.
    """
    from client_sdk.auditing.watch_loop import Rounds
    from client_sdk.auditing.watching import Alert

    def tell(alert: Alert) -> None:
        click.echo(json.dumps(alert.to_json()) if as_json else str(alert))

    def warn(text: str) -> None:
        click.echo(text, err=True)

    rounds = Rounds.open(keep, asking, webhook=webhook, tell=tell, warn=warn)
    if once:
        sys.exit(rounds.one())
    rounds.forever(every)
