"""The commands of `umay audit` that judge files and single statements, not a whole log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from attestation.errors import Incomplete, ParseError, UsageError
from client_sdk.commands.cli import (
    AT,
    CHAIN,
    DIRECTORY,
    FILE,
    JSON,
    ROOTS,
    SAVED,
    console,
    directory,
)

PCCS = "Base URL of a PCCS to use instead of Intel's PCS."
AMD = "Base URL to use instead of AMD's KDS."
NVIDIA_RIM = "Base URL to use instead of NVIDIA's RIM service."
NVIDIA_OCSP = "URL to use instead of NVIDIA's OCSP service."
ROOT_CRL = "URL of Intel's root CA CRL. Default: Intel's own."


@click.command()
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


@click.command()
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


@click.command()
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
    data = read_file(evidence)
    try:
        parsed = Evidence.from_bytes(data)
    except ParseError as error:
        raise ParseError(
            f"{evidence}: expected Evidence, as a machine serves it at /umay/BOOT/evidence, got "
            f"other bytes ({error})"
        ) from None
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


@click.command()
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
    address = raw_address(registry, "--registry")
    with config.asking(found.network):
        state = read_registry(reading(found.chain), address=address)
    entries = entries_of(state, measurement, at(moment))
    if as_json:
        click.echo(json.dumps({"at": at(moment), "read_at": state.read_at, "entries": entries}))
    for entry in [] if as_json else entries:
        state_ = "allowed" if entry["allowed"] else "not allowed"
        click.echo(f"{state_}: manifest {entry['manifest']}, from {entry['from']}")
    if not entries and not as_json:
        click.echo("no release or model of this Registry has this digest")
    sys.exit(0 if any(entry["allowed"] for entry in entries) else 4)
