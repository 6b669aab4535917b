"""The log on disk: SQLite, one writer, a signed checkpoint with every batch.

Entries, tiles, blobs and the checkpoint that covers them are committed together or not
at all, and only what is committed is ever served or signed twice the same. Opening
recomputes the root and compares it with the last checkpoint. Nothing is deleted.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.digests import sha256
from attestation.errors import LogError, ParseError, Unavailable, UsageError
from attestation.log import checkpoint as checkpoints
from attestation.log import note, tiles
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import MAX_LEAF_BYTES
from attestation.log.merkle import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
)
from attestation.log.proof import Proof

SCHEMA_VERSION = 1
CACHED_TILES = 512
"""Inner rows of a full tile take about 30 kB: 16 MB at most."""

_TILE_BYTES = tiles.WIDTH * HASH_BYTES
_LOOKUP = 500
"""Keys per query; SQLite's oldest limit is 999 parameters."""

_WAL_PAGES = 16_384
"""64 MiB of log before it is copied into the database: keys scatter over many pages."""

_SCHEMA = """
CREATE TABLE entry (position INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, leaf BLOB NOT NULL);
CREATE TABLE tile (level INTEGER, number INTEGER, hashes BLOB NOT NULL,
                   PRIMARY KEY (level, number));
CREATE TABLE blob (digest BLOB PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE record (position INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Entry:
    """One leaf to append. `key` makes it idempotent; `blobs` are kept by their SHA-256;
    `record` makes the bytes to keep beside the leaf from its index."""

    key: bytes
    leaf: bytes
    blobs: tuple[bytes, ...] = ()
    record: Callable[[int], bytes] | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.leaf) <= MAX_LEAF_BYTES:
            raise ParseError(f"entry: expected a leaf of 1 to {MAX_LEAF_BYTES} bytes")


@dataclass(frozen=True)
class _Head:
    """A committed state: the unfinished tile of every level, and its checkpoint."""

    size: int
    edge: tuple[bytes, ...]
    checkpoint: bytes


class Store:
    """A log in a directory. Threads may share it; a second process may not open it."""

    def __init__(self, directory: Path, *, origin: str, key: Ed25519PrivateKey) -> None:
        """Opens or creates. Raises Unavailable when another process holds it, LogError
        when what is on disk is not what this key signed."""
        checkpoints.check_origin(origin)
        self._origin, self._key = origin, key
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(directory / "lock")
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._writer = _connect(directory / "log.sqlite")
        self._reader = _connect(directory / "log.sqlite")
        self._pyramid = lru_cache(CACHED_TILES)(self._load_pyramid)
        try:
            self._head = self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
        os.close(self._lock_file)

    @property
    def origin(self) -> str:
        return self._origin

    @property
    def size(self) -> int:
        return self._head.size

    @property
    def checkpoint(self) -> bytes:
        """The newest signed checkpoint."""
        return self._head.checkpoint

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Commits a batch and a checkpoint that covers it; the index of every entry.

        An entry whose key is known gets the index of the leaf that has it.
        """
        with self._write_lock:
            known = self._known([entry.key for entry in entries])
            fresh: dict[bytes, Entry] = {}
            for entry in entries:
                if entry.key not in known:
                    fresh.setdefault(entry.key, entry)
            if fresh:
                known.update(self._commit(list(fresh.values())))
            return [known[entry.key] for entry in entries]

    def find(self, key: bytes) -> int | None:
        """Index of the leaf with this key."""
        position = self._one("SELECT position FROM entry WHERE key = ?", key)
        return None if position is None else int(position)

    def leaf(self, index: int) -> bytes | None:
        return self._bytes("SELECT leaf FROM entry WHERE position = ?", index)

    def blob(self, digest: bytes) -> bytes | None:
        """Content by its SHA-256."""
        return self._bytes("SELECT content FROM blob WHERE digest = ?", digest)

    def record(self, index: int) -> bytes | None:
        return self._bytes("SELECT content FROM record WHERE position = ?", index)

    def checkpoint_at(self, size: int) -> bytes | None:
        """The signed checkpoint of exactly this size, if one was published."""
        return self._bytes("SELECT note FROM checkpoint WHERE size = ?", size)

    def root(self, size: int) -> bytes:
        """Raises UsageError for a size not reached."""
        self._reached(size)
        return tree_root(size, self.get_hash)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Raises UsageError for an index or a size not reached."""
        self._reached(size)
        return inclusion_proof(index, size, self.get_hash)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Raises UsageError for sizes not reached."""
        self._reached(new_size)
        return consistency_proof(old_size, new_size, self.get_hash)

    def proof(self, index: int, size: int) -> bytes:
        """tlog-proof of leaf `index` to the published size. Raises UsageError."""
        checkpoint, leaf = self.checkpoint_at(size), self.leaf(index)
        if checkpoint is None or leaf is None:
            raise UsageError(f"proof: expected an entry and a published size, got {index}, {size}")
        return Proof(index, tuple(self.inclusion(index, size)), checkpoint, leaf).to_bytes()

    def tile(self, path: tiles.TilePath) -> bytes | None:
        """Hash tile or entry bundle of exactly that width; None where it is not reached."""
        if path.level is None:
            return self._bundle(path.index, path.width)
        query = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
        hashes = self._bytes(query, path.level, path.index)
        wanted = path.width * HASH_BYTES
        return hashes[:wanted] if hashes is not None and len(hashes) >= wanted else None

    def get_hash(self, level: int, index: int) -> bytes:
        """Root of a complete committed subtree (merkle.GetHash)."""
        row, height = divmod(level, tiles.HEIGHT)
        number, offset = divmod(index << height, tiles.WIDTH)
        head = self._head
        if number == head.size >> tiles.HEIGHT * (row + 1):
            return _edge_rows(head.edge[row])[height][offset >> height]
        return self._pyramid(row, number)[height][offset >> height]

    def _open(self) -> _Head:
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            return self._create()
        if version != SCHEMA_VERSION:
            raise LogError(f"log store: expected schema {SCHEMA_VERSION}, got {version}")
        size, signed = self._writer.execute(
            "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1"
        ).fetchone()
        public_key = self._key.public_key().public_bytes_raw()
        head = checkpoints.verify(signed, origin=self._origin, log_key=public_key)
        edge = self._load_edge(size)
        entries = self._writer.execute("SELECT MAX(position) FROM entry").fetchone()[0]
        found = tree_root(size, _edge_reader(edge))
        if (head.size, head.root) != (size, found) or (
            -1 if entries is None else entries
        ) != size - 1:
            raise LogError("log store: the tree on disk is not the one last signed")
        return _Head(size, edge, signed)

    def _create(self) -> _Head:
        head = self._signed(0, ())
        with _transaction(self._writer):
            for statement in _SCHEMA.split(";"):
                self._writer.execute(statement)
            self._writer.execute("INSERT INTO checkpoint VALUES (0, ?)", (head.checkpoint,))
            self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return head

    def _commit(self, entries: list[Entry]) -> dict[bytes, int]:
        start = self._head.size
        edge, finished = _grow(start, self._head.edge, [leaf_hash(e.leaf) for e in entries])
        head = self._signed(start + len(entries), edge)
        rows = [(start + at, e.key, e.leaf) for at, e in enumerate(entries)]
        blobs = {sha256(blob): blob for entry in entries for blob in entry.blobs}
        records = [(start + at, e.record(start + at)) for at, e in enumerate(entries) if e.record]
        with _transaction(self._writer) as database:
            database.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
            database.executemany("INSERT INTO record VALUES (?, ?)", records)
            database.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?)", blobs.items())
            open_tiles = _open_tiles(head)
            database.executemany("REPLACE INTO tile VALUES (?, ?, ?)", finished + open_tiles)
            row = (head.size, head.checkpoint)
            database.execute("INSERT INTO checkpoint VALUES (?, ?)", row)
        self._head = head
        return {key: position for position, key, _ in rows}

    def _signed(self, size: int, edge: tuple[bytes, ...]) -> _Head:
        root = tree_root(size, _edge_reader(edge))
        signed = checkpoints.sign(Checkpoint(self._origin, size, root), key=self._key)
        return _Head(size, edge, signed)

    def _load_edge(self, size: int) -> tuple[bytes, ...]:
        edge: list[bytes] = []
        while size:
            row = self._writer.execute(
                "SELECT hashes FROM tile WHERE level = ? AND number = ?", (len(edge), size >> 8)
            ).fetchone()
            width = size % tiles.WIDTH * HASH_BYTES
            edge.append(row[0][:width] if row else b"")
            if len(edge[-1]) != width:
                raise LogError(f"log store: the last tile of level {len(edge) - 1} is missing")
            size >>= tiles.HEIGHT
        return tuple(edge)

    def _load_pyramid(self, row: int, number: int) -> tuple[tuple[bytes, ...], ...]:
        tile = self.tile(tiles.TilePath(row, number))
        if tile is None:
            raise LogError(f"log store: tile {number} of level {row} is missing")
        return tiles.pyramid(tile)

    def _bundle(self, number: int, width: int) -> bytes | None:
        first = number * tiles.WIDTH
        if first + width > self._head.size:
            return None
        query = "SELECT leaf FROM entry WHERE position >= ? AND position < ? ORDER BY position"
        with self._read_lock:
            rows = self._reader.execute(query, (first, first + width)).fetchall()
        return tiles.encode_bundle([row[0] for row in rows])

    def _known(self, keys: list[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for at in range(0, len(keys), _LOOKUP):
            part = keys[at : at + _LOOKUP]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, position FROM entry WHERE key IN ({marks})"  # noqa: S608
            found.update(self._writer.execute(query, part))
        return found

    def _reached(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise UsageError(f"log: expected a size of at most {self.size}, got {size}")

    def _one(self, query: str, *arguments: object) -> Any:
        with self._read_lock:
            row = self._reader.execute(query, arguments).fetchone()
        return row[0] if row else None

    def _bytes(self, query: str, *arguments: object) -> bytes | None:
        value = self._one(query, *arguments)
        return None if value is None else bytes(value)


def load_or_create_key(path: Path, *, origin: str) -> Ed25519PrivateKey:
    """The log's key from `path`, made with mode 0600 where there is none.

    Raises UsageError when others may read the file or it is of another origin.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path}: expected mode 0600, others may read it") from None
        name, key = note.parse_signer(path.read_text().strip())
        if name != origin:
            raise UsageError(f"{path}: expected the key of {origin}, got of {name}") from None
        return key
    key = Ed25519PrivateKey.generate()
    with os.fdopen(file, "w") as stream:
        stream.write(note.signer_text(origin, key) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return key


def _grow(
    size: int, edge: tuple[bytes, ...], hashes: Iterable[bytes]
) -> tuple[tuple[bytes, ...], list[tuple[int, int, bytes]]]:
    """The edge after more leaf hashes, and the tiles that became full on the way."""
    rows, finished = [bytearray(row) for row in edge], []
    numbers = [size >> tiles.HEIGHT * (level + 1) for level in range(len(edge))]
    for digest in hashes:
        level, item = 0, digest
        while True:
            if level == len(rows):
                rows.append(bytearray())
                numbers.append(0)
            rows[level] += item
            if len(rows[level]) < _TILE_BYTES:
                break
            full = bytes(rows[level])
            finished.append((level, numbers[level], full))
            item = tiles.subtree(full, tiles.HEIGHT, 0)
            rows[level].clear()
            numbers[level] += 1
            level += 1
    return tuple(bytes(row) for row in rows), finished


def _open_tiles(head: _Head) -> list[tuple[int, int, bytes]]:
    numbered = enumerate(head.edge)
    return [(at, head.size >> tiles.HEIGHT * (at + 1), row) for at, row in numbered if row]


def _edge_reader(edge: tuple[bytes, ...]) -> Callable[[int, int], bytes]:
    """GetHash for the subtrees that a root of the current size is made of."""

    def get(level: int, index: int) -> bytes:
        row, height = divmod(level, tiles.HEIGHT)
        return tiles.subtree(edge[row], height, (index << height) % tiles.WIDTH)

    return get


_edge_rows = lru_cache(4 * tiles.MAX_LEVEL)(tiles.pyramid)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise Unavailable("log store: another process has it open") from None
    return file
