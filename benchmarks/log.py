"""Compares the log with the SQLite tree of pymerkle: appends, proofs and their checks at 100,000
entries."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pymerkle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.log.merkle import Tree, verify_consistency, verify_inclusion
from attestation.log.proof import verify_proof
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store

ENTRIES = 100_000
BATCH = 1000
RUNS = 3
ASKED = 1000
LEAF_BYTES = 250
ORIGIN = "localhost/log"


def run() -> Iterator[dict[str, Any]]:
    key = Ed25519PrivateKey.generate()
    seeded = random.Random(1)
    leaves = [seeded.randbytes(LEAF_BYTES) for _ in range(ENTRIES)]
    rates, whole, peers = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(RUNS):
            store = Store(Sqlite(Path(directory, str(number))), origin=ORIGIN, key=key)
            rates.append(ENTRIES / _seconds(lambda log=store: _append(log, leaves, BATCH)))
            with Store(Sqlite(Path(directory, f"whole{number}")), origin=ORIGIN, key=key) as once:
                whole.append(ENTRIES / _seconds(lambda log=once: _append(log, leaves, ENTRIES)))
            peer = pymerkle.SqliteTree(os.path.join(directory, f"{number}.db"))
            peers.append(ENTRIES / _seconds(lambda tree=peer: tree.append_entries(leaves)))
        yield {"bench": "log-append", "value": round(median(rates)), "unit": "entries/s", "n": RUNS}
        yield _beside("log-append-one-batch", median(whole), "entries/s", median(peers), RUNS)
        yield from _proofs(store, peer, leaves, key.public_key().public_bytes_raw())
        yield from _single(store, peer)


def _append(store: Store, leaves: list[bytes], size: int) -> None:
    for start in range(0, ENTRIES, size):
        batch = leaves[start : start + size]
        store.append([Entry(leaf[:32], leaf) for leaf in batch])


def _proofs(
    store: Store, peer: pymerkle.SqliteTree, leaves: list[bytes], log_key: bytes
) -> Iterator[dict[str, Any]]:
    indexes = [random.Random(2).randrange(ENTRIES) for _ in range(ASKED)]
    ours = [_seconds(lambda at=at: store.inclusion(at, ENTRIES)) for at in indexes]
    theirs = [_seconds(lambda at=at: peer.prove_inclusion(at + 1, ENTRIES)) for at in indexes]
    yield _beside("log-inclusion-median", _ms(median(ours)), "ms", _ms(median(theirs)), ASKED)
    yield _beside("log-inclusion-p99", _ms(_p99(ours)), "ms", _ms(_p99(theirs)), ASKED)
    ours = [_seconds(lambda at=at: store.consistency(at + 1, ENTRIES)) for at in indexes]
    theirs = [_seconds(lambda at=at: peer.prove_consistency(at + 1, ENTRIES)) for at in indexes]
    yield _beside("log-consistency-median", _ms(median(ours)), "ms", _ms(median(theirs)), ASKED)
    proofs = [store.proof(at, ENTRIES) for at in indexes]
    whole = [_seconds(lambda p=p: verify_proof(p, origin=ORIGIN, log_key=log_key)) for p in proofs]
    yield {"bench": "log-verify-proof-text", "value": _ms(median(whole)), "unit": "ms", "n": ASKED}
    yield {"bench": "log-proof-size", "value": len(proofs[0]), "unit": "bytes", "n": 1}
    yield from _checks(store, peer, leaves, indexes)


def _checks(
    store: Store, peer: pymerkle.SqliteTree, leaves: list[bytes], indexes: list[int]
) -> Iterator[dict[str, Any]]:
    tree, root = Tree(), store.root(ENTRIES)
    hashes = [peer.get_leaf(at + 1) for at in indexes]
    for leaf in leaves:
        tree.append(leaf)
    ours, theirs = [], []
    for at, leaf in zip(indexes, hashes, strict=True):
        proof, other = tree.inclusion(at, ENTRIES), peer.prove_inclusion(at + 1, ENTRIES)
        place = {"index": at, "size": ENTRIES, "root": root, "proof": proof}
        ours.append(_seconds(lambda leaf=leaf, place=place: verify_inclusion(leaf, **place)))
        theirs.append(_seconds(lambda leaf=leaf, p=other: pymerkle.verify_inclusion(leaf, root, p)))
    yield _beside("log-verify-inclusion", _ms(median(ours)), "ms", _ms(median(theirs)), ASKED)
    ours, theirs = [], []
    for at in indexes:
        old = tree.root(at + 1)
        proof, other = tree.consistency(at + 1, ENTRIES), peer.prove_consistency(at + 1, ENTRIES)
        ends = {"old_size": at + 1, "old_root": old, "new_size": ENTRIES, "new_root": root}
        ours.append(_seconds(lambda ends=ends, p=proof: verify_consistency(proof=p, **ends)))
        theirs.append(_seconds(lambda old=old, p=other: pymerkle.verify_consistency(old, root, p)))
    yield _beside("log-verify-consistency", _ms(median(ours)), "ms", _ms(median(theirs)), ASKED)


def _single(store: Store, peer: pymerkle.SqliteTree) -> Iterator[dict[str, Any]]:
    """The rate with one commit and one signed checkpoint for each entry."""
    ours = [
        _seconds(lambda n=n: store.append([Entry(b"single %d" % n, b"leaf %d" % n)]))
        for n in range(ASKED)
    ]
    theirs = [_seconds(lambda n=n: peer.append_entry(b"leaf %d" % n)) for n in range(ASKED)]
    rate, other = 1 / median(ours), 1 / median(theirs)
    yield _beside("log-append-single", rate, "entries/s", other, ASKED)


def _beside(bench: str, value: float, unit: str, peer: float, n: int) -> dict[str, Any]:
    return {
        "bench": bench,
        "value": round(value, 4),
        "unit": unit,
        "peer": "pymerkle SqliteTree",
        "peer_value": round(peer, 4),
        "ratio": round(value / peer, 3),
        "n": n,
    }


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
