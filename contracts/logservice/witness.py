"""A witness (c2sp.org/tlog-witness): one view of each log, and it only ever grows.

What is cosigned is on disk before the cosignature leaves, and looking at the last size and
writing the next are one transaction: a witness never cosigns two trees of one size, nor a
smaller tree after a larger, whatever is killed and when.
"""

from __future__ import annotations

import base64
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import (
    LogError,
    NotAuthentic,
    ParseError,
    Refused,
    UmayError,
    Unavailable,
)
from attestation.files import check_own, own_directory
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosign
from attestation.log.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from attestation.log.note import (
    MAX_NOTE_BYTES,
    Note,
    VerifierKey,
    check_name,
    decode_text,
    from_base64,
    from_decimal,
)
from contracts.logservice.database import working
from contracts.logservice.seldom import Seldom

logger = logging.getLogger(__name__)

MAX_PROOF_LINES = 63
MAX_BODY_BYTES = MAX_NOTE_BYTES + 4096
MAX_CONFLICTS = 1000
"""Signed notes kept as proof of what a log did; no more of them than that."""

PLAIN, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (origin TEXT PRIMARY KEY, size INTEGER NOT NULL,
                                 root BLOB NOT NULL, note BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS conflict (note BLOB PRIMARY KEY);
"""


@dataclass(frozen=True)
class AddCheckpoint:
    """A request: the size that the asker believes was cosigned last, a consistency proof from
    there (32 bytes each), and the checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        lines = "".join(base64.b64encode(digest).decode() + "\n" for digest in self.proof)
        return f"old {self.old}\n{lines}\n".encode() + self.note

    @classmethod
    def from_bytes(cls, body: bytes) -> AddCheckpoint:
        """Raises ParseError for anything that is not exactly one request."""
        if len(body) > MAX_BODY_BYTES:
            raise ParseError(f"add-checkpoint: expected at most {MAX_BODY_BYTES} bytes")
        head, separator, note = body.partition(b"\n\n")
        first, *lines = decode_text(head).split("\n")
        if not separator or not first.startswith("old ") or len(lines) > MAX_PROOF_LINES:
            raise ParseError("add-checkpoint: expected old size, proof, empty line, checkpoint")
        proof = tuple(from_base64(line, "proof") for line in lines)
        if any(len(digest) != HASH_BYTES for digest in proof):
            raise ParseError("add-checkpoint: expected hashes of 32 bytes")
        return cls(from_decimal(first[4:], "old size"), proof, note)


@dataclass(frozen=True)
class Answer:
    """The witness's answer to one request: HTTP status, content and media type."""

    status: int
    body: bytes
    media_type: str = PLAIN


class _Conflict(UmayError):
    """The asker's view is not ours; `size` is the last that was cosigned."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Witness:
    """`logs` are their keys by origin. `confirm` makes the further statement of a witness that
    has one: it raises Unavailable for not yet, Refused for never."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        key: Ed25519PrivateKey,
        logs: Mapping[str, VerifierKey],
        confirm: Callable[[Checkpoint], None] = lambda head: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises UsageError where `path` cannot be used, Unavailable as for a full disk,
        ParseError for a name that is none."""
        check_name(name)
        self._name, self._key, self._logs = name, key, dict(logs)
        self._confirm, self._clock, self._lock = confirm, clock, threading.Lock()
        own_directory(path.parent)
        check_own(path)
        self._path = path
        with working(path):
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        self._warn = Seldom(logger.warning)

    def close(self) -> None:
        self._database.close()

    def add(self, body: bytes) -> Answer:
        """The answer to POST add-checkpoint."""
        try:
            request = AddCheckpoint.from_bytes(body)
            head, note = checkpoints.parse(request.note)
            if request.old > head.size:
                return self._unless_unknown(head, note) or _plain(400, "old size over the new one")
            return self._unless_unknown(head, note) or self._cosigned(request, head, note)
        except ParseError as error:
            return _plain(400, str(error))

    def _unless_unknown(self, head: Checkpoint, note: Note) -> Answer | None:
        log = self._logs.get(head.origin)
        if log is None:
            return _plain(404, "this witness does not follow that log")
        try:
            note.verify(log)
        except NotAuthentic as error:
            return _plain(403, str(error))
        return None

    def _cosigned(self, request: AddCheckpoint, head: Checkpoint, note: Note) -> Answer:
        try:
            self._confirm(head)
            self._kept(request, head)
        except _Conflict as conflict:
            return Answer(409, b"%d\n" % conflict.size, SIZE)
        except LogError as error:
            return _plain(422, str(error))
        except Refused as error:
            return _plain(403, str(error))
        except Unavailable as error:
            return _plain(503, str(error))
        line = cosign(note.text, name=self._name, key=self._key, now=int(self._clock()))
        return Answer(200, line.to_line().encode())

    def _kept(self, request: AddCheckpoint, head: Checkpoint) -> None:
        """On disk before anything is cosigned: a witness that forgets can be made to contradict
        itself."""
        try:
            self._remember(request, head)
        except Unavailable as error:
            self._warn(f"nothing was cosigned: {error}")
            raise

    def _remember(self, request: AddCheckpoint, head: Checkpoint) -> None:
        """Raises _Conflict or LogError, and then nothing is remembered but the conflict."""
        with self._lock, working(self._path), _transaction(self._database):
            self._check(request, head)
            row = (head.origin, head.size, head.root, request.note)
            self._database.execute("REPLACE INTO seen VALUES (?, ?, ?, ?)", row)

    def _check(self, request: AddCheckpoint, head: Checkpoint) -> None:
        query = "SELECT size, root FROM seen WHERE origin = ?"
        found = self._database.execute(query, (head.origin,)).fetchone()
        size, root = found or (0, EMPTY_ROOT)
        if request.old != size:
            raise _Conflict(size)
        if head.size == size and head.root != root:
            self._keep(request.note)
            raise _Conflict(size)
        try:
            verify_consistency(
                old_size=size,
                old_root=root,
                new_size=head.size,
                new_root=head.root,
                proof=request.proof,
            )
        except LogError:
            self._keep(request.note)
            raise

    def _keep(self, note: bytes) -> None:
        """It may be proof that the log forked."""
        count = "SELECT COUNT(*) FROM conflict"
        if self._database.execute(count).fetchone()[0] < MAX_CONFLICTS:
            self._database.execute("INSERT OR IGNORE INTO conflict VALUES (?)", (note,))

    def conflicts(self) -> list[bytes]:
        """Notes that the logs signed and that did not continue what was cosigned."""
        with self._lock:
            rows = self._database.execute("SELECT note FROM conflict").fetchall()
        return [bytes(row[0]) for row in rows]


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """A refusal keeps what was written before it: the conflict alone."""
    database.execute("BEGIN IMMEDIATE")
    try:
        try:
            yield
        except (_Conflict, LogError):
            database.execute("COMMIT")
            raise
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _plain(status: int, text: str) -> Answer:
    return Answer(status, text.encode() + b"\n")
