"""`umay net`: the embedded chain, wallets, and the contracts of a network."""

from __future__ import annotations

from pathlib import Path

import click

from contracts.arguments import LOG_KEY, LOG_URL, SEND_CHAIN, WALLET, public_key
from contracts.chain import raw_address
from contracts.coin import NANO, shown
from contracts.endpoint import toncenter
from contracts.logservice.cli import DIRECTORY, FILE, ready


@click.group()
def net() -> None:
    """Run a local chain, show wallets, and deploy the contracts."""


@net.command()
@click.option(
    "--dir",
    "directory",
    type=DIRECTORY,
    required=True,
    help="Directory that holds the state of the chain.",
)
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Loopback address and TCP port to serve on; port 0 means any free port.",
)
def chain(directory: Path, listen: str) -> None:
    """Run the embedded chain on this machine.

    It executes contracts with the real TVM, has no validators, and listens on loopback only. It
    needs Node 20 or newer and the packages of contracts/localnet. When it is ready it prints one
    JSON line with the field "listening", its URL, and it runs until it is stopped (SIGTERM or
    Ctrl-C).

    Exit codes: 0 the chain was stopped; 2 an option or the directory cannot be used; 5 Node or a
    package is missing, or the port or the disk cannot be used.
    """
    from attestation.files import own_directory
    from contracts.localnet.server import become

    become(["--dir", str(own_directory(directory)), "--listen", listen])


@net.command()
@click.option("--chain", required=True, metavar="URL", help=SEND_CHAIN)
@click.option("--wallet", type=FILE, required=True, help=WALLET)
def wallet(chain: str, wallet: Path) -> None:
    """Show the address and the balance of a wallet.

    The command prints one JSON line: "address", "nano" (the balance in nano, 1e-9 coins) and
    "balance" (the same for people). The coin is called TON unless the environment variable
    UMAY_COIN gives another name.

    Exit codes: 0 shown; 2 an option or the key file cannot be used; 3 the key file has other
    content; 5 the chain did not answer.
    """
    from contracts.wallet import Wallet

    opened = Wallet.open(toncenter(chain), wallet)
    nano = opened.balance()
    ready(address=opened.address, nano=nano, balance=shown(nano))


@net.command()
@click.option("--chain", required=True, metavar="URL", help="URL of the embedded chain.")
@click.option("--to", required=True, help="Address of the account that receives the coins.")
@click.option(
    "--coins",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of whole coins to give.",
)
def faucet(chain: str, to: str, coins: int) -> None:
    """Create coins for an account of the embedded chain.

    It works on the embedded chain only. The command prints one JSON line: "to" is the address,
    "nano" the amount in nano (1e-9 coins), "given" the same amount for people.

    Exit codes: 0 the account has the coins; 2 the address is malformed; 5 the chain did not answer
    or is not the embedded chain.
    """
    from attestation.net.url import base_url
    from contracts.localnet.process import faucet as give

    give(base_url(chain, name="--chain"), to, coins * NANO)
    ready(to=to, nano=coins * NANO, given=shown(coins * NANO))


