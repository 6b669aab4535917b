"""Exports a log as static files for any web server: the server's answers, byte for byte.

`checkpoint` is a file here, so the checkpoint of a size is at `checkpoints/<size>`. Everything is
checked before it is kept: the unfinished hash tiles give the root that the log signed, every other
tile has the hash in the tile above it, the entries of a bundle have the hashes of their tile, a
record belongs to its entry, and everything else has its digest. An existing file that is wrong is
fetched again; a wrong answer of the log ends the export. `checkpoint` is replaced last, so a
reader of a growing export finds everything that its checkpoint covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attestation.errors import (
    LogError,
    NotAuthentic,
    NotThere,
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
from contracts.logservice.files import ExportFiles, FileListener
from contracts.logservice.growth import root_of

Get = Callable[[str], bytes]
"""Takes a path below the log's address and returns its bytes. Raises Unavailable."""


@dataclass
class Export:
    """An export in one directory. `get` reads the log; `tell` is called for each file with its path
    and whether it was written."""

    directory: Path
    get: Get
    tell: FileListener = lambda path, new: None
    files: ExportFiles = field(init=False)
    renewals_gone: int = field(default=0, init=False)
    """Number of renewals without evidence, because the log has deleted it."""

    def __post_init__(self) -> None:
        self.files = ExportFiles(self.directory, self.tell)

    def run(self, *, origin: str, log_key: bytes, sizes: Iterable[int] = ()) -> int:
        """Export everything up to the newest checkpoint, and what the older `sizes` need besides.

        Returns the exported size in entries. Raises Unavailable, UsageError, NotAuthentic for bytes
        that the log did not sign or that do not have their hash, ParseError for a malformed leaf,
        and LogError if the log signed two trees that contradict each other.
        """

        def signed(note: bytes) -> Checkpoint:
            return checkpoints.verify(note, origin=origin, log_key=log_key)

        note = self.get("checkpoint")
        head = signed(note)
        older = sorted({*sizes} - {head.size})
        if older and older[-1] > head.size:
            raise Unavailable(
                f"--size: expected at most {head.size}, the size of the log's newest checkpoint, "
                "got "
                f"{older[-1]}"
            )
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
        """The bytes of the file. They are fetched unless the file exists and passes `check`, which
        raises a UmayError for wrong bytes."""
        kept = self.files.read(path)
        if kept is not None and _fits(kept, check):
            self.tell(path, False)
            return kept
        data = fetch() if fetch else self.get(path)
        try:
            check(data)
        except UmayError as error:
            raise NotAuthentic("log", "other-bytes", f"{path} of the log: {error}") from None
        self.files.keep(path, data)
        return data

    def _note(
        self,
        expected: Checkpoint,
        signed: Callable[[bytes], Checkpoint],
        newest: bytes | None = None,
    ) -> None:
        """Keep the log's note of this size. If the log's own signature covers another root, the log
        contradicts itself; no damage to a file can cause that."""

        def check(note: bytes) -> None:
            if (got := signed(note).size) != expected.size:
                raise ParseError(f"expected the checkpoint of size {expected.size}, got size {got}")

        def fetch() -> bytes:
            return self.get(f"checkpoint/{expected.size}") if newest is None else newest

        note = self.checked(f"checkpoints/{expected.size}", check, fetch)
        if signed(note).root != expected.root:
            text = (
                f"checkpoints of size {expected.size}: the log signed two trees that contradict "
                "each "
                f"other, with the roots {expected.root.hex()} and {signed(note).root.hex()}"
            )
            raise LogError(text)


