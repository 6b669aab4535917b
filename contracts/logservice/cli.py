"""`umay log`: run a transparency log, anchor it, witness it, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contracts import arguments
from contracts.chain import raw_address
from contracts.endpoint import reading, toncenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.log.checkpoint import Checkpoint

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def ready(**fields: object) -> None:
    """Prints one JSON line on standard output: the service can be used now."""
    click.echo(json.dumps(fields))


_keep_alive = click.option(
    "--keep-alive",
    type=click.FloatRange(1),
    default=75,
    show_default=True,
    help=arguments.KEEP_ALIVE,
)


@click.group()
def log() -> None:
    """Run a transparency log, anchor it on the chain, and witness it."""


@log.command()
@click.option("--dir", "directory", type=DIRECTORY, help="Directory that holds the log in SQLite.")
@click.option(
    "--database",
    metavar="CONNINFO|env:NAME",
    help="PostgreSQL connection string, or env:NAME for an environment variable that holds it. "
    "Use it instead of --dir when several servers write one log.",
)
@click.option(
    "--listen", required=True, metavar="HOST:PORT", help="Address and TCP port to serve on."
)
@click.option("--origin", required=True, help="Name of the log: its address without https://.")
@click.option("--key", type=FILE, required=True, help=arguments.SIGNING_KEY)
@click.option(
    "--policy",
    type=FILE,
    required=True,
    help="Policy file (TOML) that says which evidence is admitted; read again at each submission.",
)
@click.option("--chain", required=True, metavar="URL", help=arguments.READ_CHAIN)
@click.option(
    "--release", type=FILE, help="Release manifest that becomes the first leaf of a new log."
)
@click.option(
    "--registry",
    help="Address of the Registry contract. Only what it allows at that moment is logged.",
)
@click.option(
    "--witness",
    "witnesses",
    nargs=2,
    multiple=True,
    metavar="URL VKEY",
    help="Address and key of a witness that is asked to cosign each new checkpoint "
    "(may be repeated).",
)
@click.option(
    "--enough",
    type=click.IntRange(1),
    metavar="N",
    help="Number of cosignatures after which a checkpoint is shown as cosigned, and anchored by "
    "`umay log anchor --cosigned`. Default: one of each witness.",
)
@click.option(
    "--network-file",
    type=FILE,
    help="Network file from which on the log accepts the versions that follow. Default: none.",
)
@click.option(
    "--keep-renewals",
    type=click.IntRange(2),
    metavar="DAYS",
    help="Delete the evidence of renewals after this many days (at least 2). "
    "Without this option it is kept forever.",
)
@_keep_alive
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
    enough: int | None,
    network_file: Path | None,
    keep_renewals: int | None,
    keep_alive: float,
) -> None:
    """Serve a transparency log over HTTP.

    The server publishes checkpoints, tiles, proofs and evidence, and accepts submissions. It
    needs either --dir or --database. When it is ready it prints one JSON line with the field
    "listening", the address of the log, and it runs until it is stopped (SIGTERM or Ctrl-C).

    Leaves, the evidence of boots and collateral are kept forever, whatever --keep-renewals says.
    With --registry, a machine is admitted only while the Registry allows its release and its
    model, and a release manifest is accepted only if the Registry lists it.

    Exit codes: 0 the server was stopped; 1 the stored tree is not the tree that this key signed
    last; 2 an option or a key file cannot be used; 5 the disk, the database or the chain cannot
    be used, or another process has the log open.
    """
    from attestation.formats.network_file import NetworkFile
    from attestation.net.serve import serve as serve_app
    from attestation.net.server_connection import Limits
    from contracts.logservice import opening, server
    from contracts.logservice.admission import no_release
    from contracts.logservice.admit import PolicyAdmission, RegistryReader
    from contracts.logservice.documents import release_entry
    from contracts.logservice.networks import NetworkFiles
    from contracts.logservice.store import Store, load_or_create_key

    arguments.check_name("--origin", origin)
    signing_key = load_or_create_key(key, origin=origin)
    first = NetworkFile.from_bytes(arguments.content(network_file)) if network_file else None
    with Store(opening.database(directory, database), origin=origin, key=signing_key) as store:
        if release is not None and store.size == 0:
            store.append([release_entry(release.read_bytes())])
        endpoint = reading(chain)
        allowed = (
            RegistryReader(endpoint, raw_address(registry, "--registry")) if registry else None
        )
        admission = PolicyAdmission(policy, endpoint, allowed)
        _, _, path = origin.partition("/")
        app = server.create_app(
            store,
            admit=admission,
            admit_release=allowed.check_release if allowed else no_release,
            witnesses=opening.witnessing(store, witnesses, enough),
            networks=NetworkFiles(store, first),
            origin_path=f"/{path}",
            keep_renewals=keep_renewals,
        )
        serve_app(
            [(app, listen)],
            ready=lambda urls: ready(listening=f"{urls[0]}/{path}"),
            limits=Limits(idle_s=keep_alive),
        )


@log.command()
@click.argument("manifest", type=FILE)
@click.option("--log", "log_url", required=True, metavar="URL", help=arguments.LOG_URL)
def release(manifest: Path, log_url: str) -> None:
    """Submit a release manifest to a log.

    MANIFEST is the file to submit. The log must have been started with a Registry, and that
    Registry must list the manifest. The command prints one JSON line: "index" is the index of
    the leaf, "size" the size of the tree that contains it. A manifest that was logged before
    keeps its leaf.

    Exit codes: 0 the manifest is in the log; 2 the file cannot be read; 3 the answer of the log
    is malformed; 4 the log refused the manifest, and the reason is shown; 5 the log did not
    answer.
    """
    from contracts.log_client import submit

    logged = submit(f"{arguments.log_address(log_url)}/release", arguments.content(manifest))
    ready(index=logged.index, size=logged.size)


@log.command()
@click.option("--log", "log_url", required=True, metavar="URL", help=arguments.LOG_URL)
@click.option("--chain", required=True, metavar="URL", help=arguments.SEND_CHAIN)
@click.option(
    "--contract", required=True, help="Address of the AttestationLog contract of this log."
)
@click.option("--wallet", type=FILE, required=True, help=arguments.WALLET)
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    help="Minimum number of seconds between two anchors.",
)
@click.option(
    "--cosigned",
    is_flag=True,
    help="Anchor only checkpoints that enough witnesses of the log have cosigned.",
)
def anchor(
    log_url: str, chain: str, contract: str, wallet: Path, interval: float, cosigned: bool
) -> None:
    """Anchor each new checkpoint of a log until stopped.

    The command needs a wallet with coins. It reads the newest checkpoint of the log, checks that
    it continues the tree in the contract, and sends it to the contract. It prints one JSON line
    with the field "anchoring", the contract's address, and then runs until it is stopped (SIGTERM
    or Ctrl-C). After an error it writes a warning and tries again, at first after 2 seconds, later
    after up to 300 seconds.

    With --cosigned it anchors what the log shows as cosigned. Use it if clients demand witnesses:
    what is anchored before it is cosigned cannot be used until the next anchor.

    Exit codes: 0 the command was stopped; 1 the log contradicts itself or the anchored tree, or
    the contract says that the log has forked; 2 an option or the key file cannot be used; 3 the
    key file has other content.
    """
    from attestation.process import end_on_signals
    from contracts.logservice.anchor import AnchorLoop
    from contracts.wallet import Wallet

    log_url = arguments.log_address(log_url)
    endpoint = toncenter(chain)
    contract = raw_address(contract, "--contract")
    purse = Wallet.open(endpoint, wallet)
    loop = AnchorLoop(log_url, endpoint, purse, contract, interval, cosigned=cosigned)
    end_on_signals()
    ready(anchoring=contract)
    loop.run()


@log.command()
@click.option(
    "--state",
    type=FILE,
    required=True,
    help="SQLite file in which the witness keeps what it cosigned.",
)
@click.option(
    "--listen", required=True, metavar="HOST:PORT", help="Address and TCP port to serve on."
)
@click.option("--name", required=True, help="Name of the witness: its address without https://.")
@click.option("--key", type=FILE, required=True, help=arguments.SIGNING_KEY)
@click.option(
    "--follow",
    "logs",
    required=True,
    multiple=True,
    metavar="VKEY",
    help="Verifier key (vkey) of a log whose checkpoints are cosigned (may be repeated).",
)
@click.option(
    "--contract",
    help="Address of an AttestationLog contract. The witness then cosigns only what the contract "
    "has anchored, which makes it a TON witness. Needs --chain and --log.",
)
@click.option("--chain", metavar="URL", help=f"Only with --contract. {arguments.READ_CHAIN}")
@click.option("--log", "log_url", metavar="URL", help=f"Only with --contract. {arguments.LOG_URL}")
@_keep_alive
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
    """Serve a witness that cosigns checkpoints of logs.

    The witness speaks c2sp.org/tlog-witness. It cosigns a checkpoint only if that checkpoint
    continues the one that it cosigned before. When it is ready it prints one JSON line: "listening"
    is its address, "vkey" its verifier key. It runs until it is stopped (SIGTERM or Ctrl-C). Use a
    different key for each witness.

    Exit codes: 0 the witness was stopped; 2 an option, the key file or the state file cannot be
    used; 3 a verifier key is malformed; 5 the disk cannot be used.
    """
    from attestation.errors import UsageError
    from attestation.log.note import COSIGNATURE, VerifierKey
    from attestation.net.serve import serve as serve_app
    from attestation.net.server_connection import Limits
    from contracts.logservice import witness_server
    from contracts.logservice.store import load_or_create_key
    from contracts.logservice.witness import Witness
    from contracts.logservice.witnessing import parse_followed

    arguments.check_name("--name", name)
    anchored = (contract, chain, log_url)
    if any(anchored) and not all(anchored):
        missing = [
            name for name, value in zip(arguments.TON_WITNESS, anchored, strict=True) if not value
        ]
        raise UsageError(
            f"a TON witness needs {', '.join(arguments.TON_WITNESS)} together; missing: "
            f"{', '.join(missing)}"
        )
    keys = [parse_followed(text) for text in logs]
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
    url = arguments.log_address(log_url)
    return only_anchored(lambda: read_anchor(endpoint, network="", address=address), url)


@log.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--log", "log_url", required=True, metavar="URL", help=arguments.LOG_URL)
@click.option("--log-key", required=True, metavar="HEX", help=arguments.LOG_KEY)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1),
    help="Also export the checkpoint of this older tree size, in entries (may be repeated).",
)
def export(directory: Path, log_url: str, log_key: str, sizes: tuple[int, ...]) -> None:
    """Write a log to a directory as static files.

    Any web server or CDN can publish DIRECTORY. Run the command again to bring it up to date. Name
    the anchored size with --size: an audit of the export needs the checkpoint of that size. Every
    file is checked before it is kept; an existing file that is wrong is fetched again and counted
    as "mended". Evidence of renewals that the log has deleted (--keep-renewals) is left out and
    counted as "renewals_gone"; audit such an export with --renewals-kept. Progress is written to
    standard error. At the end the command prints one JSON line with the fields "directory",
    "size" (entries), "new_files", "mended" and "renewals_gone".

    Exit codes: 0 all that the log still has was exported; 1 the log signed two trees that
    contradict each other; 2 an option or a file cannot be used; 3 the bytes of the log are not
    authentic; 5 the log did not answer, or the disk is full.
    """
    from attestation.formats.origin import origin_of
    from attestation.vendors.fetch import HttpFetcher
    from contracts.logservice.export import Export
    from contracts.logservice.files import MAX_FILE

    url, fetcher, new = arguments.log_address(log_url), HttpFetcher(), [0]

    def tell(path: str, fresh: bool) -> None:
        new[0] += fresh
        if fresh and new[0] % 1000 == 0:
            click.echo(f"{new[0]} files written, the newest is {path}", err=True)

    def get(path: str) -> bytes:
        return fetcher.get(f"{url}/{path}", limit=MAX_FILE).body

    origin = origin_of(url)
    written = Export(directory, get, tell)
    size = written.run(origin=origin, log_key=arguments.public_key(log_key), sizes=sizes)
    counts = {"mended": written.files.mended, "renewals_gone": written.renewals_gone}
    ready(directory=str(directory), size=size, new_files=new[0], **counts)
