"""The log on disk: one tree, and a signed checkpoint with every batch.

Entries, tiles, blobs and the checkpoint that covers them are committed together or not at all, and
only committed data is served. Opening the store computes the root again and compares it with the
last checkpoint. No leaf is ever deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import LogError, ParseError, UsageError
from attestation.files import create, read_secret
from attestation.formats.digests import sha256
from attestation.formats.origin import check_origin
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
from contracts.logservice.database import SCHEMA_VERSION, Database, Transaction
from contracts.logservice.growth import TreeHead, grow, load_edge, root_of

CACHED_TILES = 512
"""The inner rows of a full tile need about 30 kB, so the cache needs at most 16 MB."""

DAY_S = 86_400
_LOOKUP = 500
"""Keys per query; old SQLite versions allow 999 parameters."""

_FORGOTTEN_AT_ONCE = 1000

_LAST = "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1"
_TILE = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
_PUT_TILE = (
    "INSERT INTO tile VALUES (?, ?, ?)"
    " ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"
)


@dataclass(frozen=True)
class Entry:
    """One leaf to append. A second entry with the same `key` is not appended. `blobs` are kept by
    their SHA-256; `passing` blobs are kept until a retention setting deletes them. `record` takes
    the leaf's index and returns bytes that are kept beside the leaf."""

    key: bytes
    leaf: bytes
    blobs: tuple[bytes, ...] = ()
    record: Callable[[int], bytes] | None = None
    passing: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.leaf) <= MAX_LEAF_BYTES:
            raise ParseError(
                f"entry: expected a leaf of 1 to {MAX_LEAF_BYTES} bytes, got {len(self.leaf)}"
            )


