"""The store: what it serves is the RFC's tree, committed whole, and survives a crash."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import LogError, NotAuthentic, ParseError, Unavailable, UsageError
from attestation.log import checkpoint, merkle, tiles
from attestation.log.merkle import Tree
from attestation.log.proof import verify_proof
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store, load_or_create_key
from tests.helpers.log_retention import forgets_passing_blobs
from tests.helpers.places import ROOT

KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ORIGIN = "localhost/log"


def open_store(directory: Path, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> Store:
    return Store(Sqlite(directory), origin=origin, key=key)


def entries(start: int, end: int) -> list[Entry]:
    return [Entry(sha256(b"%d" % n).digest(), b"leaf %d" % n) for n in range(start, end)]


def tree_of(size: int) -> Tree:
    tree = Tree()
    for number in range(size):
        tree.append(b"leaf %d" % number)
    return tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as opened:
        yield opened


def test_an_empty_log_has_a_checkpoint(store: Store) -> None:
    found = checkpoint.verify(store.checkpoint, origin=ORIGIN, log_key=PUBLIC)
    assert (found.size, found.root) == (0, merkle.EMPTY_ROOT)
    assert store.append([]) == []
    assert store.checkpoint_at(0) == store.checkpoint
    assert store.tile(tiles.TilePath(0, 0, 1)) is None
    assert store.leaf(0) is None


def test_every_published_size_has_the_rfcs_root_and_proofs(tmp_path: Path) -> None:
    seeded, sizes = random.Random(3), [0]
    tree = tree_of(1500)
    with open_store(tmp_path) as store:
        while store.size < 1400:
            size = store.size + seeded.choice([1, 1, 2, 30, 97, 256, 300])
            assert store.append(entries(store.size, size)) == list(range(sizes[-1], size))
            sizes.append(size)
            found = checkpoint.verify(store.checkpoint, origin=ORIGIN, log_key=PUBLIC)
            assert (found.size, found.root) == (size, tree.root(size))
        for _ in range(300):
            new = seeded.choice(sizes[1:])
            old, index = seeded.choice([s for s in sizes if s <= new]), seeded.randrange(new)
            assert store.consistency(old, new) == tree.consistency(old, new)
            leaf, head = verify_proof(store.proof(index, new), origin=ORIGIN, log_key=PUBLIC)
            assert (leaf, head.size, head.root) == (b"leaf %d" % index, new, tree.root(new))
            any_size = seeded.randrange(1, store.size + 1)
            assert store.root(any_size) == tree.root(any_size)


def test_tiles_alone_rebuild_the_tree(tmp_path: Path) -> None:
    size = 66_000
    with open_store(tmp_path) as store:
        store.append(entries(0, 70))
        store.append(entries(70, size))
        held = {}
        for path in tiles.tiles_of(size):
            tile = store.tile(path)
            assert tile is not None and len(tile) == 32 * path.width
            held[path.level, path.index] = tile

        def get_hash(level: int, index: int) -> bytes:
            row, height = divmod(level, 8)
            number, offset = divmod(index << height, 256)
            return tiles.subtree(held[row, number], height, offset)

        root = merkle.tree_root(size, get_hash)
        assert root == checkpoint.verify(store.checkpoint, origin=ORIGIN, log_key=PUBLIC).root
        tree = Tree()
        for number in range(-(-size // 256)):
            width = min(256, size - 256 * number)
            for leaf in tiles.decode_bundle(store.tile(tiles.TilePath(None, number, width)) or b""):
                tree.append(leaf)
        assert tree.root() == root
        partial = store.tile(tiles.TilePath(0, 0, 70))
        assert partial == held[0, 0][: 70 * 32]
        for beyond in (
            tiles.TilePath(0, 257, 209),
            tiles.TilePath(None, 257),
            tiles.TilePath(3, 0),
        ):
            assert store.tile(beyond) is None


def test_one_key_has_one_leaf(store: Store) -> None:
    assert store.append([Entry(b"k", b"first")]) == [0]
    assert store.append([Entry(b"k", b"second"), Entry(b"l", b"third")]) == [0, 1]
    assert store.append([Entry(b"m", b"a"), Entry(b"m", b"b"), Entry(b"k", b"c")]) == [2, 2, 0]
    assert [store.leaf(n) for n in range(4)] == [b"first", b"third", b"a", None]
    before = store.checkpoint
    assert store.append([Entry(b"k", b"again")]) == [0]
    assert store.checkpoint == before
    assert (store.find(b"l"), store.find(b"x")) == (1, None)


def test_blobs_are_kept_by_digest_and_records_by_index(store: Store) -> None:
    store.append([Entry(b"a", b"leaf", (b"evidence", b"config", b""), lambda at: b"at %d" % at)])
    store.append([Entry(b"b", b"other", (b"evidence",))])
    for blob in (b"evidence", b"config", b""):
        assert store.blob(sha256(blob).digest()) == blob
    assert store.blob(bytes(32)) is None
    assert (store.record(0), store.record(1)) == (b"at 0", None)


def test_reopening_resumes(tmp_path: Path) -> None:
    tree, size = tree_of(700), 0
    for step in (1, 254, 1, 1, 255, 100):
        with open_store(tmp_path) as store:
            assert store.size == size
            store.append(entries(size, size + step))
            size += step
            assert store.root(size) == tree.root(size)
    with open_store(tmp_path) as store:
        assert store.checkpoint_at(1) is not None
        assert store.checkpoint_at(2) is None
        assert store.consistency(1, size) == tree.consistency(1, size)


def test_a_failing_batch_leaves_nothing(tmp_path: Path, store: Store) -> None:
    store.append(entries(0, 300))
    before, tree = store.checkpoint, tree_of(600)

    def fail(index: int) -> bytes:
        raise RuntimeError(index)

    with pytest.raises(RuntimeError):
        store.append([*entries(300, 560), Entry(b"bad", b"leaf", (b"blob",), fail)])
    other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    other.execute(
        "CREATE TRIGGER t BEFORE INSERT ON checkpoint BEGIN SELECT RAISE(ABORT,'full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.append([*entries(300, 560), Entry(b"bad", b"leaf", (b"blob",))])
    other.execute("DROP TRIGGER t")
    other.close()
    assert (store.size, store.checkpoint) == (300, before)
    assert store.leaf(300) is None
    assert store.blob(sha256(b"blob").digest()) is None
    store.append(entries(300, 600))
    assert store.root(600) == tree.root()


CHILD = """
import sys; from pathlib import Path; from hashlib import sha256
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store
store = Store(Sqlite(Path(sys.argv[1])), origin="localhost/log",
              key=Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
while True:
    at = store.size
    store.append([Entry(sha256(b"%d" % n).digest(), b"leaf %d" % n) for n in range(at, at + 37)])
    print(store.size, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_published(tmp_path: Path) -> None:
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        published = [int(child.stdout.readline()) for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        published += [int(line) for line in child.stdout.read().split()]
        child.wait()
        child.stdout.close()
        with open_store(tmp_path) as store:
            assert store.size >= published[-1]
            assert store.root(store.size) == tree_of(store.size).root()
            assert all(store.checkpoint_at(size) for size in published)


def test_a_second_process_may_not_write(tmp_path: Path, store: Store) -> None:
    with pytest.raises(Unavailable):
        open_store(tmp_path)


DAMAGE = {
    "another leaf hash": "UPDATE tile SET hashes = zeroblob(32 * 7)",
    "tile missing": "DELETE FROM tile",
    "entry missing": "DELETE FROM entry WHERE position = 6",
    "entry too many": "INSERT INTO entry VALUES (7, x'00', x'00')",
    "checkpoint missing": "DELETE FROM checkpoint WHERE size = 7",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_store_does_not_open(tmp_path: Path, statement: str) -> None:
    with open_store(tmp_path) as store:
        store.append(entries(0, 7))
    database = sqlite3.connect(tmp_path / "log.sqlite")
    with database:
        database.execute(statement)
    database.close()
    with pytest.raises(LogError):
        open_store(tmp_path)


def test_another_key_or_origin_does_not_continue_a_log(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.append(entries(0, 7))
    other = Ed25519PrivateKey.generate()
    with pytest.raises(NotAuthentic):
        open_store(tmp_path, other)
    with pytest.raises(NotAuthentic):
        open_store(tmp_path, origin="localhost/other")
    with pytest.raises(ParseError):
        open_store(tmp_path, origin="o" * 61)
    with open_store(tmp_path) as store:
        assert store.size == 7


def test_what_is_not_there_is_a_usage_error(store: Store) -> None:
    store.append(entries(0, 7))
    for ask in (
        lambda: store.proof(7, 7),
        lambda: store.proof(0, 6),
        lambda: store.inclusion(0, 8),
        lambda: store.consistency(0, 8),
        lambda: store.consistency(5, 4),
        lambda: store.root(8),
    ):
        with pytest.raises(UsageError):
            ask()


@pytest.mark.parametrize("leaf", [b"", b"x" * 65536], ids=["empty", "65536 bytes"])
def test_leaves_have_limits(leaf: bytes) -> None:
    with pytest.raises(ParseError):
        Entry(b"k", leaf)


def test_readers_and_writers_share_it(store: Store) -> None:
    tree, stop, failures = tree_of(6000), threading.Event(), []
    store.append(entries(0, 1))

    def read() -> None:
        seeded = random.Random()
        while not stop.is_set():
            size = store.size
            index = seeded.randrange(size)
            if store.inclusion(index, size) != tree.inclusion(index, size):
                failures.append((index, size))
            time.sleep(0.001)  # readers that spin would keep the interpreter from the writer

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(1, 5901, 59):
        store.append(entries(start, start + 59))
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_the_key_file_is_private_and_of_one_origin(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = load_or_create_key(path, origin=ORIGIN)
    assert path.stat().st_mode & 0o777 == 0o600
    again = load_or_create_key(path, origin=ORIGIN)
    assert again.private_bytes_raw() == made.private_bytes_raw()
    with pytest.raises(UsageError):
        load_or_create_key(path, origin="localhost/other")
    path.chmod(0o640)
    with pytest.raises(UsageError):
        load_or_create_key(path, origin=ORIGIN)


def test_passing_blobs_are_forgotten_and_others_kept(tmp_path: Path) -> None:
    forgets_passing_blobs(Sqlite(tmp_path))