@dataclass
class _Tree:
    """The tiles of a signed tree, their entries, and all files that the entries name."""

    export: Export
    head: Checkpoint
    _edge: dict[TilePath, bytes] = field(default_factory=dict)

    def fetch(self) -> None:
        """Fetch from the root down: the tile above each tile has its hash."""
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
        """The root of the first `size` entries."""
        return tree_root(size, self._hash)

    def keep_older(self, size: int) -> None:
        """Keep the partial tiles and bundles of an older size, cut from the fetched ones."""
        for path in (path for path in tiles_of(size) if path.width < WIDTH):
            tile = self._kept(self._now(path))[: path.width * HASH_BYTES]
            self.export.files.keep(str(path), tile)
        if width := size % WIDTH:
            path = TilePath(None, size // WIDTH, width)
            leaves = decode_bundle(self._kept(self._now(path)))
            self.export.files.keep(str(path), encode_bundle(leaves[:width]))

    def _fetch_edge(self) -> None:
        """Fetch the unfinished tile of every level. Only together they give the root."""
        paths = [path for path in tiles_of(self.head.size) if path.width < WIDTH]
        files = self.export.files
        found = {path: files.read(str(path)) or b"" for path in paths}
        if not self._makes_root(found):
            found = {path: self.export.get(str(path)) for path in paths}
        if not self._makes_root(found):
            names = ", ".join(map(str, paths))
            text = f"{names}: expected tiles that give the root which the log signed, got others"
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
        """The tile. `above` is the hashes of the next level, which contain this tile's root."""
        if path in self._edge:
            return self._edge[path]
        expected = above[path.index * HASH_BYTES :][:HASH_BYTES]

        def check(data: bytes) -> None:
            if len(data) != WIDTH * HASH_BYTES:
                raise ParseError(f"expected {WIDTH * HASH_BYTES} bytes, got {len(data)}")
            if subtree(data, HEIGHT, 0) != expected:
                raise ParseError("expected hashes that give the hash in the tile above, got others")

        return self.export.checked(str(path), check)

    def _bundle(self, path: TilePath, hashes: list[bytes]) -> tuple[bytes, ...]:
        def check(data: bytes) -> None:
            if [leaf_hash(leaf) for leaf in decode_bundle(data)] != hashes:
                raise ParseError("expected entries with the hashes of their tile, got others")

        entries = TilePath(None, path.index, path.width)
        return decode_bundle(self.export.checked(str(entries), check))

    def _entry(self, index: int, data: bytes) -> None:
        """Fetch what the entry names: its record, and everything by digest."""
        leaf, path = Leaf.from_bytes(data), f"submission/{index}"
        gone = self._evidence(leaf)
        if leaf.kind not in (BOOT, RENEW):
            return
        kept = self.export.files.read(path)
        if kept is not None and _fits(kept, lambda data: self._archived(data, index, leaf, gone)):
            self.export.tell(path, False)
            return
        fetched = self.export.get(path)
        try:
            for digest in ArchiveRecord.from_bytes(fetched).digests:
                if digest not in gone:
                    self._blob(digest)
            self._archived(fetched, index, leaf, gone)
        except ParseError as error:
            raise NotAuthentic("log", "other-bytes", f"{path} of the log: {error}") from None
        self.export.files.keep(path, fetched)

    def _evidence(self, leaf: Leaf) -> frozenset[bytes]:
        """Fetch the entry's evidence. Returns its digest if it is a renewal's that the log has
        deleted (--keep-renewals), else nothing."""
        digest = leaf.evidence_digest
        try:
            self._blob(digest)
            return frozenset()
        except NotThere as error:
            if leaf.kind != RENEW:
                raise
            if self.export.files.read(_blob_path(digest)) is not None:
                raise Unavailable(
                    f"{self.export.directory / _blob_path(digest)}: the file is damaged, and the "
                    f"log has deleted what belongs there ({error}); remove the file"
                ) from None
        self.export.renewals_gone += 1
        return frozenset({digest})

    def _archived(self, record: bytes, index: int, leaf: Leaf, gone: frozenset[bytes]) -> None:
        """Check that all files of the record except `gone` are here and belong to this entry.
        Raises ParseError, NotAuthentic."""
        found = ArchiveRecord.from_bytes(record)
        found.check_of(index, leaf)
        parts = []
        for digest in found.digests:
            if digest in gone:  # no evidence names nothing: only the collateral is compared
                parts.append(b"")
                continue
            data = self.export.files.read(_blob_path(digest))
            if data is None or sha256(data) != digest:
                raise ParseError(f"expected a file with SHA-256 {digest.hex()}, found none")
            parts.append(data)
        check_archived(leaf, *parts)

    def _blob(self, digest: bytes) -> None:
        def check(data: bytes) -> None:
            if sha256(data) != digest:
                raise ParseError(f"expected the SHA-256 {digest.hex()}, got {sha256(data).hex()}")

        self.export.checked(_blob_path(digest), check)

    def _level(self, level: int) -> Iterator[TilePath]:
        return (path for path in tiles_of(self.head.size) if path.level == level)

    def _now(self, path: TilePath) -> TilePath:
        """The same tile or bundle with its width in this tree."""
        count = self.head.size >> HEIGHT * (path.level or 0)
        return TilePath(path.level, path.index, min(WIDTH, count - path.index * WIDTH))

    def _kept(self, path: TilePath) -> bytes:
        data = self.export.files.read(str(path))
        if data is None:
            raise UsageError(
                f"{self.export.directory / str(path)}: expected the file that was written "
                "before, but "
                "it is gone; run the export again"
            )
        return data

    def _hash(self, level: int, index: int) -> bytes:
        row, height = divmod(level, HEIGHT)
        number, offset = divmod(index << height, WIDTH)
        return subtree(self._kept(self._now(TilePath(row, number))), height, offset)


def _rows(size: int) -> range:
    """The levels of tiles in a tree of this size."""
    return range((size.bit_length() + HEIGHT - 1) // HEIGHT)


def _blob_path(digest: bytes) -> str:
    return f"evidence/sha256/{digest.hex()}"


def _fits(data: bytes, check: Callable[[bytes], object]) -> bool:
    try:
        check(data)
    except UmayError:
        return False
    return True
