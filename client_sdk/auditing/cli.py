"""`umay audit`: from a contract to every enclave, and what a file says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from attestation.errors import Incomplete, UsageError
from client_sdk.commands.cli import DIRECTORY, FILE, SAVED, console, directory


@click.group()
def audit() -> None:
    """Follow a contract to every enclave, trusting no server."""


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what is audited, from where, under which policy."""
    for option in (
        directory(SAVED),
        click.option("--archive", type=DIRECTORY, help="Collateral of today, kept there."),
        click.option("--collateral", multiple=True, type=FILE, help="Of today; repeat."),
        click.option("--registry", help="Address of the Registry that allows releases and models."),
        click.option(
            "--renewals-kept",
            type=click.IntRange(1),
            metavar="DAYS",
            help="Older renewals' evidence may be gone.",
        ),
        click.option("--mirror", metavar="DIR|URL", help="Read there, not at the log."),
        click.option("--policy", type=FILE, help="What you accept."),
        click.option(
            "--chain",
            metavar="URL",
            help="toncenter v2, or lite:CONFIG.json.",
        ),
        click.option("--contract", required=True, help="Address of the AttestationLog."),
    ):
        command = option(command)
    return command


@audit.command("run")
@_asking
@click.option("--sample", type=click.IntRange(1), metavar="N", help="So many, at random.")
@click.option("--state", type=FILE, help="What verified is kept here, for today.")
@click.option("--html", type=FILE, help="The audit as one HTML file, written there.")
@click.option("--json", "as_json", is_flag=True, help="The audit as JSON.")
def run_audit(as_json: bool, html: Path | None, **asking: Any) -> None:
    """Verify a log's every entry again, from its contract on.

    Each as of its own time, and as of now. Exit code 0: no violation; 1: a violation; 3: not an
    AttestationLog; 5: the contract could not be read; 6: something was not checked, as with
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
@click.option("--json", "as_json", is_flag=True, help="Entry, proof and report as JSON.")
def entry(index: int, as_json: bool, **asking: Any) -> None:
    """Show one entry with its proof, evidence and report.

    Exit code 0: it holds; 1: a violation; 6: something could not be checked; else as for run.
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
@click.option("--boot", metavar="HEX", help="Of this boot the newest entry.")
@click.option("--index", type=click.IntRange(0), help="This entry.")
@click.option("--out", type=FILE, required=True, help="The file to write.")
def prove(boot: str | None, index: int | None, out: Path, **asking: Any) -> None:
    """Write everything about one enclave into one file, for check-proof.

    Exit code 0: written; 1: the entry does not hold; 6: something could not be checked.
    """
    from client_sdk.auditing.given import asked, boot_id
    from client_sdk.auditing.output import output
    from client_sdk.auditing.progress import Shown
    from client_sdk.auditing.proving import prove as proof_of
    from client_sdk.auditing.single import audit_entry, find_boot

    if (boot is None) == (index is None):
        raise UsageError("give --boot or --index")
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
@click.option("--policy", type=FILE, required=True, help="What you accept.")
@click.option("--chain", metavar="lite:…", help="Compare with it: lite:CONFIG.json?from=FILE.")
@click.option("--json", "as_json", is_flag=True, help="The check as JSON.")
def check_proof(file: Path, policy: Path, chain: str | None, as_json: bool) -> None:
    """Verify a file of prove without a network, as of the enclave's own time.

    What the chain said is the prover's word, unless --chain gives the answers that prove used
    (prove --chain lite:CONFIG.json?save=FILE): then it is proven from the block your config pins.
    Exit code 0: it holds, as far as what it rests on does; 1: it does not; 3: it is no such
    file; 5: the chain has no answer; 6: something could not be checked.
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
@click.option("--policy", type=FILE, help="Whose log's signatures to check.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON.")
def compare(a: str, b: str, policy: Path | None, as_json: bool) -> None:
    """Compare two logs or mirrors, each a URL or a directory, entry by entry.

    Exit code 0: one log, of which one may show more; 1: the log signed what contradicts; 6: a
    side is damaged or lacks something, or no policy's key checked the signatures.
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
@click.option("--collateral", multiple=True, type=FILE, help="Serves the checks; repeat.")
@click.option("--at", "moment", metavar="TIME", help="Judge at this time (ISO or Unix seconds).")
@click.option("--policy", type=FILE, help="Whose roots to accept; the vendors' unless said.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def inspect(
    files: tuple[Path, ...],
    collateral: tuple[Path, ...],
    moment: str | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Say what files are, field by field, and whether they hold.

    Quotes, reports, event logs, certificates, RIMs, collateral, the JSON of NVIDIA and of
    providers, and Umay's own formats; raw, hex or base64. Files given together serve each
    other. Exit code 0: all holds; 3: not authentic; 4: refused; 6: something could not be
    checked.
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
@click.option("--archive", type=DIRECTORY, help="Everything that was ever kept there.")
@click.option("--at", "moment", metavar="TIME", help="Judge at this time (ISO or Unix seconds).")
@click.option("--json", "as_json", is_flag=True, help="Every part as JSON.")
def collateral(
    files: tuple[Path, ...], archive: Path | None, moment: str | None, as_json: bool
) -> None:
    """Say what collateral expires when, by its own dates.

    Exit code 0: of every part one counts at that time; 4: some does not.
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
        raise UsageError("give files, --archive, or both")
    if as_json:
        click.echo(json.dumps({"at": given.now, "parts": [part.to_json() for part in parts]}))
    else:
        show_dated(console(), parts)
    counting = {part.name for part in parts if part.current}
    sys.exit(0 if all(part.name in counting for part in parts) else 4)


@audit.command()
@click.argument("evidence", type=FILE)
@click.option("--out", type=FILE, help="Where the collateral goes, as one file.")
@click.option("--archive", type=DIRECTORY, help="Where it is kept, part by part.")
@click.option("--policy", type=FILE, help="Whose roots to accept; the vendors' unless said.")
@click.option("--intel", metavar="URL", help="A PCCS in place of Intel's service.")
@click.option("--amd", metavar="URL", help="In place of AMD's key service.")
@click.option("--nvidia-rim", metavar="URL", help="In place of NVIDIA's RIM service.")
@click.option("--nvidia-ocsp", metavar="URL", help="In place of NVIDIA's OCSP service.")
@click.option("--intel-root-crl", metavar="URL", help="Where Intel's root CRL lies.")
def fetch(
    evidence: Path,
    out: Path | None,
    archive: Path | None,
    policy: Path | None,
    **services: str | None,
) -> None:
    """Get from the vendors the collateral of a piece of evidence.

    Exit code 0: all of it; 2: wrong options; 3: not authentic evidence; 5: a vendor did not
    answer; 6: a vendor does not have a part, and the others are written.
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
        raise UsageError("say where it goes: --out, --archive, or both")
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
        raise Incomplete(f"{len(got.missing)} parts are missing: {lacking}")


@audit.command()
@click.option("--registry", required=True, help="Address of the Registry.")
@click.option("--measurement", required=True, help="Measurement or model digest, 64 hex digits.")
@click.option("--at", "moment", metavar="TIME", help="At this time (ISO or Unix seconds).")
@click.option("--chain", metavar="URL", help="toncenter v2, or lite:CONFIG.json.")
@directory(SAVED)
@click.option("--json", "as_json", is_flag=True, help="The entries as JSON.")
def allowed(
    registry: str, measurement: str, moment: str | None, as_json: bool, **where: Any
) -> None:
    """Say which releases allowed a measurement at a time, by the Registry's own record.

    Exit code 0: at least one did; 4: none did; 3: no Registry stands there; 5: the chain did not
    answer. The answer rests on the endpoint that you chose.
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
        click.echo("no release or model of this registry ever had this digest")
    sys.exit(0 if any(entry["allowed"] for entry in entries) else 4)


@audit.command()
@_asking
@click.option("--keep", type=DIRECTORY, required=True, help="Where state, alerts and feed lie.")
@click.option("--every", type=click.IntRange(1), default=60, show_default=True, help="Seconds.")
@click.option("--webhook", metavar="URL", help="New alerts are sent there as JSON.")
@click.option("--once", is_flag=True, help="One round; ends as run does.")
@click.option("--json", "as_json", is_flag=True, help="Each alert as a line of JSON.")
def watch(
    keep: Path, every: int, webhook: str | None, once: bool, as_json: bool, **asking: Any
) -> None:
    """Audit again and again, and tell what is new: on standard output, in an Atom feed
    (KEEP/feed.atom), to a webhook.

    Entries that verified are not verified again until the next UTC day. With --once the exit
    code is that of the round: 0: no violation; 1: a violation; 5: it could not look; 6:
    something was not checked. Otherwise it runs until it is ended.
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
