"""The database interface of the store, and SQLite: one process, one file, durable commits."""

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
"""`passing` lists the blobs that a retention setting may delete, with the day of their arrival."""

_WAL_PAGES = 16_384
"""64 MiB of write-ahead log before it is copied into the database; keys are spread over many
pages."""

_CACHE_KIB = 65_536
"""Keys are spread over their index, and pages outside the cache are written more than once."""


class Transaction(Protocol):
    """A transaction with the log's only write lock. Queries mark their arguments with `?`."""

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...

    def run(self, query: str, arguments: Sequence[object] = ()) -> int:
        """The number of rows changed."""

    def many(self, query: str, rows: Iterable[Sequence[object]]) -> None: ...

    def version(self) -> int:
        """The version of the schema; 0 if the database is new."""

    def create(self) -> None:
        """Create the tables of SCHEMA."""


class Database(Protocol):
    """A database whose reads see only committed data. `shared`: other processes may write too."""

    shared: bool

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Raises Unavailable."""

    def writing(self) -> AbstractContextManager[Transaction]:
        """A transaction: durable when the block ends, or rolled back. Raises Unavailable."""

    def close(self) -> None: ...


class Sqlite:
    """A directory with one database. Threads may share it; a second process cannot open it."""

    shared = False

    def __init__(self, directory: Path) -> None:
        """Raises Unavailable if another process has the directory open."""
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
    """Turns SQLite's errors about the machine, such as a full disk, into Unavailable, and errors
    about a file that is not an SQLite database into UsageError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"{path}: the database cannot be used now: {error}", again=True
        ) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # a fault in our code
        raise UsageError(f"{path}: expected an SQLite database of this program: {error}") from error


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
        raise Unavailable(
            f"{path}: another process has this log open; stop it, or use another --dir"
        ) from None
    return file
