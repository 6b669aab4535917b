"""The commands of `umay host model`: which model the files of a directory are."""

from __future__ import annotations

import json
from pathlib import Path

import click

DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Say which model the files of a directory are."""


@model.command()
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def manifest(directory: Path, as_json: bool) -> None:
    """List the files of a model in DIR, and print the model's digest.

    A guest that runs these files claims this digest, and a policy names it. Exit codes: 0 printed;
    2 no directory; 3 DIR holds something else than data files.
    """
    from attestation.files import home
    from attestation.model_folder import read_manifest
    from enclave.host.models import identity

    found = read_manifest(home(directory))
    if as_json:
        click.echo(json.dumps(identity.to_json(found)))
    else:
        click.echo("\n".join(identity.lines(found)))


@model.command()
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option("--expect", required=True, metavar="HEX", help="The digest that the model must have.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a line.")
def check(directory: Path, expect: str, as_json: bool) -> None:
    """Compare the model in DIR with a digest, for example the one in a policy.

    Exit codes: 0 it has this digest; 2 no directory, or no digest; 3 DIR holds something else than
    data files; 4 it has another digest, which is printed.
    """
    from attestation.files import home
    from enclave.host.models import identity

    digest = identity.check(home(directory), expected=identity.read_digest(expect)).hex()
    text = json.dumps({"ok": True, "model_digest": digest}) if as_json else f"the model is {digest}"
    click.echo(text)
