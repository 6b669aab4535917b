"""A log as static files, for any CDN: what the server answers, byte for byte, under its paths.

`checkpoint` is a file here, so the checkpoint of a size lies at `checkpoints/<size>`. Nothing is
kept unchecked: the unfinished hash tiles make the root that the log signed, every other tile has
the hash that the tile above it names, a bundle's entries have the hashes of their tile, a record
is of its entry, and everything else has its digest. A file that lies there and does not fit is
fetched again; what the log serves and does not fit ends the export. `checkpoint` is replaced
last: a reader of an export that grows finds everything the checkpoint promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attestation.errors import (
    LogError,
    NotAuthentic,
    ParseError,
    UmayError,
    Unavailable,
    UsageError,
)
from attestation.formats.digests import sha256
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import BOOT, RENEW, Leaf
from attestation.log.merkle import HASH_BYTES, leaf_hash, tree_root
from attestation.log.submission import ArchiveRecord, check_archived
from attestation.log.tiles import (
    HEIGHT,
    WIDTH,
    TilePath,
    decode_bundle,
    encode_bundle,
    split_hashes,
    subtree,
    tiles_of,
)
from contracts.logservice.files import Files, Told
from contracts.logservice.growth import root_of

Get = Callable[[str], bytes]
"""A path below the log's address to its bytes. Raises Unavailable."""


@dataclass
class Export:
    """One directory; `get` reads the log, `tell` hears of each file (path, whether written)."""

    directory: Path
    get: Get
    tell: Told = lambda path, new: None
    files: Files = field(init=False)

    def __post_init__(self) -> None:
        self.files = Files(self.directory, self.tell)

    def run(self, *, origin: str, log_key: bytes, sizes: Iterable[int] = ()) -> int:
        """Everything up to the present checkpoint, and what the older `sizes` need besides.

        Returns the size exported. Raises Unavailable, UsageError, NotAuthentic for what the log
        did not sign or what is not what its hash says, ParseError for a leaf that is none, and
        LogError where the log signed two trees that contradict each other.
        """

        def signed(note: bytes) -> Checkpoint:
            return checkpoints.verify(note, origin=origin, log_key=log_key)

        note = self.get("checkpoint")
        head = signed(note)
        older = sorted({*sizes} - {head.size})
        if older and older[-1] > head.size:
            raise Unavailable(f"the log shows {head.size} entries, {older[-1]} were asked for")
        tree = _Tree(self, head)
        tree.fetch()
        self._note(head, signed, note)
        for size in older:
            self._note(Checkpoint(origin, size, tree.root(size)), signed)
            tree.keep_older(size)
        self.files.write("checkpoint", note)
        return head.size

    def checked(
        self, path: str, check: Callable[[bytes], object], fetch: Callable[[], bytes] | None = None
    ) -> bytes:
        """The file, fetched where none that fits lies there.

        `check` raises a UmayError for bytes that do not fit.
        """
        kept = self.files.read(path)
        if kept is not None and _fits(kept, check):
            self.tell(path, False)
            return kept
        data = fetch() if fetch else self.get(path)
        try:
            check(data)
        except UmayError as error:
            raise NotAuthentic("log", "other-bytes", f"the log's {path}: {error}") from None
        self.files.keep(path, data)
        return data

    def _note(
        self,
        expected: Checkpoint,
        signed: Callable[[bytes], Checkpoint],
        newest: bytes | None = None,
    ) -> None:
        """The log's note of this size. The log's own signature is what contradicts, not a file's
        damage, where it stands under another root."""

        def check(note: bytes) -> None:
            if (got := signed(note).size) != expected.size:
                raise ParseError(f"expected the checkpoint of size {expected.size}, got of {got}")

        def fetch() -> bytes:
            return self.get(f"checkpoint/{expected.size}") if newest is None else newest

        note = self.checked(f"checkpoints/{expected.size}", check, fetch)
        if signed(note).root != expected.root:
            text = f"the log signed two trees of {expected.size} entries that contradict each other"
            raise LogError(text)


