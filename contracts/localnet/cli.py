"""`umay net`: a chain of one's own, wallets, and the contracts of a network."""

from __future__ import annotations

from pathlib import Path

import click

from contracts.chain import raw_address
from contracts.coin import NANO, shown
from contracts.endpoint import toncenter
from contracts.logservice.cli import DIRECTORY, FILE, public_key, ready


@click.group()
def net() -> None:
    """A chain on this machine, wallets, and the log's contract."""


@net.command()
@click.option("--dir", "directory", type=DIRECTORY, required=True, help="Where its state lives.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT")
def chain(directory: Path, listen: str) -> None:
    """Run the embedded chain: the real TVM, no validators, loopback only."""
    from attestation.files import own_directory
    from contracts.localnet.server import become

    become(["--dir", str(own_directory(directory)), "--listen", listen])


@net.command()
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file, made where absent.")
def wallet(chain: str, wallet: Path) -> None:
    """Show a wallet's address and balance.

    The coin is called TON, or what UMAY_COIN says.
    """
    from contracts.wallet import Wallet

    opened = Wallet.open(toncenter(chain), wallet)
    nano = opened.balance()
    ready(address=opened.address, nano=nano, balance=shown(nano))


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
    ready(to=to, nano=coins * NANO, given=shown(coins * NANO))


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
    from contracts.log_client import fetch_checkpoint
    from contracts.wallet import Wallet

    key = public_key(log_key)
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
    from contracts.deploy import put
    from contracts.registry import genesis
    from contracts.wallet import Wallet

    endpoint = toncenter(chain)
    opened = Wallet.open(endpoint, wallet)
    owned_by = raw_address(owner or opened.address, "--owner")
    address, code_hash = put(endpoint, opened, "registry", genesis(owner=owned_by, notice=notice))
    ready(address=address, code_hash=code_hash.hex(), owner=owned_by)


@net.command("deploy-verifier")
@click.option("--chain", required=True, metavar="URL", help="toncenter-v2 endpoint.")
@click.option("--wallet", type=FILE, required=True, help="Key file of the wallet that pays.")
@click.option("--registry", required=True, help="Address of the Registry that sets its floors.")
@click.option("--root", type=FILE, required=True, help="Intel's root certificate (DER).")
def deploy_verifier(chain: str, wallet: Path, registry: str, root: Path) -> None:
    """Deploy a QuoteVerifier under a root certificate whose key is Intel's pinned one."""
    from attestation.trust.roots import PRODUCTION
    from contracts.deploy import put
    from contracts.quote_verifier import genesis, pinned_root_key
    from contracts.wallet import Wallet

    key = pinned_root_key(root.read_bytes(), PRODUCTION)
    data = genesis(root_key=key, registry=raw_address(registry, "--registry"))
    endpoint = toncenter(chain)
    address, code_hash = put(endpoint, Wallet.open(endpoint, wallet), "quote_verifier", data)
    ready(address=address, code_hash=code_hash.hex())
