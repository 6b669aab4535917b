"""A log as static files, for any CDN: what the server answers, byte for byte, under its paths.

`checkpoint` is a file here, so the checkpoint of a size lies at `checkpoints/<size>`. What a
digest names is compared with it; tiles and bundles are for auditors to hash. A second run
fetches only what is new, and `checkpoint` is replaced last: a reader of an export that grows
finds everything the checkpoint promises.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import NotAuthentic, ParseError, UsageError
from attestation.formats.digests import sha256
from attestation.log import checkpoint as checkpoints
from attestation.log.leaf import BOOT, RENEW, Leaf
from attestation.log.submission import Record
from attestation.log.tiles import WIDTH, TilePath, decode_bundle, tiles_of

Get = Callable[[str], bytes]
"""A path below the log's address to its bytes. Raises Unavailable."""


@dataclass
class Export:
    """One directory; `get` reads the log, `tell` hears of each file (path, whether new)."""

    directory: Path
    get: Get
    tell: Callable[[str, bool], None] = lambda path, new: None

    def run(self, *, origin: str, log_key: bytes, sizes: Iterable[int] = ()) -> int:
        """Everything up to the present checkpoint, and what the older `sizes` need besides.

        Returns the size exported. Raises Unavailable, ParseError, UsageError, or NotAuthentic
        for a checkpoint that the log did not sign and bytes that are not their digest's.
        """
        note = self.get("checkpoint")
        head = checkpoints.verify(note, origin=origin, log_key=log_key)
        for size in sorted({*sizes, head.size}):
            at = note if size == head.size else self.get(f"checkpoint/{size}")
            if checkpoints.verify(at, origin=origin, log_key=log_key).size != size:
                raise NotAuthentic("log", "other-size", f"expected the checkpoint of size {size}")
            self._keep(f"checkpoints/{size}", at)
            self._tree(size)
        self._entries(head.size)
        self._write("checkpoint", note)
        return head.size

    def _tree(self, size: int) -> None:
        for path in (*tiles_of(size), *_bundles(size)):
            self._fetch(str(path))

    def _entries(self, size: int) -> None:
        """What each entry names: its record, and everything by digest."""
        index = 0
        for path in _bundles(size):
            for data in decode_bundle(self._fetch(str(path))):
                self._entry(index, Leaf.from_bytes(data))
                index += 1

    def _entry(self, index: int, leaf: Leaf) -> None:
        if leaf.kind not in (BOOT, RENEW):
            self._blob(leaf.evidence_digest)
            return
        record = Record.from_bytes(self._fetch(f"submission/{index}"))
        for digest in (record.evidence, record.engine_config, record.price_table):
            self._blob(digest)
        for digest in (record.host_config, record.collateral):
            self._blob(digest)

    def _blob(self, digest: bytes) -> None:
        path = f"evidence/sha256/{digest.hex()}"
        if sha256(self._fetch(path)) != digest:
            (self.directory / path).unlink()
            raise NotAuthentic("log", "other-bytes", f"{path}: these bytes have another digest")

    def _fetch(self, path: str) -> bytes:
        """The file, from the log where it is not there yet."""
        place = self.directory / path
        if place.is_file():
            self.tell(path, False)
            return place.read_bytes()
        data = self.get(path)
        self._write(path, data)
        return data

    def _keep(self, path: str, data: bytes) -> None:
        if not (self.directory / path).is_file():
            self._write(path, data)

    def _write(self, path: str, data: bytes) -> None:
        """Whole or not at all."""
        place = self.directory / path
        if ".." in place.relative_to(self.directory).parts:
            raise ParseError(f"export: {path} leads elsewhere")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, place)
        except OSError as error:
            raise UsageError(f"{place}: {error.strerror}") from None
        self.tell(path, True)


def _bundles(size: int) -> Iterator[TilePath]:
    full, rest = divmod(size, WIDTH)
    yield from (TilePath(None, index) for index in range(full))
    if rest:
        yield TilePath(None, full, rest)