@dataclass
class _Tree:
    """The tiles of a signed tree, their entries, and all that these name."""

    export: Export
    head: Checkpoint
    _edge: dict[TilePath, bytes] = field(default_factory=dict)

    def fetch(self) -> None:
        """From the root down: each tile is checked by the one above it."""
        self._fetch_edge()
        above = b""
        levels = len(_rows(self.head.size))
        for level in range(levels - 1, 0, -1):
            above = b"".join(self._tile(path, above) for path in self._level(level))
        for path in self._level(0):
            hashes = split_hashes(self._tile(path, above))
            for offset, data in enumerate(self._bundle(path, hashes)):
                self._entry(path.index * WIDTH + offset, data)

    def root(self, size: int) -> bytes:
        """Of the first `size` entries."""
        return tree_root(size, self._hash)

    def keep_older(self, size: int) -> None:
        """The partial tiles and bundles of an older size: the first of those fetched."""
        for path in (path for path in tiles_of(size) if path.width < WIDTH):
            tile = self._kept(self._now(path))[: path.width * HASH_BYTES]
            self.export.files.keep(str(path), tile)
        if width := size % WIDTH:
            path = TilePath(None, size // WIDTH, width)
            leaves = decode_bundle(self._kept(self._now(path)))
            self.export.files.keep(str(path), encode_bundle(leaves[:width]))

    def _fetch_edge(self) -> None:
        """The unfinished tile of every level: only together they make the root."""
        paths = [path for path in tiles_of(self.head.size) if path.width < WIDTH]
        files = self.export.files
        found = {path: files.read(str(path)) or b"" for path in paths}
        if not self._makes_root(found):
            found = {path: self.export.get(str(path)) for path in paths}
        if not self._makes_root(found):
            names = ", ".join(map(str, paths))
            text = f"the log's {names}: they do not make the root that it signs"
            raise NotAuthentic("log", "other-bytes", text)
        for path, data in found.items():
            files.keep(str(path), data)
        self._edge = found

    def _makes_root(self, found: dict[TilePath, bytes]) -> bool:
        rows = {path.level: data for path, data in found.items()}
        whole = all(len(data) == path.width * HASH_BYTES for path, data in found.items())
        edge = tuple(rows.get(level, b"") for level in _rows(self.head.size))
        return whole and root_of(self.head.size, edge) == self.head.root

    def _tile(self, path: TilePath, above: bytes) -> bytes:
        """`above` are the hashes of the next level, in which this tile's root stands."""
        if path in self._edge:
            return self._edge[path]
        expected = above[path.index * HASH_BYTES :][:HASH_BYTES]

        def check(data: bytes) -> None:
            if len(data) != WIDTH * HASH_BYTES:
                raise ParseError(f"expected {WIDTH * HASH_BYTES} bytes, got {len(data)}")
            if subtree(data, HEIGHT, 0) != expected:
                raise ParseError("these hashes do not make the one in the tile above")

        return self.export.checked(str(path), check)

    def _bundle(self, path: TilePath, hashes: list[bytes]) -> tuple[bytes, ...]:
        def check(data: bytes) -> None:
            if [leaf_hash(leaf) for leaf in decode_bundle(data)] != hashes:
                raise ParseError("these entries do not have the hashes of their tile")

        entries = TilePath(None, path.index, path.width)
        return decode_bundle(self.export.checked(str(entries), check))

    def _entry(self, index: int, data: bytes) -> None:
        """What it names: its record, and everything by digest."""
        leaf, path = Leaf.from_bytes(data), f"submission/{index}"
        self._blob(leaf.evidence_digest)
        if leaf.kind not in (BOOT, RENEW):
            return
        kept = self.export.files.read(path)
        if kept is not None and _fits(kept, lambda data: self._archived(data, index, leaf)):
            self.export.tell(path, False)
            return
        fetched = self.export.get(path)
        try:
            for digest in ArchiveRecord.from_bytes(fetched).digests:
                self._blob(digest)
            self._archived(fetched, index, leaf)
        except ParseError as error:
            raise NotAuthentic("log", "other-bytes", f"the log's {path}: {error}") from None
        self.export.files.keep(path, fetched)

    def _archived(self, record: bytes, index: int, leaf: Leaf) -> None:
        """All that it names lies here, and is of this entry. Raises ParseError, NotAuthentic."""
        found = ArchiveRecord.from_bytes(record)
        found.check_of(index, leaf)
        parts = []
        for digest in found.digests:
            data = self.export.files.read(_blob_path(digest))
            if data is None or sha256(data) != digest:
                raise ParseError(f"{digest.hex()} does not lie here")
            parts.append(data)
        check_archived(leaf, *parts)

    def _blob(self, digest: bytes) -> None:
        def check(data: bytes) -> None:
            if sha256(data) != digest:
                raise ParseError("these bytes have another digest")

        self.export.checked(_blob_path(digest), check)

    def _level(self, level: int) -> Iterator[TilePath]:
        return (path for path in tiles_of(self.head.size) if path.level == level)

    def _now(self, path: TilePath) -> TilePath:
        """The same tile or bundle as wide as it is in this tree."""
        count = self.head.size >> HEIGHT * (path.level or 0)
        return TilePath(path.level, path.index, min(WIDTH, count - path.index * WIDTH))

    def _kept(self, path: TilePath) -> bytes:
        data = self.export.files.read(str(path))
        if data is None:
            raise UsageError(f"{self.export.directory / str(path)}: it was removed meanwhile")
        return data

    def _hash(self, level: int, index: int) -> bytes:
        row, height = divmod(level, HEIGHT)
        number, offset = divmod(index << height, WIDTH)
        return subtree(self._kept(self._now(TilePath(row, number))), height, offset)


def _rows(size: int) -> range:
    """The levels of tiles that a tree of this size has."""
    return range((size.bit_length() + HEIGHT - 1) // HEIGHT)


def _blob_path(digest: bytes) -> str:
    return f"evidence/sha256/{digest.hex()}"


def _fits(data: bytes, check: Callable[[bytes], object]) -> bool:
    try:
        check(data)
    except UmayError:
        return False
    return True
