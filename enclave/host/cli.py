"""The commands of `umay host`: the servers in front of guests, and the group `model`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enclave.host.models.cli import model

if TYPE_CHECKING:
    from attestation.formats.collateral import Collateral

FILE = click.Path(dir_okay=False, path_type=Path)
GIVEN = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
LISTEN = "HOST:PORT"
TOKEN = Path("~/.umay/feed.token")
FEED_FILE = "File with the secret that `retire` proves to the agent; the agent makes it if absent."
DRAIN = "Seconds that open answers may take to end once the server is told to stop."
KEEP_ALIVE = "Seconds after which an idle connection is closed."
ROOTS = "Policy file whose vendor roots are accepted. Default: the vendors' production roots."
CHAIN = "Chain endpoint: URL of a toncenter v2 API, or lite:CONFIG.json for proven reads."


_keep_alive = click.option(
    "--keep-alive", type=click.FloatRange(1), default=75, show_default=True, help=KEEP_ALIVE
)


_drain = click.option(
    "--drain", type=click.FloatRange(0.1, 86400), default=30, show_default=True, help=DRAIN
)


@click.group()
def host() -> None:
    """Run the servers in front of a guest, and prepare its model."""


host.add_command(model)


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="Public address to serve on.")
@click.option(
    "--feed-listen",
    required=True,
    metavar=LISTEN,
    help="Private address at which the guest reads its feed.",
)
@click.option("--token-file", type=FILE, default=TOKEN, show_default=True, help=FEED_FILE)
@click.option("--guest", required=True, metavar="URL", help="URL of the guest.")
@click.option("--log", required=True, metavar="URL", help="URL of the transparency log.")
@click.option("--chain", required=True, metavar="URL", help=CHAIN)
@click.option(
    "--contract",
    required=True,
    metavar="ADDRESS",
    help="Address of the log's AttestationLog contract.",
)
@click.option("--simulator", type=GIVEN, help="Socket of a simulator; it gives the collateral.")
@click.option("--collateral", type=GIVEN, help="Collateral file, read again for every renewal.")
@click.option(
    "--archive",
    type=DIRECTORY,
    help="Archive directory; the agent gets collateral from the vendors and keeps it here.",
)
@click.option("--policy", type=FILE, help=ROOTS)
@click.option("--intel", metavar="URL", help="Base URL of a PCCS to use instead of Intel's PCS.")
@click.option(
    "--intel-root-crl", metavar="URL", help="URL of Intel's root CA CRL. Default: Intel's own."
)
@click.option("--amd", metavar="URL", help="Base URL to use instead of AMD's KDS.")
@click.option(
    "--nvidia-rim", metavar="URL", help="Base URL to use instead of NVIDIA's RIM service."
)
@click.option("--nvidia-ocsp", metavar="URL", help="URL to use instead of NVIDIA's OCSP service.")
@click.option(
    "--release",
    type=click.IntRange(0),
    help="Index of the log entry of the guest's release. Default: none is named.",
)
@_keep_alive
@_drain
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
    drain: float,
    **services: str | None,
) -> None:
    """Serve one guest until stopped: forward ciphertext, log its evidence, feed it the beacon.

    Give exactly one of --simulator, --collateral and --archive as the source of vendor
    collateral. With --archive the agent asks the vendors every hour. Prints its addresses when
    it is ready. Exit codes: 0 stopped; 2 wrong options; 5 an address cannot be used.
    """
    from attestation.files import home
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from attestation.net.url import base_url
    from contracts.chain import raw_address
    from contracts.endpoint import reading
    from enclave.host.agent import Agent, described
    from enclave.host.feed import make_token
    from enclave.host.registrar import Registrar

    guest, log = base_url(guest, name="--guest"), base_url(log, name="--log")
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
    host_agent = Agent(registrar, guest=guest, log=log, chain=endpoint)
    token_file = home(token_file).absolute()
    feed = host_agent.feed(listen=feed_listen, token=make_token(token_file))
    apps = [(host_agent.public(), listen), (feed, feed_listen)]
    limits = Limits(idle_s=keep_alive, shutdown_s=drain)
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
    from enclave.host.collateral import VendorCollateral, from_file, from_simulator

    given = [name for name, value in _named(simulator, file, archive) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise UsageError(
            f"expected one of --simulator, --collateral, --archive; got {got}; give one"
        )
    if simulator is not None:
        return partial(from_simulator, simulator)
    if file is not None:
        return partial(from_file, file)
    roots = Policy.from_toml(policy.read_bytes()).roots if policy else PRODUCTION
    named = Services(**{name: url for name, url in services.items() if url})
    kept = Archive(archive or Path())
    return VendorCollateral(guest, kept, services=named, roots=roots, tell=_tell)


def _named(*places: Path | None) -> list[tuple[str, Path | None]]:
    return list(zip(("--simulator", "--collateral", "--archive"), places, strict=True))


@host.command()
@click.option("--feed", required=True, metavar="URL", help="URL of the agent's feed.")
@click.option("--token-file", type=FILE, default=TOKEN, show_default=True, help=FEED_FILE)
def retire(feed: str, token_file: Path) -> None:
    """End a boot: its guest erases all keys, and the log records its signed statement.

    Afterwards the guest answers no prompts; stop it, and start it again for a new boot. Exit
    codes: 0 retired; 2 no usable token file; 4 the agent has another token; 5 the agent, the
    guest or the log did not answer or did not do it; then run the command again.
    """
    from attestation.files import home
    from attestation.net.url import base_url
    from enclave.host.feed import read_token
    from enclave.host.peer import Peer

    url = base_url(feed, name="--feed")
    answer = Peer().retire(url, token=read_token(home(token_file)))
    click.echo(json.dumps({**answer, "retired": True}))


@host.command()
@click.option(
    "--feed",
    "feeds",
    required=True,
    multiple=True,
    metavar="URL",
    help="URL of an agent's feed (may be repeated).",
)
@click.option(
    "--token-file",
    "token_files",
    type=FILE,
    multiple=True,
    default=(TOKEN,),
    show_default=True,
    help="Token file of the agents; one for all feeds, or one for each, in the same order.",
)
@click.option("--once", is_flag=True, help="Show the enclaves once instead of each second.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each look.")
def top(feeds: tuple[str, ...], token_files: tuple[Path, ...], once: bool, as_json: bool) -> None:
    """Show what the enclaves of one or several agents do, each second until stopped.

    A row for each: its model, state, used slots, queue, tokens of answers per second (an average
    over a minute, or since the boot), requests by outcome, and how old its keys are. Exit codes: 0
    shown; 2 wrong options, or no usable token file; 4 an agent has another token; 5 no agent could
    be read, or with --once one could not.
    """
    from attestation.errors import UsageError
    from attestation.files import home
    from attestation.net.url import base_url
    from attestation.process import end_on_signals
    from enclave.host.feed import read_token
    from enclave.host.peer import Peer
    from enclave.host.top import Watch, run

    if len(token_files) not in (1, len(feeds)):
        raise UsageError(
            f"--token-file: expected one for all feeds or one for each of {len(feeds)}, "
            f"got {len(token_files)}"
        )
    tokens = [read_token(home(file)) for file in token_files]
    tokens *= len(feeds) if len(tokens) == 1 else 1
    urls = [base_url(url, name="--feed") for url in feeds]
    reads = [
        (url, partial(Peer().metrics, url, token=token))
        for url, token in zip(urls, tokens, strict=True)
    ]
    if not once:
        end_on_signals()
    run(Watch(reads), once=once, as_json=as_json)


@host.command()
@click.option("--listen", required=True, metavar=LISTEN, help="Address to serve on.")
@click.option(
    "--upstream",
    required=True,
    multiple=True,
    metavar="URL",
    help="URL of an agent (may be repeated).",
)
@click.option(
    "--record",
    type=FILE,
    help="Write every byte that passes to this file, to show that it is ciphertext.",
)
@_keep_alive
@_drain
def relay(
    listen: str, upstream: tuple[str, ...], record: Path | None, keep_alive: float, drain: float
) -> None:
    """Serve one address for many agents until stopped, and route requests by boot id.

    The relay sees ciphertext only. Prints its address when it is ready. Exit codes: 0 stopped; 2
    wrong options; 5 the address cannot be used.
    """
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from attestation.net.url import base_url
    from enclave.host.relay import Relay, recorded

    app = Relay(tuple(base_url(url, name="--upstream") for url in upstream)).app()
    app = recorded(app, record) if record else app
    serve([(app, listen)], ready=_ready, limits=Limits(idle_s=keep_alive, shutdown_s=drain))


def _ready(urls: Sequence[str]) -> None:
    click.echo(json.dumps({"listening": urls[0]}))


def _tell(text: str) -> None:
    from attestation.process import tell

    tell("agent", text)
