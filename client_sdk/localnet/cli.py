"""The commands `umay up` and `umay demo`: a whole simulated network on this machine."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click

from attestation.process import interrupt
from client_sdk.commands.cli import console, directory


@click.command()
@directory("Directory for the chain's state, the log, the keys and umay.toml.")
@click.option(
    "--model",
    metavar="NAME|DIR",
    help="Model of the guests: smollm2, or minilm for embeddings, which are imported once, or a "
    "directory. Default: what the network in --dir ran before, else the small demo model.",
)
def up(directory: Path, model: str | None) -> None:
    """Run a whole simulated network on this machine until Ctrl-C or SIGTERM.

    Starts a chain, a log, simulated machines, a relay and an OpenAI-compatible endpoint, and
    prints their addresses and example commands. The next start resumes from --dir. Exit codes:
    0 stopped; 2 --dir or --model cannot be used, or an extra is not installed; 3 the model cannot
    be imported; 5 a part did not start, or ended; 130 interrupted before everything had started.
    """
    from client_sdk.localnet import extras
    from client_sdk.localnet import up as foreground

    extras.check("umay up")
    signal.signal(signal.SIGTERM, interrupt)
    foreground.run(directory, say=click.echo, model=model)


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of each step."
)
def demo(as_json: bool) -> None:
    """Start a simulated network, send it a sealed prompt, audit it, and attack it.

    Uses a temporary directory and removes it. Exit codes: 0 every attack was detected; 1 a check
    did not hold; 2 an extra is not installed; 5 a part did not start or did not answer.
    """
    import tempfile

    from client_sdk.localnet import extras
    from client_sdk.localnet.demo import Demo
    from client_sdk.localnet.demo_view import ConsoleStage

    extras.check("umay demo")
    signal.signal(signal.SIGTERM, interrupt)
    with tempfile.TemporaryDirectory(prefix="umay-demo-") as directory:
        stage = None if as_json else ConsoleStage(console())
        outcome = Demo(Path(directory), stage=stage).run()
    if as_json:
        click.echo(json.dumps(outcome.to_json(), ensure_ascii=False))
    else:
        click.echo(f"\n{outcome.verdict}, in {outcome.seconds:.0f} s")
    sys.exit(outcome.exit_code)
