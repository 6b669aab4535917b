"""`umay log`: run a transparency log, anchor it, witness it, export it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from contracts.chain import raw_address
from contracts.endpoint import reading, toncenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.log.checkpoint import Checkpoint
    from contracts.logservice.database import Database
    from contracts.logservice.server import Witnesses
    from contracts.logservice.store import Store

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
KEEP_ALIVE = "Seconds that an idle connection is kept; 75 unless said."


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
@click.option("--chain", required=True, metavar="URL", help="toncenter v2, or lite:CONFIG.json.")
@click.option("--release", type=FILE, help="Manifest to log as the first leaf of a new log.")
@click.option("--registry", help="Address of the Registry that must allow what is logged.")
@click.option(
    "--witness",
    "witnesses",
    nargs=2,
    multiple=True,
    metavar="URL VKEY",
    help="A witness that new checkpoints are offered to; repeat.",
)
@click.option(
    "--keep-renewals",
    type=click.IntRange(2),
    metavar="DAYS",
    help="Remove renewals' evidence after so many days; unless said, never.",
)
@click.option("--keep-alive", type=click.FloatRange(1), default=75, help=KEEP_ALIVE)
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
    witnesses: tuple[tuple[str, str], ...],
    keep_renewals: int | None,
    keep_alive: float,
) -> None:
    """Serve a log: tiles, checkpoints, proofs, evidence, and submission.

    Leaves, boots' evidence and collateral are kept for good, whatever --keep-renewals says.
    With --registry machines are admitted only while it allows their release and model, and
    release manifests that it lists.
    """
    from attestation.net.serve import serve as serve_app
    from attestation.net.server_connection import Limits
    from contracts.logservice import server
    from contracts.logservice.admission import no_release
    from contracts.logservice.admit import PolicyAdmission, Registry
    from contracts.logservice.store import Store, load_or_create_key

    check_name("--origin", origin)
    signing_key = load_or_create_key(key, origin=origin)
    with Store(_database(directory, database), origin=origin, key=signing_key) as store:
        if release is not None and store.size == 0:
            _append_release(store, release.read_bytes())
        endpoint = reading(chain)
        allowed = Registry(endpoint, raw_address(registry, "--registry")) if registry else None
        admission = PolicyAdmission(policy, endpoint, allowed)
        _, _, path = origin.partition("/")
        app = server.create_app(
            store,
            admit=admission,
            admit_release=allowed.check_release if allowed else no_release,
            witnesses=_witnessing(store, witnesses),
            origin_path=f"/{path}",
            keep_renewals=keep_renewals,
        )
        serve_app(
            [(app, listen)],
            ready=lambda urls: ready(listening=f"{urls[0]}/{path}"),
            limits=Limits(idle_s=keep_alive),
        )


def check_name(option: str, name: str) -> None:
    """The name of a log or a witness, in its one spelling. Raises UsageError."""
    from attestation.errors import ParseError, UsageError
    from attestation.formats.origin import check_log_name

    try:
        check_log_name(name)
    except ParseError as error:
        raise UsageError(f"{option}: {error}") from None


def _witnessing(store: Store, witnesses: tuple[tuple[str, str], ...]) -> Witnesses:
    import threading

    from contracts.logservice.witnessing import Witnessing, parse_witness

    watched = Witnessing(store, [parse_witness(*witness) for witness in witnesses])
    if witnesses:
        threading.Thread(target=watched.run, args=(threading.Event(),), daemon=True).start()
    return watched


def _database(directory: Path | None, conninfo: str | None) -> Database:
    from attestation.errors import UsageError
    from contracts.logservice.database import Sqlite

    if (directory is None) == (conninfo is None):
        raise UsageError("give --dir or --database")
    if directory is not None:
        return Sqlite(directory)
    from contracts.logservice.postgres import Postgres

    name = (conninfo or "").removeprefix("env:")
    if name == conninfo:
        return Postgres(name)
    if name not in os.environ:
        raise UsageError(f"--database: there is no variable {name}")
    return Postgres(os.environ[name])


def _append_release(store: Store, manifest: bytes) -> None:
    from contracts.logservice.documents import release_entry

    store.append([release_entry(manifest)])


@log.command()
@click.argument("manifest", type=FILE)
@click.option("--log", "log_url", required=True, metavar="URL", help="The log's address.")
def release(manifest: Path, log_url: str) -> None:
    """Log a release MANIFEST that the log's Registry lists; its leaf index.

    Exit code 4: the log does not take it, and says why; 5: the log did not answer.
    """
    from contracts.log_client import submit

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
    from contracts.logservice.anchor import AnchorLoop
    from contracts.wallet import Wallet

    endpoint = toncenter(chain)
    contract = raw_address(contract, "--contract")
    loop = AnchorLoop(log_url, endpoint, Wallet.open(endpoint, wallet), contract, interval)
    signal.signal(signal.SIGTERM, _stop)
    ready(anchoring=contract)
    loop.run()


@log.command()
@click.option("--state", type=FILE, required=True, help="What it cosigned, in SQLite.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Address to serve on.")
@click.option("--name", required=True, help="The witness's name: its address without scheme.")
@click.option("--key", type=FILE, required=True, help="Ed25519 key file, made where absent.")
@click.option(
    "--follow", "logs", required=True, multiple=True, metavar="VKEY", help="A log's key; repeat."
)
@click.option("--contract", help="Cosign only what this AttestationLog holds: a TON witness.")
@click.option("--chain", metavar="URL", help="With --contract: toncenter v2, or lite:CONFIG.json.")
@click.option("--log", "log_url", metavar="URL", help="The log's address, with --contract.")
@click.option("--keep-alive", type=click.FloatRange(1), default=75, help=KEEP_ALIVE)
def witness(
    state: Path,
    listen: str,
    name: str,
    key: Path,
    logs: tuple[str, ...],
    contract: str | None,
    chain: str | None,
    log_url: str | None,
    keep_alive: float,
) -> None:
    """Serve a witness (c2sp.org/tlog-witness): cosign what continues what was cosigned before.

    It prints its key (vkey) when it serves. Use another key for each witness.
    """
    from attestation.errors import UsageError
    from attestation.log.note import COSIGNATURE, VerifierKey
    from attestation.net.serve import serve as serve_app
    from attestation.net.server_connection import Limits
    from contracts.logservice import witness_server
    from contracts.logservice.store import load_or_create_key
    from contracts.logservice.witness import Witness

    check_name("--name", name)
    anchored = (contract, chain, log_url)
    if any(anchored) and not all(anchored):
        raise UsageError("a TON witness needs --contract, --chain and --log")
    keys = [VerifierKey.from_text(text) for text in logs]
    signing_key = load_or_create_key(key, origin=name)
    served = Witness(
        state,
        name=name,
        key=signing_key,
        logs={key.name: key for key in keys},
        confirm=_confirm(contract or "", chain or "", log_url or ""),
    )
    own = VerifierKey(name, signing_key.public_key().public_bytes_raw(), COSIGNATURE)
    app = witness_server.create_app(served, own)
    serve_app(
        [(app, listen)],
        ready=lambda urls: ready(listening=urls[0], vkey=own.to_text()),
        limits=Limits(idle_s=keep_alive),
    )


def _confirm(contract: str, chain: str, log_url: str) -> Callable[[Checkpoint], None]:
    from contracts.logservice.witnessing import only_anchored
    from contracts.reader import read_anchor

    if not contract:
        return lambda head: None
    endpoint, address = reading(chain), raw_address(contract, "--contract")
    return only_anchored(
        lambda: read_anchor(endpoint, network="", address=address), log_url.rstrip("/")
    )


@log.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--log", "log_url", required=True, metavar="URL", help="The log's address.")
@click.option("--log-key", required=True, help="The log's Ed25519 key, 64 hex digits.")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(1), help="Older too; repeat.")
def export(directory: Path, log_url: str, log_key: str, sizes: tuple[int, ...]) -> None:
    """Write a log to DIRECTORY as static files, for any CDN; again, to bring it up to date.

    Name the anchored size with --size: an audit of the export needs its checkpoint. Everything is
    hashed before it is kept, and what lies there and does not fit is fetched again ("mended").
    Exit code 0: all of it; 1: the log signed two trees that contradict each other; 3: the log's
    bytes are not authentic; 5: the log did not answer, or the disk is full.
    """
    from attestation.formats.origin import origin_of
    from attestation.vendors.fetch import HttpFetcher
    from contracts.logservice.export import Export
    from contracts.logservice.files import MAX_FILE

    url, fetcher, new = log_url.rstrip("/"), HttpFetcher(), [0]

    def tell(path: str, fresh: bool) -> None:
        new[0] += fresh
        if fresh and new[0] % 1000 == 0:
            click.echo(f"{new[0]} files, now {path}", err=True)

    def get(path: str) -> bytes:
        return fetcher.get(f"{url}/{path}", limit=MAX_FILE).body

    origin = origin_of(url)
    written = Export(directory, get, tell)
    size = written.run(origin=origin, log_key=public_key(log_key), sizes=sizes)
    ready(directory=str(directory), size=size, new_files=new[0], mended=written.files.mended)


def public_key(text: str) -> bytes:
    from attestation.errors import UsageError

    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise UsageError("--log-key: expected 64 lower-case hex digits")
    return bytes.fromhex(text)


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)
