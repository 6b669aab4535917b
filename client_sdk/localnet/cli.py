"""`umay up` and `umay demo`: a whole network on this machine."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click

from attestation.process import interrupt
from client_sdk.commands.cli import console, directory


@click.command()
@directory("Where it keeps chain, log, keys and addresses.")
def up(directory: Path) -> None:
    """Run a whole network on this machine, in the foreground."""
    from client_sdk.localnet import up as foreground

    signal.signal(signal.SIGTERM, interrupt)
    foreground.run(directory, say=click.echo)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a show.")
def demo(as_json: bool) -> None:
    """Start a network, talk to it privately, audit it, attack it.

    Exit code 0: everything held; 1: something did not; 5: a part did not start or answer.
    """
    import tempfile

    from client_sdk.localnet.demo import Demo
    from client_sdk.localnet.demo_view import ConsoleStage

    signal.signal(signal.SIGTERM, interrupt)
    with tempfile.TemporaryDirectory(prefix="umay-demo-") as directory:
        stage = None if as_json else ConsoleStage(console())
        outcome = Demo(Path(directory), stage=stage).run()
    if as_json:
        click.echo(json.dumps(outcome.to_json(), ensure_ascii=False))
    else:
        click.echo(f"\n{outcome.verdict}, in {outcome.seconds:.0f} s")
    sys.exit(outcome.exit_code)
