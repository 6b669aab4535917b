"""Computes what a year costs with 100,000 machines that renew every hour. The output begins with
the assumptions.

This benchmark measures the fees of one anchor on a chain with the configuration of mainnet (as the
embedded chain has it), and the bytes of a proof at that size. It assumes everything in ASSUMED.
Fees are in nano of the chain's coin. They change with the configuration.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from attestation.log.checkpoint import Checkpoint
from attestation.log.checkpoint import sign as sign_checkpoint
from attestation.log.merkle import consistency_proof, node_hash, tree_root
from attestation.log.proof import Proof
from contracts.codec import AnchorMessage, LogState, note_body
from contracts.deploy import deploy
from contracts.localnet.process import LocalChain
from contracts.wallet import Wallet

ASSUMED = {
    "machines": 100_000,
    "renewals_per_machine_and_day": 24,
    "anchors_per_hour": 6,
    "evidence_bytes": 12_000,  # one TDX quote and one GPU report, each certificate once
    "collateral_bytes": 250_000,  # for a client's first verification; then it is kept for a day
    "leaf_bytes": 250,
}
HOURS_A_YEAR = 24 * 365
ORIGIN = "cost.example/log"
VALUE = 10**9


def run() -> Iterator[dict[str, Any]]:
    leaves = ASSUMED["machines"] * ASSUMED["renewals_per_machine_and_day"] * 365
    anchors = ASSUMED["anchors_per_hour"] * HOURS_A_YEAR
    grown = ASSUMED["machines"] * ASSUMED["renewals_per_machine_and_day"] // 24
    step = grown // ASSUMED["anchors_per_hour"]
    fees = _anchor_fees(leaves, step)
    tiles = leaves * 32 * 257 // 256
    figures = {
        "cost-leaves-a-year": (leaves, "leaves"),
        "cost-log-bytes-a-year": (leaves * (ASSUMED["leaf_bytes"] + 2) + tiles, "bytes"),
        "cost-evidence-bytes-a-year": (leaves * ASSUMED["evidence_bytes"], "bytes"),
        "cost-anchors-a-year": (anchors, "anchors"),
        "cost-fees-of-an-anchor": (fees, "nano"),
        "cost-fees-a-year": (fees * anchors, "nano"),
        "cost-fees-a-machine-and-year": (fees * anchors // ASSUMED["machines"], "nano"),
        "cost-proof-bytes": (_proof_bytes(leaves), "bytes"),
        "cost-client-bytes-a-verification": (_client_bytes(leaves, first=False), "bytes"),
        "cost-client-bytes-the-first": (_client_bytes(leaves, first=True), "bytes"),
    }
    for name, value in ASSUMED.items():
        yield {"bench": f"cost-assumed-{name}", "value": value, "unit": "assumption", "n": 0}
    for name, (value, unit) in figures.items():
        yield {"bench": name, "value": value, "unit": unit, "n": 1}


def _client_bytes(leaves: int, *, first: bool) -> int:
    once = ASSUMED["collateral_bytes"] if first else 0
    return ASSUMED["evidence_bytes"] + _proof_bytes(leaves) + once


def _proof_bytes(size: int) -> int:
    path = tuple(bytes(32) for _ in range((size - 1).bit_length()))
    head = Checkpoint(ORIGIN, size, bytes(32))
    note = sign_checkpoint(head, key=Ed25519PrivateKey.generate())
    return len(Proof(size - 1, path, note, bytes(ASSUMED["leaf_bytes"])).to_bytes())


def _anchor_fees(size: int, step: int) -> int:
    """What the sender pays for one anchor at this size, in nano, with the fees of the wallet."""
    key, rng = SigningKey.generate(), random.Random(1)
    nodes: dict[tuple[int, int], bytes] = {}

    def get(level: int, index: int) -> bytes:
        if (level, index) not in nodes:
            start, end = index << level, (index + 1) << level
            inside = level and (start < size < end or start < size + step < end)
            below = [get(level - 1, 2 * index + n) for n in (0, 1)] if inside else []
            nodes[level, index] = node_hash(*below) if below else rng.randbytes(32)
        return nodes[level, index]

    proof = tuple(consistency_proof(size, size + step, get))
    old, new = tree_root(size, get), tree_root(size + step, get)
    signature = key.sign(note_body(ORIGIN, size + step, new)).signature
    message = AnchorMessage(size + step, new, signature, proof).to_cell()
    with tempfile.TemporaryDirectory() as directory, LocalChain.start(Path(directory)) as local:
        wallet = Wallet(local.client(), SigningKey.generate())
        local.faucet(wallet.address, 10**12)
        log_key = bytes(key.verify_key)
        genesis = LogState.genesis(origin=ORIGIN, log_key=log_key, size=size, root=old)
        address = deploy(local.client(), wallet, genesis).address
        before = wallet.balance()
        wallet.transfer(address, VALUE, message)
        return before - wallet.balance()
