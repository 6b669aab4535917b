"""`umay host`: what stands before guests."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

FILE = click.Path(dir_okay=False, path_type=Path)
LISTEN = "HOST:PORT"


@click.group()
def host() -> None:
    """Run what stands before a guest: its agent, a relay."""


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="The guest's public address.")
@click.option("--feed-listen", required=True, metavar=LISTEN, help="Where the guest reads.")
@click.option("--guest", required=True, metavar="URL", help="Where the guest serves.")
@click.option("--log", required=True, metavar="URL", help="The transparency log.")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--contract", required=True, help="Address of the log's AttestationLog.")
@click.option("--simulator", type=FILE, help="Simulator socket to take collateral from.")
@click.option("--collateral", type=FILE, help="Collateral file, where there is no simulator.")
@click.option("--release", type=click.IntRange(0), help="Leaf index of the guest's release.")
def agent(
    listen: str,
    feed_listen: str,
    guest: str,
    log: str,
    chain: str,
    contract: str,
    simulator: Path | None,
    collateral: Path | None,
    release: int | None,
) -> None:
    """Stand before one guest: forward ciphertext, log its evidence, feed it the beacon."""
    from attestation.errors import UsageError
    from contracts.chain import ToncenterV2, raw_address
    from enclave.host.agent import Agent, described
    from enclave.host.collateral import from_file, from_simulator
    from enclave.host.registrar import Registrar
    from enclave.host.serving import serve

    if simulator is not None and collateral is None:
        fetch = partial(from_simulator, simulator)
    elif collateral is not None and simulator is None:
        fetch = partial(from_file, collateral)
    else:
        got = "both" if simulator else "neither"
        raise UsageError(f"expected one of --simulator and --collateral, got {got}")
    raw_address(contract)
    registrar = Registrar(
        guest=guest,
        log=log,
        chain=ToncenterV2(chain),
        contract=contract,
        collateral=fetch,
        release=release,
        tell=_tell,
    )
    stopped = threading.Event()
    threading.Thread(target=registrar.run, args=(stopped,), daemon=True).start()
    standing = Agent(registrar, guest=guest, log=log, chain=ToncenterV2(chain))
    apps = [(standing.public(), listen), (standing.feed(), feed_listen)]
    serve(apps, ready=lambda urls: click.echo(described(urls)))
    stopped.set()


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="Address to serve on.")
@click.option("--upstream", required=True, multiple=True, metavar="URL", help="An agent; repeat.")
@click.option("--record", type=FILE, help="Write every byte handled to this file.")
def relay(listen: str, upstream: tuple[str, ...], record: Path | None) -> None:
    """One address for many agents, routed by boot id. Sees ciphertext only."""
    from enclave.host.relay import Relay, recorded
    from enclave.host.serving import serve

    app = Relay(upstream).app()
    serve([(recorded(app, record) if record else app, listen)], ready=_ready)


def _ready(urls: Sequence[str]) -> None:
    click.echo(json.dumps({"listening": urls[0]}))


def _tell(text: str) -> None:
    click.echo(f"agent: {text}", err=True)
