"""`umay host`: what stands before guests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from attestation.formats.collateral import Collateral

FILE = click.Path(dir_okay=False, path_type=Path)
GIVEN = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
LISTEN = "HOST:PORT"
TOKEN = Path("~/.umay/feed.token")
ONLY_HOST = "What only the host may ask of the feed needs this; the agent makes it."
KEEP_ALIVE = "Seconds that an idle connection is kept; 75 unless said."


@click.group()
def host() -> None:
    """Run what stands before a guest: its agent, a relay."""


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="The guest's public address.")
@click.option("--feed-listen", required=True, metavar=LISTEN, help="Where the guest reads.")
@click.option("--token-file", type=FILE, default=TOKEN, show_default=True, help=ONLY_HOST)
@click.option("--guest", required=True, metavar="URL", help="Where the guest serves.")
@click.option("--log", required=True, metavar="URL", help="The transparency log.")
@click.option("--chain", required=True, metavar="URL", help="toncenter v2, or lite:CONFIG.json.")
@click.option("--contract", required=True, help="Address of the log's AttestationLog.")
@click.option("--simulator", type=GIVEN, help="Simulator socket to take collateral from.")
@click.option("--collateral", type=GIVEN, help="Collateral file, where there is no simulator.")
@click.option("--archive", type=DIRECTORY, help="Ask the vendors, and keep what they say here.")
@click.option("--policy", type=FILE, help="Whose roots to accept; the vendors' unless said.")
@click.option("--intel", metavar="URL", help="A PCCS in place of Intel's service.")
@click.option("--intel-root-crl", metavar="URL", help="Where Intel's root CRL lies.")
@click.option("--amd", metavar="URL", help="In place of AMD's key service.")
@click.option("--nvidia-rim", metavar="URL", help="In place of NVIDIA's RIM service.")
@click.option("--nvidia-ocsp", metavar="URL", help="In place of NVIDIA's OCSP service.")
@click.option("--release", type=click.IntRange(0), help="Leaf index of the guest's release.")
@click.option("--keep-alive", type=click.FloatRange(1), default=75, help=KEEP_ALIVE)
def agent(
    listen: str,
    feed_listen: str,
    token_file: Path,
    guest: str,
    log: str,
    chain: str,
    contract: str,
    simulator: Path | None,
    collateral: Path | None,
    archive: Path | None,
    policy: Path | None,
    release: int | None,
    keep_alive: float,
    **services: str | None,
) -> None:
    """Stand before one guest: forward ciphertext, log its evidence, feed it the beacon.

    Collateral comes from exactly one of --simulator, --collateral and --archive. With an
    archive the agent asks the vendors itself, hourly, for what the guest's evidence needs.
    Exit code 2: wrong options; 5: an address is taken.
    """
    from attestation.files import home
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from contracts.chain import raw_address
    from contracts.endpoint import reading
    from enclave.host.agent import Agent, described
    from enclave.host.feed import make_token
    from enclave.host.registrar import Registrar

    fetch = _collateral(guest, simulator, collateral, archive, policy, services)
    contract = raw_address(contract, "--contract")
    endpoint = reading(chain)
    registrar = Registrar(
        guest=guest,
        log=log,
        chain=endpoint,
        contract=contract,
        collateral=fetch,
        release=release,
        tell=_tell,
    )
    stopped = threading.Event()
    threading.Thread(target=registrar.run, args=(stopped,), daemon=True).start()
    standing = Agent(registrar, guest=guest, log=log, chain=endpoint)
    token_file = home(token_file).absolute()
    feed = standing.feed(listen=feed_listen, token=make_token(token_file))
    apps = [(standing.public(), listen), (feed, feed_listen)]
    limits = Limits(idle_s=keep_alive)
    serve(apps, ready=lambda urls: click.echo(described(urls, token_file)), limits=limits)
    stopped.set()


def _collateral(
    guest: str,
    simulator: Path | None,
    file: Path | None,
    archive: Path | None,
    policy: Path | None,
    services: Mapping[str, str | None],
) -> Callable[[], Collateral]:
    from attestation.errors import UsageError
    from attestation.trust.policy import Policy
    from attestation.trust.roots import PRODUCTION
    from attestation.vendors.archive import Archive
    from attestation.vendors.fetch import Services
    from enclave.host.collateral import FromVendors, from_file, from_simulator

    given = [name for name, value in _named(simulator, file, archive) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise UsageError(f"expected one of --simulator, --collateral, --archive; got {got}")
    if simulator is not None:
        return partial(from_simulator, simulator)
    if file is not None:
        return partial(from_file, file)
    roots = Policy.from_toml(policy.read_bytes()).roots if policy else PRODUCTION
    named = Services(**{name: url for name, url in services.items() if url})
    kept = Archive(archive or Path())
    return FromVendors(guest, kept, services=named, roots=roots, tell=_tell)


def _named(*places: Path | None) -> list[tuple[str, Path | None]]:
    return list(zip(("--simulator", "--collateral", "--archive"), places, strict=True))


@host.command()
@click.option("--feed", required=True, metavar="URL", help="The agent's feed address.")
@click.option("--token-file", type=FILE, default=TOKEN, show_default=True, help=ONLY_HOST)
def retire(feed: str, token_file: Path) -> None:
    """End a boot: its guest forgets all keys for good, and the log gets its word for it.

    The guest serves nobody afterwards; stop it, and start it anew for a new boot. Exit code 4:
    the agent has another token; 5: the agent, the guest or the log did not do it, and can be
    asked again.
    """
    from attestation.files import home
    from attestation.formats.json import decode
    from enclave.host.feed import read_token
    from enclave.host.peer import Peer

    token = read_token(home(token_file))
    answer = Peer().submit(f"{feed.rstrip('/')}/retire", b"", token=token)
    click.echo(json.dumps({"retired": True, **decode(answer, what=feed)}))


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="Address to serve on.")
@click.option("--upstream", required=True, multiple=True, metavar="URL", help="An agent; repeat.")
@click.option("--record", type=FILE, help="Write every byte handled to this file.")
@click.option("--keep-alive", type=click.FloatRange(1), default=75, help=KEEP_ALIVE)
def relay(listen: str, upstream: tuple[str, ...], record: Path | None, keep_alive: float) -> None:
    """One address for many agents, routed by boot id. Sees ciphertext only."""
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from enclave.host.relay import Relay, recorded

    app = Relay(upstream).app()
    app = recorded(app, record) if record else app
    serve([(app, listen)], ready=_ready, limits=Limits(idle_s=keep_alive))


def _ready(urls: Sequence[str]) -> None:
    click.echo(json.dumps({"listening": urls[0]}))


def _tell(text: str) -> None:
    click.echo(f"agent: {text}", err=True)
