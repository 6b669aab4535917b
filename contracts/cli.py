"""`umay log` and `umay net`: run a transparency log, anchor it, run a chain of one's own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from contracts.chain import raw_address
from contracts.endpoint import toncenter

if TYPE_CHECKING:
    from attestation.log.database import Database
    from attestation.log.store import Store

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
MAX_EXPORTED = 32 << 20
"""Bytes of one file of a log."""

NANO = 1_000_000_000


def ready(**fields: object) -> None:
    """One JSON line on standard output: the service can be used."""
    click.echo(json.dumps(fields))


@click.group()
def log() -> None:
    """Run a transparency log and anchor it on the chain."""


@log.command()
@click.option("--dir", "directory", type=DIRECTORY, help="Where the log lives, in SQLite.")
@click.option(
    "--database",
    metavar="CONNINFO|env:NAME",
    help="PostgreSQL instead: several servers may write one log.",
)
@click.option("--listen", required=True, metavar="HOST:PORT", help="Address to serve on.")
@click.option("--origin", required=True, help="The log's name: its address without scheme.")
@click.option("--key", type=FILE, required=True, help="Ed25519 key file, made where absent.")
@click.option("--policy", type=FILE, required=True, help="What evidence is admitted.")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint for beacons.")
@click.option("--release", type=FILE, help="Manifest to log as the first leaf of a new log.")
@click.option("--registry", help="Address of the Registry that must allow what is logged.")
@click.option(
    "--keep-renewals",
    type=click.IntRange(2),
    metavar="DAYS",
    help="Remove renewals' evidence after so many days; unless said, never.",
)
def serve(
    directory: Path | None,
    database: str | None,
    listen: str,
    origin: str,
    key: Path,
    policy: Path,
    chain: str,
    release: Path | None,
    registry: str | None,
    keep_renewals: int | None,
) -> None:
    """Serve a log: tiles, checkpoints, proofs, evidence, and submission.

    Leaves, boots' evidence and collateral are kept for good, whatever --keep-renewals says.
    With --registry machines are admitted only while it allows their release and model, and
    release manifests that it lists.
    """
    from attestation.log import server
    from attestation.log.admission import no_release
    from attestation.log.store import Store, load_or_create_key
    from contracts.admit import PolicyAdmission, Registry

    signing_key = load_or_create_key(key, origin=origin)
    with Store(_database(directory, database), origin=origin, key=signing_key) as store:
        if release is not None and store.size == 0:
            _append_release(store, release.read_bytes())
        endpoint = toncenter(chain)
        allowed = Registry(endpoint, raw_address(registry)) if registry else None
        admission = PolicyAdmission(policy, endpoint, allowed)
        _, _, path = origin.partition("/")
        app = server.create_app(
            store,
            admit=admission,
            admit_release=allowed.check_release if allowed else no_release,
            origin_path=f"/{path}",
            keep_renewals=keep_renewals,
        )
        server.serve(app, listen=listen, ready=lambda url: ready(listening=f"{url}/{path}"))


def _database(directory: Path | None, conninfo: str | None) -> Database:
    from attestation.errors import UsageError
    from attestation.log.database import Sqlite

    if (directory is None) == (conninfo is None):
        raise UsageError("give --dir or --database")
    if directory is not None:
        return Sqlite(directory)
    from attestation.log.postgres import Postgres

    name = (conninfo or "").removeprefix("env:")
    if name == conninfo:
        return Postgres(name)
    if name not in os.environ:
        raise UsageError(f"--database: there is no variable {name}")
    return Postgres(os.environ[name])


def _append_release(store: Store, manifest: bytes) -> None:
    from attestation.log.documents import release_entry

    store.append([release_entry(manifest)])


@log.command()
@click.argument("manifest", type=FILE)
@click.option("--log", "log_url", required=True, metavar="URL", help="The log's address.")
def release(manifest: Path, log_url: str) -> None:
    """Log a release MANIFEST that the log's Registry lists; its leaf index.

    Exit code 4: the log does not take it, and says why; 5: the log did not answer.
    """
    from contracts.reader import submit

    logged = submit(f"{log_url.rstrip('/')}/release", _content(manifest))
    ready(index=logged.index, size=logged.size)


def _content(path: Path) -> bytes:
    from attestation.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


@log.command()
@click.option("--log", "log_url", required=True, metavar="URL", help="The log's address.")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--contract", required=True, help="Address of the log's AttestationLog.")
@click.option("--wallet", type=FILE, required=True, help="Key file of the wallet that pays.")
@click.option("--interval", default=2.0, show_default=True, help="Seconds between looks.")
def anchor(log_url: str, chain: str, contract: str, wallet: Path, interval: float) -> None:
    """Anchor each new checkpoint of a log, for ever."""
    from contracts.anchor import AnchorLoop
    from contracts.wallet import Wallet

    endpoint = toncenter(chain)
    raw_address(contract)
    loop = AnchorLoop(log_url, endpoint, Wallet.open(endpoint, wallet), contract, interval)
    signal.signal(signal.SIGTERM, _stop)
    ready(anchoring=contract)
    loop.run()


@log.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--log", "log_url", required=True, metavar="URL", help="The log's address.")
@click.option("--log-key", required=True, help="The log's Ed25519 key, 64 hex digits.")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(1), help="Older too; repeat.")
def export(directory: Path, log_url: str, log_key: str, sizes: tuple[int, ...]) -> None:
    """Write a log to DIRECTORY as static files, for any CDN; again, to bring it up to date.

    Name the anchored size with --size: an audit of the export needs its checkpoint. Exit code
    0: all of it; 3: the log's bytes are not authentic; 5: the log did not answer.
    """
    from attestation.fetch import HttpFetcher
    from attestation.log.export import Export

    url, fetcher, new = log_url.rstrip("/"), HttpFetcher(), [0]

    def tell(path: str, fresh: bool) -> None:
        new[0] += fresh
        if fresh and new[0] % 1000 == 0:
            click.echo(f"{new[0]} files, now {path}", err=True)

    def get(path: str) -> bytes:
        return fetcher.get(f"{url}/{path}", limit=MAX_EXPORTED).body

    origin = url.partition("://")[2]
    written = Export(directory, get, tell)
    size = written.run(origin=origin, log_key=_log_key(log_key), sizes=sizes)
    ready(directory=str(directory), size=size, new_files=new[0])


def _log_key(text: str) -> bytes:
    from attestation.errors import UsageError

    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise UsageError("--log-key: expected 64 lower-case hex digits")
    return bytes.fromhex(text)


@click.group()
def net() -> None:
    """A chain on this machine, wallets, and the log's contract."""