@net.command()
@click.option("--chain", required=True, metavar="URL", help=SEND_CHAIN)
@click.option("--wallet", type=FILE, required=True, help=WALLET)
@click.option("--log", "log_url", required=True, metavar="URL", help=LOG_URL)
@click.option("--log-key", required=True, metavar="HEX", help=LOG_KEY)
def deploy(chain: str, wallet: Path, log_url: str, log_key: str) -> None:
    """Deploy the AttestationLog contract of a log.

    The contract starts from the newest checkpoint of the log, so the log needs at least one leaf.
    Nothing is sent if the contract is deployed already. The command prints one JSON line:
    "address", "code_hash" (64 hex digits) and "size", the tree size of that checkpoint in entries.

    Exit codes: 0 the contract is deployed; 2 an option cannot be used, or the wallet has too few
    coins; 3 the checkpoint does not have a valid signature of the log key, or a file has other
    content; 5 the log or the chain did not answer, or the contract did not become active within
    60 seconds.
    """
    from attestation.log import checkpoint as checkpoints
    from attestation.net.url import base_url
    from contracts.codec import LogState
    from contracts.deploy import deploy as put
    from contracts.log_client import fetch_checkpoint
    from contracts.wallet import Wallet

    key = public_key(log_key)
    note = fetch_checkpoint(base_url(log_url, name="--log"))
    parsed, _ = checkpoints.parse(note)
    head = checkpoints.verify(note, origin=parsed.origin, log_key=key)
    genesis = LogState.genesis(origin=head.origin, log_key=key, size=head.size, root=head.root)
    endpoint = toncenter(chain)
    deployed = put(endpoint, Wallet.open(endpoint, wallet), genesis)
    ready(address=deployed.address, code_hash=deployed.code_hash.hex(), size=head.size)


@net.command("deploy-registry")
@click.option("--chain", required=True, metavar="URL", help=SEND_CHAIN)
@click.option("--wallet", type=FILE, required=True, help=WALLET)
@click.option(
    "--owner", help="Address of the account that owns the Registry; the paying wallet by default."
)
@click.option(
    "--notice",
    type=click.IntRange(0),
    default=604800,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between the proposal of a release and the moment it counts.",
)
def deploy_registry(chain: str, wallet: Path, owner: str | None, notice: int) -> None:
    """Deploy a Registry contract.

    A Registry lists the releases and models that the network allows. A new entry counts only after
    the notice period. Nothing is sent if the contract is deployed already. The command prints one
    JSON line: "address", "code_hash" (64 hex digits) and "owner".

    Exit codes: 0 the contract is deployed; 2 an option cannot be used, or the wallet has too few
    coins; 3 the key file or the committed build has other content; 5 the chain did not answer, or
    the contract did not become active within 60 seconds.
    """
    from contracts.deploy import put
    from contracts.registry import genesis
    from contracts.wallet import Wallet

    endpoint = toncenter(chain)
    opened = Wallet.open(endpoint, wallet)
    owned_by = raw_address(owner or opened.address, "--owner")
    address, code_hash = put(endpoint, opened, "registry", genesis(owner=owned_by, notice=notice))
    ready(address=address, code_hash=code_hash.hex(), owner=owned_by)


@net.command("deploy-verifier")
@click.option("--chain", required=True, metavar="URL", help=SEND_CHAIN)
@click.option("--wallet", type=FILE, required=True, help=WALLET)
@click.option(
    "--registry", required=True, help="Address of the Registry that sets the minimum TCB levels."
)
@click.option(
    "--root", type=FILE, required=True, help="File with Intel's SGX root certificate (DER)."
)
def deploy_verifier(chain: str, wallet: Path, registry: str, root: Path) -> None:
    """Deploy a QuoteVerifier contract.

    The contract verifies TDX quotes on the chain. The key of the given root certificate must be the
    Intel key that is pinned in this software. Nothing is sent if the contract is deployed already.
    The command prints one JSON line: "address" and "code_hash" (64 hex digits).

    Exit codes: 0 the contract is deployed; 2 an option cannot be used, or the wallet has too few
    coins; 3 the certificate does not have Intel's key, or a file has other content; 5 the chain did
    not answer, or the contract did not become active within 60 seconds.
    """
    from attestation.trust.roots import PRODUCTION
    from contracts.deploy import put
    from contracts.quote_verifier import genesis, pinned_root_key
    from contracts.wallet import Wallet

    key = pinned_root_key(root.read_bytes(), PRODUCTION)
    data = genesis(root_key=key, registry=raw_address(registry, "--registry"))
    endpoint = toncenter(chain)
    address, code_hash = put(endpoint, Wallet.open(endpoint, wallet), "quote_verifier", data)
    ready(address=address, code_hash=code_hash.hex())