class Store:
    """A log in a database. Threads may share it."""

    def __init__(
        self,
        database: Database,
        *,
        origin: str,
        key: Ed25519PrivateKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens or creates the log in `database`; `close` closes it. Raises LogError if its content
        is not what this key signed, Unavailable."""
        self._origin, self._key, self._clock = origin, key, clock
        self._database = database
        self._public_key = key.public_key().public_bytes_raw()
        self._write_lock, self._head_lock = threading.Lock(), threading.Lock()
        self._pyramid = lru_cache(CACHED_TILES)(self._load_pyramid)
        try:
            check_origin(origin)
            with database.writing() as transaction:
                self._head = self._open(transaction)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    @property
    def origin(self) -> str:
        return self._origin

    @property
    def size(self) -> int:
        return self._newest().size

    @property
    def checkpoint(self) -> bytes:
        """The newest signed checkpoint."""
        return self._newest().checkpoint

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Commit a batch with a checkpoint that covers it, and return the index of every entry.

        An entry whose key is known gets the index of the existing leaf.
        """
        with self._write_lock:
            with self._database.writing() as transaction:
                head = self._follow(transaction.all)
                known = _known(transaction, [entry.key for entry in entries])
                fresh: dict[bytes, Entry] = {}
                for entry in entries:
                    if entry.key not in known:
                        fresh.setdefault(entry.key, entry)
                if fresh:
                    head = self._write(transaction, head, list(fresh.values()), known)
            self._moved(head)
            return [known[entry.key] for entry in entries]

    def forget(self, days: int) -> int:
        """Delete the passing blobs that arrived more than `days` ago, and return their number."""
        before, gone = self._day() - days, 0
        while removed := self._forget_some(before):
            gone += removed
        return gone

    def find(self, key: bytes) -> int | None:
        """The index of the leaf with this key, or None."""
        position = self._one("SELECT position FROM entry WHERE key = ?", key)
        return None if position is None else int(position)

    def leaf(self, index: int) -> bytes | None:
        return self._bytes("SELECT leaf FROM entry WHERE position = ?", index)

    def blob(self, digest: bytes) -> bytes | None:
        """The blob with this SHA-256, or None."""
        return self._bytes("SELECT content FROM blob WHERE digest = ?", digest)

    def record(self, index: int) -> bytes | None:
        return self._bytes("SELECT content FROM record WHERE position = ?", index)

    def checkpoint_at(self, size: int) -> bytes | None:
        """The signed checkpoint of exactly this size, if one was published."""
        return self._bytes("SELECT note FROM checkpoint WHERE size = ?", size)

    def root(self, size: int) -> bytes:
        """The root of the first `size` entries. Raises UsageError if the log is smaller."""
        self._reached(size)
        return tree_root(size, self.get_hash)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The inclusion proof of `index` in the tree of `size`. Raises UsageError if the log is
        smaller."""
        self._reached(size)
        return inclusion_proof(index, size, self.get_hash)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """The consistency proof between two sizes. Raises UsageError if the log is smaller."""
        self._reached(new_size)
        return consistency_proof(old_size, new_size, self.get_hash)

    def proof(self, index: int, size: int) -> bytes:
        """The tlog-proof of leaf `index` to a published size. Raises UsageError."""
        checkpoint, leaf = self.checkpoint_at(size), self.leaf(index)
        if checkpoint is None or leaf is None:
            raise UsageError(
                "proof: expected the index of an entry and a size with a published checkpoint, got "
                f"index {index} and size {size}"
            )
        return Proof(index, tuple(self.inclusion(index, size)), checkpoint, leaf).to_bytes()

    def tile(self, path: tiles.TilePath) -> bytes | None:
        """The hash tile or entry bundle of exactly that width; None if the log is smaller."""
        if path.level is None:
            return self._bundle(path.index, path.width)
        hashes = self._bytes(_TILE, path.level, path.index)
        wanted = path.width * HASH_BYTES
        return hashes[:wanted] if hashes is not None and len(hashes) >= wanted else None

    def get_hash(self, level: int, index: int) -> bytes:
        """Root of a complete committed subtree (merkle.GetHash)."""
        at_edge = self._head.get_hash(level, index)
        if at_edge is not None:
            return at_edge
        row, height = divmod(level, tiles.HEIGHT)
        number, offset = divmod(index << height, tiles.WIDTH)
        return self._pyramid(row, number)[height][offset >> height]

    def _open(self, transaction: Transaction) -> TreeHead:
        version = transaction.version()
        if version == 0:
            return self._create(transaction)
        if version != SCHEMA_VERSION:
            raise LogError(f"log store: expected schema version {SCHEMA_VERSION}, got {version}")
        head = self._load(transaction.all)
        last = transaction.all("SELECT MAX(position) FROM entry")[0][0]
        if (-1 if last is None else last) != head.size - 1:
            raise LogError(_other_tree(f"{head.size} entries", f"a last index of {last}"))
        return head

    def _create(self, transaction: Transaction) -> TreeHead:
        head = self._signed(0, ())
        transaction.create()
        transaction.run("INSERT INTO checkpoint VALUES (0, ?)", (head.checkpoint,))
        return head

    def _load(self, rows: Callable[..., list[tuple[Any, ...]]]) -> TreeHead:
        """The last committed state, its checkpoint verified and its root recomputed."""
        size, signed = rows(_LAST)[0]
        head = checkpoints.verify(bytes(signed), origin=self._origin, log_key=self._public_key)

        def row_of(level: int, number: int) -> bytes | None:
            found = rows(_TILE, (level, number))
            return bytes(found[0][0]) if found else None

        edge = load_edge(size, row_of)
        if edge is None or (head.size, head.root) != (size, root_of(size, edge)):
            raise LogError(_other_tree(f"size {head.size} and root {head.root.hex()}", "another"))
        return TreeHead(size, edge, bytes(signed))

    def _follow(self, rows: Callable[..., list[tuple[Any, ...]]]) -> TreeHead:
        """The last committed state, possibly by another writer. Raises LogError if the log shrank
        or changed."""
        known = self._head
        size, signed = rows(_LAST)[0]
        if size > known.size:
            return self._load(rows)
        if size < known.size or bytes(signed) != known.checkpoint:
            raise LogError(
                f"log store: expected the committed checkpoint of {known.size} entries or a "
                "later one, "
                f"got another one of {size} entries; was an older copy restored?"
            )
        return known

    def _newest(self) -> TreeHead:
        if not self._database.shared:
            return self._head
        with self._head_lock:
            found = self._follow(self._database.all)
        return self._moved(found)

    def _moved(self, head: TreeHead) -> TreeHead:
        with self._head_lock:
            if head.size > self._head.size:
                self._head = head
            return self._head

    def _write(
        self,
        transaction: Transaction,
        head: TreeHead,
        entries: list[Entry],
        known: dict[bytes, int],
    ) -> TreeHead:
        """Write the entries, add their indexes to `known`, and return the state to commit."""
        edge, finished = grow(head.size, head.edge, [leaf_hash(e.leaf) for e in entries])
        new = self._signed(head.size + len(entries), edge)
        numbered = list(enumerate(entries, head.size))
        known.update((entry.key, at) for at, entry in numbered)
        rows = [(at, entry.key, entry.leaf) for at, entry in numbered]
        transaction.many("INSERT INTO entry VALUES (?, ?, ?)", rows)
        records = [(at, entry.record(at)) for at, entry in numbered if entry.record]
        transaction.many("INSERT INTO record VALUES (?, ?)", records)
        self._write_blobs(transaction, entries)
        transaction.many(_PUT_TILE, finished + new.open_tiles())
        transaction.run("INSERT INTO checkpoint VALUES (?, ?)", (new.size, new.checkpoint))
        return new

    def _forget_some(self, before: int) -> int:
        query = "SELECT digest FROM passing WHERE day < ? LIMIT ?"
        with self._write_lock, self._database.writing() as transaction:
            old = transaction.all(query, (before, _FORGOTTEN_AT_ONCE))
            transaction.many("DELETE FROM blob WHERE digest = ?", old)
            transaction.many("DELETE FROM passing WHERE digest = ?", old)
        return len(old)

    def _write_blobs(self, transaction: Transaction, entries: list[Entry]) -> None:
        """Write the blobs. A blob that one entry keeps forever is no longer passing."""
        kept = {sha256(blob): blob for entry in entries for blob in entry.blobs}
        passing = {sha256(blob): blob for entry in entries for blob in entry.passing}
        put = "INSERT INTO blob VALUES (?, ?) ON CONFLICT DO NOTHING"
        for digest in passing.keys() - kept.keys():
            if transaction.run(put, (digest, passing[digest])):
                transaction.run("INSERT INTO passing VALUES (?, ?)", (digest, self._day()))
        transaction.many(put, kept.items())
        transaction.many("DELETE FROM passing WHERE digest = ?", [(digest,) for digest in kept])

    def _signed(self, size: int, edge: tuple[bytes, ...]) -> TreeHead:
        head = Checkpoint(self._origin, size, root_of(size, edge))
        return TreeHead(size, edge, checkpoints.sign(head, key=self._key))

    def _load_pyramid(self, row: int, number: int) -> tuple[tuple[bytes, ...], ...]:
        tile = self.tile(tiles.TilePath(row, number))
        if tile is None:
            raise LogError(f"log store: expected tile {number} of level {row}, found none")
        return tiles.pyramid(tile)

    def _bundle(self, number: int, width: int) -> bytes | None:
        first = number * tiles.WIDTH
        if first + width > self.size:
            return None
        query = "SELECT leaf FROM entry WHERE position >= ? AND position < ? ORDER BY position"
        rows = self._database.all(query, (first, first + width))
        return tiles.encode_bundle([bytes(row[0]) for row in rows])

    def _reached(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise UsageError(f"log: expected a size of 0 to {self.size}, got {size}")

    def _day(self) -> int:
        return int(self._clock()) // DAY_S

    def _one(self, query: str, *arguments: object) -> Any:
        rows = self._database.all(query, arguments)
        return rows[0][0] if rows else None

    def _bytes(self, query: str, *arguments: object) -> bytes | None:
        value = self._one(query, *arguments)
        return None if value is None else bytes(value)


def _other_tree(expected: str, got: str) -> str:
    return (
        f"log store: expected the tree that was signed last, with {expected}, got {got}; the store "
        "was damaged or changed"
    )


def _known(transaction: Transaction, keys: list[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for at in range(0, len(keys), _LOOKUP):
        part = keys[at : at + _LOOKUP]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, position FROM entry WHERE key IN ({marks})"  # noqa: S608
        found.update((bytes(key), at) for key, at in transaction.all(query, part))
    return found


def load_or_create_key(path: Path, *, origin: str) -> Ed25519PrivateKey:
    """The log's signing key from `path`; a missing file is created with mode 0600 and a new key.

    Raises UsageError if other users may read the file or the key is of another origin.
    """
    found = read_secret(path)
    if found is None:
        key = Ed25519PrivateKey.generate()
        if create(path, f"{note.signer_text(origin, key)}\n".encode()):
            return key
        found = read_secret(path) or b""  # another process was first
    name, key = note.parse_signer(found.decode(errors="replace").strip())
    if name != origin:
        raise UsageError(f"{path}: expected the signing key of {origin}, got the key of {name}")
    return key