@net.command()
@click.option("--dir", "directory", type=DIRECTORY, required=True, help="Where its state lives.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT")
def chain(directory: Path, listen: str) -> None:
    """Run the embedded chain: the real TVM, no validators, loopback only."""
    from attestation.errors import UsageError
    from contracts.localnet import __main__ as localnet

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from None
    sys.argv = ["umay net chain", "--dir", str(directory), "--listen", listen]
    localnet.main()


@net.command()
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file, made where absent.")
def wallet(chain: str, wallet: Path) -> None:
    """Show a wallet's address and balance."""
    from contracts.wallet import Wallet

    opened = Wallet.open(toncenter(chain), wallet)
    ready(address=opened.address, nano=opened.balance())


@net.command()
@click.option("--chain", required=True, metavar="URL", help="Address of the embedded chain.")
@click.option("--to", required=True, help="Address that receives.")
@click.option(
    "--coins", type=click.IntRange(1), default=10, show_default=True, help="Whole coins to give."
)
def faucet(chain: str, to: str, coins: int) -> None:
    """Give coins out of nothing, on the embedded chain only."""
    from contracts.localnet.process import faucet as give

    give(chain, to, coins * NANO)
    ready(to=to, nano=coins * NANO)


@net.command()
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file of the wallet that pays.")
@click.option("--log", "log_url", required=True, metavar="URL", help="The log to be anchored.")
@click.option("--log-key", required=True, help="The log's Ed25519 key, 64 hex digits.")
def deploy(chain: str, wallet: Path, log_url: str, log_key: str) -> None:
    """Deploy the AttestationLog of a log, its present checkpoint as genesis."""
    from attestation.log import checkpoint as checkpoints
    from contracts.codec import LogState
    from contracts.deploy import deploy as put
    from contracts.reader import fetch_checkpoint
    from contracts.wallet import Wallet

    key = _log_key(log_key)
    note = fetch_checkpoint(log_url)
    parsed, _ = checkpoints.parse(note)
    head = checkpoints.verify(note, origin=parsed.origin, log_key=key)
    genesis = LogState.genesis(origin=head.origin, log_key=key, size=head.size, root=head.root)
    endpoint = toncenter(chain)
    deployed = put(endpoint, Wallet.open(endpoint, wallet), genesis)
    ready(address=deployed.address, code_hash=deployed.code_hash.hex(), size=head.size)


@net.command("deploy-registry")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file of the wallet that pays.")
@click.option("--owner", help="Address of the owner; the wallet unless said.")
@click.option("--notice", type=click.IntRange(0), default=604800, show_default=True, help="s.")
def deploy_registry(chain: str, wallet: Path, owner: str | None, notice: int) -> None:
    """Deploy a Registry: releases wait NOTICE seconds before they count."""
    from contracts.chain import raw_address
    from contracts.deploy import put
    from contracts.registry import genesis
    from contracts.wallet import Wallet

    endpoint = toncenter(chain)
    opened = Wallet.open(endpoint, wallet)
    owned_by = raw_address(owner or opened.address)
    address, code_hash = put(endpoint, opened, "registry", genesis(owner=owned_by, notice=notice))
    ready(address=address, code_hash=code_hash.hex(), owner=owned_by)


@net.command("deploy-verifier")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file of the wallet that pays.")
@click.option("--registry", required=True, help="Address of the Registry that sets its floors.")
@click.option("--root", type=FILE, required=True, help="Intel's root certificate (DER).")
def deploy_verifier(chain: str, wallet: Path, registry: str, root: Path) -> None:
    """Deploy a QuoteVerifier under a root certificate whose key is Intel's pinned one."""
    from attestation.roots import PRODUCTION
    from contracts.chain import raw_address
    from contracts.deploy import put
    from contracts.quote_verifier import genesis, pinned_root_key
    from contracts.wallet import Wallet

    key = pinned_root_key(root.read_bytes(), PRODUCTION)
    data = genesis(root_key=key, registry=raw_address(registry))
    endpoint = toncenter(chain)
    address, code_hash = put(endpoint, Wallet.open(endpoint, wallet), "quote_verifier", data)
    ready(address=address, code_hash=code_hash.hex())


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)
