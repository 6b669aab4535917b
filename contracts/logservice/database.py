"""What the store needs of a database, and SQLite: one process, one file, every commit durable."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from attestation.errors import Unavailable, UsageError
from attestation.files import check_own, own_directory

SCHEMA_VERSION = 2

SCHEMA = (
    "CREATE TABLE entry (position INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,"
    " leaf BLOB NOT NULL)",
    "CREATE TABLE tile (level INTEGER, number INTEGER, hashes BLOB NOT NULL,"
    " PRIMARY KEY (level, number))",
    "CREATE TABLE blob (digest BLOB PRIMARY KEY, content BLOB NOT NULL)",
    "CREATE TABLE passing (digest BLOB PRIMARY KEY, day INTEGER NOT NULL)",
    "CREATE TABLE record (position INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    "CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL)",
)
"""`passing` names the blobs that a retention setting may remove, with the day they came."""

_WAL_PAGES = 16_384
"""64 MiB of log before it is copied into the database: keys scatter over many pages."""

_CACHE_KIB = 65_536
"""Keys are scattered over their index: what does not fit is written more than once."""


class Transaction(Protocol):
    """One that holds the log's only write lock. Queries mark their arguments with `?`."""

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...

    def run(self, query: str, arguments: Sequence[object] = ()) -> int:
        """The number of rows changed."""

    def many(self, query: str, rows: Iterable[Sequence[object]]) -> None: ...

    def version(self) -> int:
        """Of the schema; 0 where there is none yet."""

    def create(self) -> None:
        """Lay out SCHEMA."""


class Database(Protocol):
    """Reads see what is committed. `shared`: other processes may write too."""

    shared: bool

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Raises Unavailable."""

    def writing(self) -> AbstractContextManager[Transaction]:
        """Committed and durable when it ends, or not at all. Raises Unavailable."""

    def close(self) -> None: ...


class Sqlite:
    """A directory with one database. Threads may share it; a second process may not open it."""

    shared = False

    def __init__(self, directory: Path) -> None:
        """Raises Unavailable when another process holds it."""
        own_directory(directory)
        self._held = _lock(directory / "lock")
        self._reading = threading.Lock()
        self._path = directory / "log.sqlite"
        with working(self._path):
            self._writer = _connect(self._path)
            self._reader = _connect(self._path)

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
        os.close(self._held)

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading, working(self._path):
            return self._reader.execute(query, arguments).fetchall()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with working(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteTransaction(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


class _SqliteTransaction:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(query, arguments).fetchall()

    def run(self, query: str, arguments: Sequence[object] = ()) -> int:
        return self._database.execute(query, arguments).rowcount

    def many(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        self._database.executemany(query, rows)

    def version(self) -> int:
        return int(self.all("PRAGMA user_version")[0][0])

    def create(self) -> None:
        for statement in SCHEMA:
            self.run(statement)
        self.run(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def working(path: Path) -> Iterator[None]:
    """Turns what SQLite says of this machine, as of a full disk, into Unavailable, and what is
    no database of its own into UsageError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path}: {error}", again=True) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # a fault of ours
        raise UsageError(f"{path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
        check_own(name)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return database


def _lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise Unavailable("log store: another process has it open") from None
    return file
