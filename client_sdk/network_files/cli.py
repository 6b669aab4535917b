"""The commands of `umay client network`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from attestation.errors import ParseError
from attestation.formats.dates import dated
from attestation.formats.network_file import MAX_FILE_BYTES, NetworkFile
from client_sdk.commands.cli import CHAIN, FILE, JSON, POLICY, SAVED, directory


@click.group()
def network() -> None:
    """Show, verify and update a signed network file: where the relays of a network are.

    The file holds addresses alone. What is accepted stands in the policy.
    """


@network.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help=JSON)
def show(file: Path, as_json: bool) -> None:
    """Print what a network FILE says. Needs no network.

    Only its form is checked, and whether its own keys signed it. Exit codes: 0 the file was
    printed; 2 it cannot be read; 3 it is malformed, or its signatures are not valid; 4 it says
    more than places.
    """
    found = _read(file)
    found.check_signed(found.keys, found.required, "its own keys")
    fields = _fields(found)
    if as_json:
        click.echo(json.dumps(fields))
        return
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            click.echo(f"{name:<14}{item}")


@network.command()
@click.argument("file", type=FILE)
@click.option("--after", type=FILE, required=True, help="Network file that you trust already.")
def verify(file: Path, after: Path) -> None:
    """Check that a network FILE may take the place of another one, and counts now.

    Whether the log has it is not checked: `update` does that. Needs no network. Exit codes: 0 it
    may; 2 a file cannot be read; 3 malformed or not signed; 4 it is older, skips a version, has
    expired, or is of another network.
    """
    from attestation.verify.network import check_dates, check_next, check_own

    kept, found = _read(after), _read(file)
    check_own(kept, network=found.network)
    check_next(kept, found)
    check_dates(found, now=_now())
    click.echo(f"version {found.version} may follow version {kept.version}")


@network.command()
@click.argument("file", type=FILE)
@directory(SAVED)
@click.option("--chain", metavar="URL", help=CHAIN)
@click.option("--policy", type=FILE, help=POLICY)
def update(file: Path, **where: Any) -> None:
    """Follow the network FILE that you keep to its newest version.

    Each version is fetched from the log of the policy or from a mirror, has to be signed by the one
    before, and has to be in the anchored log. FILE is replaced whole. Exit codes: 0 FILE is the
    newest version and counts now; 2 a file or option cannot be used; 3 a version is malformed, not
    signed or not logged; 4 a version is older, skips one or has expired; 5 nobody answered.
    """
    from client_sdk import config
    from client_sdk.chain_reader import ChainReader
    from client_sdk.network_files.following import Updater
    from client_sdk.transport import Transport
    from contracts.endpoint import reading

    found = config.load(url=config.NOT_ASKED, **where)
    accepted = config.read_policy(found.policy)
    reader = ChainReader(reading(found.chain), accepted)
    transport = Transport()
    try:
        newest, steps = Updater(file, accepted, reader, transport).update()
    finally:
        transport.close()
    counts = f"version {newest.version} counts until {dated(newest.expires)}"
    click.echo(f"{counts}; {steps} version(s) were followed" if steps else f"{counts}; it is kept")
    sys.exit(0)


def _read(path: Path) -> NetworkFile:
    from attestation.files import unusable

    try:
        with path.open("rb") as file:
            return NetworkFile.from_bytes(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise unusable(path, error) from None
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from None


def _fields(file: NetworkFile) -> dict[str, Any]:
    return {
        "network": file.network,
        "version": file.version,
        "issued": dated(file.issued),
        "expires": dated(file.expires),
        "signers": f"{file.required} of {len(file.keys)}",
        "key": [key.hex() for key in file.keys],
        "relay": list(file.relays),
        "mirror": list(file.mirrors),
        "witness": list(file.witnesses),
        "lite server": [f"{s.host}:{s.port} {s.key.hex()}" for s in file.lite_servers],
    }


def _now() -> int:
    import time

    return int(time.time())
