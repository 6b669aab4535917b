"""Measures the log while it grows: durable appends, proofs, bytes and a full audit at each size.

The sizes are 10^5 and 10^6 entries. With UMAY_BENCH_LARGE=1 also 10^7, which needs about 3 GB and
some minutes.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.log.merkle import leaf_hash
from attestation.log.tiles import TilePath, decode_bundle, fold
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store

SIZES = (100_000, 1_000_000, 10_000_000)
BATCH = 1000
ASKED = 1000
LEAF_BYTES = 250
ORIGIN = "localhost/log"


def run() -> Iterator[dict[str, Any]]:
    largest = SIZES if os.environ.get("UMAY_BENCH_LARGE") else SIZES[:2]
    key = Ed25519PrivateKey.generate()
    with (
        tempfile.TemporaryDirectory() as directory,
        Store(Sqlite(Path(directory)), origin=ORIGIN, key=key) as store,
    ):
        for size in largest:
            yield from _at(store, size, Path(directory))


def _at(store: Store, size: int, directory: Path) -> Iterator[dict[str, Any]]:
    named = f"{size:.0e}".replace("e+0", "e")
    added = size - store.size
    seconds = _grow(store, size)
    yield _figure(f"log-append-to-{named}", added / seconds, "entries/s", added)
    indexes = [random.Random(size).randrange(size) for _ in range(ASKED)]
    times = sorted(_seconds(lambda at=at: store.inclusion(at, size)) * 1e3 for at in indexes)
    yield _figure(f"log-inclusion-p50-{named}", median(times), "ms", ASKED)
    yield _figure(f"log-inclusion-p99-{named}", times[int(ASKED * 0.99)], "ms", ASKED)
    occupied = sum(path.stat().st_size for path in directory.iterdir())
    yield _figure(f"log-bytes-per-million-{named}", occupied * 1e6 / size, "bytes", 1)
    yield _figure(
        f"log-audit-{named}", size / _seconds(lambda: _audit(store, size)), "entries/s", 1
    )


def _grow(store: Store, size: int) -> float:
    """The seconds for the commits alone. After each, the batch, its tiles and checkpoint are on
    disk."""
    seeded, seconds = random.Random(store.size), 0.0
    while store.size < size:
        leaves = [seeded.randbytes(LEAF_BYTES) for _ in range(min(BATCH, size - store.size))]
        entries = [Entry(leaf[:32], leaf) for leaf in leaves]
        seconds += _seconds(lambda batch=entries: store.append(batch))
    return seconds


def _audit(store: Store, size: int) -> None:
    """Hashes every entry again up to the root, as an auditor does who uses no tile."""
    row: list[bytes] = []
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        data = store.tile(TilePath(None, number, width))
        row += [leaf_hash(leaf) for leaf in decode_bundle(data or b"")]
    while len(row) > 1:
        row = fold(row) + ([row[-1]] if len(row) % 2 else [])
    if row[0] != store.root(size):
        raise ValueError("the audit found another root")


def _figure(bench: str, value: float, unit: str, n: int) -> dict[str, Any]:
    return {"bench": bench, "value": round(value, 4), "unit": unit, "n": n}


def _seconds(work: Any) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
