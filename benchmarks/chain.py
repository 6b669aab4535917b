"""Measures the embedded chain: messages and reads per second, and the gas of an anchor."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey
from pytoniq_core import Cell, Transaction

from attestation.log.merkle import Tree
from contracts.chain import ToncenterV2
from contracts.codec import AnchorMessage, LogState, note_body
from contracts.deploy import deploy
from contracts.localnet.process import LocalChain
from contracts.reader import read_anchor
from contracts.wallet import Wallet, internal_message

MESSAGES = 100
ROUNDS = 5
SENDERS = 8
SOMEBODY = "0:" + "11" * 32
ORIGIN = "bench.example/log"


def run() -> Iterator[dict[str, Any]]:
    """Rates over HTTP on loopback. Each message is on disk before it is answered."""
    with tempfile.TemporaryDirectory() as directory, LocalChain.start(Path(directory)) as local:
        chain, key = local.client(), SigningKey.generate()
        wallet = Wallet(chain, key)
        local.faucet(wallet.address, 10**15)
        wallet.transfer(SOMEBODY, 1, bounce=False)
        yield figure("chain.transfers", "messages/s", lambda: transfers(wallet, chain.send_boc))
        wallets = [_rich(local, chain) for _ in range(SENDERS)]
        yield figure(
            "chain.transfers_concurrent",
            "messages/s",
            lambda: concurrent(wallets, chain.url),
        )
        address, gas = anchored(chain, wallet, key)
        yield figure(
            "chain.read_anchor",
            "reads/s",
            lambda: repeat(lambda: read_anchor(chain, network="local", address=address)),
        )
        yield figure("chain.head", "reads/s", lambda: repeat(chain.head))
        yield {"bench": "chain.anchor_gas", "value": gas, "unit": "gas", "n": 1}


def figure(name: str, unit: str, measure: Callable[[], float]) -> dict[str, Any]:
    value = statistics.median(measure() for _ in range(ROUNDS))
    return {"bench": name, "value": round(value, 1), "unit": unit, "n": ROUNDS}


def transfers(wallet: Wallet, send: Callable[[bytes], bytes]) -> float:
    """Wallet transfers per second. Each of them makes two transactions."""
    first = wallet.seqno()
    message = internal_message(SOMEBODY, 1000, bounce=False)
    bocs = [wallet.signed(first + n, message).to_boc() for n in range(MESSAGES)]
    return rate(lambda: [send(boc) for boc in bocs])


def concurrent(wallets: list[Wallet], url: str) -> float:
    """Wallet transfers per second from several wallets at once. A block takes all that are
    waiting."""
    start = time.perf_counter()
    with ThreadPoolExecutor(len(wallets)) as pool:
        list(pool.map(lambda wallet: transfers(wallet, ToncenterV2(url).send_boc), wallets))
    return len(wallets) * MESSAGES / (time.perf_counter() - start)


def _rich(local: LocalChain, chain: ToncenterV2) -> Wallet:
    wallet = Wallet(chain, SigningKey.generate())
    local.faucet(wallet.address, 10**15)
    wallet.transfer(SOMEBODY, 1, bounce=False)
    return wallet


def repeat(read: Callable[[], object]) -> float:
    return rate(lambda: [read() for _ in range(MESSAGES)])


def rate(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return MESSAGES / (time.perf_counter() - start)


def anchored(chain: Any, wallet: Wallet, key: SigningKey) -> tuple[str, int]:
    """A contract whose anchor went from 1,000 to 1,777 leaves, and the gas that this used."""
    tree = Tree()
    for index in range(1777):
        tree.append(index.to_bytes(4, "big"))
    genesis = LogState.genesis(
        origin=ORIGIN, log_key=bytes(key.verify_key), size=1000, root=tree.root(1000)
    )
    address = deploy(chain, wallet, genesis).address
    signature = key.sign(note_body(ORIGIN, 1777, tree.root())).signature
    message = AnchorMessage(1777, tree.root(), signature, tuple(tree.consistency(1000, 1777)))
    wallet.transfer(address, 10**8, message.to_cell())
    (boc,) = chain.transactions(address, limit=1)
    transaction = Transaction.deserialize(Cell.one_from_boc(boc).begin_parse())
    return address, transaction.description.compute_ph.gas_used
