"""A witness (c2sp.org/tlog-witness): it has one view of each log, and that view only grows.

A checkpoint is on disk before its cosignature is sent, and one transaction reads the last size and
writes the next. So a witness never cosigns two trees of one size, nor a smaller tree after a larger
one, whenever its process is killed.
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
from contracts.logservice.repeats import RepeatLimiter

logger = logging.getLogger(__name__)

MAX_PROOF_LINES = 63
MAX_BODY_BYTES = MAX_NOTE_BYTES + 4096
MAX_CONFLICTS = 1000
"""Most signed notes that are kept as proof of a log's fork."""

PLAIN, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (origin TEXT PRIMARY KEY, size INTEGER NOT NULL,
                                 root BLOB NOT NULL, note BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS conflict (note BLOB PRIMARY KEY);
"""


@dataclass(frozen=True)
class AddCheckpoint:
    """A request: the size that the client believes was cosigned last, a consistency proof from that
    size (hashes of 32 bytes), and the checkpoint."""

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
            raise ParseError(
                f"add-checkpoint: expected at most {MAX_BODY_BYTES} bytes, got {len(body)}"
            )
        head, separator, note = body.partition(b"\n\n")
        first, *lines = decode_text(head).split("\n")
        if not separator or not first.startswith("old ") or len(lines) > MAX_PROOF_LINES:
            raise ParseError(
                'add-checkpoint: expected the line "old SIZE", at most '
                f"{MAX_PROOF_LINES} proof lines, an empty line and a checkpoint, got another form"
            )
        proof = tuple(from_base64(line, "proof") for line in lines)
        if any(len(digest) != HASH_BYTES for digest in proof):
            raise ParseError(
                "add-checkpoint: proof: expected hashes of 32 bytes, got one of another length"
            )
        return cls(from_decimal(first[4:], "old size"), proof, note)


@dataclass(frozen=True)
class WitnessAnswer:
    """An HTTP answer: status, body and exact media type."""

    status: int
    body: bytes
    media_type: str = PLAIN


class _Conflict(UmayError):
    """The client's old size is not the size that was cosigned last, which is `size`."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Witness:
    """Cosigns checkpoints. `logs` maps origins to verifier keys.

    `confirm` is an additional check before each cosignature: it raises Unavailable for "not yet"
    and Refused for "never".
    """

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
        """Raises UsageError if `path` cannot be used, Unavailable if for example the disk is full,
        ParseError for a malformed name."""
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
        self._warn = RepeatLimiter(logger.warning)

    def close(self) -> None:
        self._database.close()

    def add(self, body: bytes) -> WitnessAnswer:
        """The answer to POST add-checkpoint."""
        try:
            request = AddCheckpoint.from_bytes(body)
            head, note = checkpoints.parse(request.note)
            if request.old > head.size:
                return self._unless_unknown(head, note) or _plain(400, _too_small(request, head))
            return self._unless_unknown(head, note) or self._cosigned(request, head, note)
        except ParseError as error:
            return _plain(400, str(error))

    def _unless_unknown(self, head: Checkpoint, note: Note) -> WitnessAnswer | None:
        log = self._logs.get(head.origin)
        if log is None:
            return _plain(404, f"this witness does not follow the log {head.origin}")
        try:
            note.verify(log)
        except NotAuthentic as error:
            return _plain(403, str(error))
        return None

    def _cosigned(self, request: AddCheckpoint, head: Checkpoint, note: Note) -> WitnessAnswer:
        try:
            self._confirm(head)
            self._kept(request, head)
        except _Conflict as conflict:
            return WitnessAnswer(409, b"%d\n" % conflict.size, SIZE)
        except LogError as error:
            return _plain(422, str(error))
        except Refused as error:
            return _plain(403, str(error))
        except Unavailable as error:
            return _plain(503, str(error))
        line = cosign(note.text, name=self._name, key=self._key, now=int(self._clock()))
        return WitnessAnswer(200, line.to_line().encode())

    def _kept(self, request: AddCheckpoint, head: Checkpoint) -> None:
        """Keep the checkpoint on disk before it is cosigned: a witness that forgets one could be
        led to contradict itself."""
        try:
            self._remember(request, head)
        except Unavailable as error:
            self._warn(f"a checkpoint of {head.origin} was not cosigned: {error}")
            raise

    def _remember(self, request: AddCheckpoint, head: Checkpoint) -> None:
        """Raises _Conflict or LogError; then only the conflict is kept."""
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
        """Keep a note that may prove a fork of the log."""
        count = "SELECT COUNT(*) FROM conflict"
        if self._database.execute(count).fetchone()[0] < MAX_CONFLICTS:
            self._database.execute("INSERT OR IGNORE INTO conflict VALUES (?)", (note,))

    def conflicts(self) -> list[bytes]:
        """Notes that the logs signed and that do not continue what was cosigned."""
        with self._lock:
            rows = self._database.execute("SELECT note FROM conflict").fetchall()
        return [bytes(row[0]) for row in rows]


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction. A refusal keeps what was written before it, which is only the conflict."""
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


def _too_small(request: AddCheckpoint, head: Checkpoint) -> str:
    return f"add-checkpoint: expected a checkpoint of at least size {request.old}, got {head.size}"


def _plain(status: int, text: str) -> WitnessAnswer:
    return WitnessAnswer(status, text.encode() + b"\n")
