"""The log's database in PostgreSQL: several writers, one of which has the lock at a time.

A transaction begins with the log's advisory lock, so each writer continues what the previous one
committed; the primary keys would refuse a second tree even without the lock. A commit counts when
it is on the server's disk. A server that fails over to a copy without the last commits would lose
acknowledged entries, so replicas must be synchronous.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg

from attestation.errors import LogError, Unavailable, UsageError
from attestation.formats.digests import domain_digest
from contracts.logservice.database import SCHEMA, SCHEMA_VERSION, Transaction

CONNECT_SECONDS = 10
WAIT_MS = 30_000
"""Deadline in milliseconds for the lock and for one statement. A writer that is silent for this
long loses the lock."""

_BOUNDED = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
_LOCK = int.from_bytes(domain_digest("umay/log-writer/v1", b"")[:8], signed=True)


class Postgres:
    """A database that holds one log. Threads may share it, and other processes its server."""

    shared = True

    def __init__(self, conninfo: str) -> None:
        """`conninfo` is libpq's: a URL or keywords. Raises Unavailable, UsageError."""
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._reader: psycopg.Connection | None = None
        self._writer: psycopg.Connection | None = None
        self._reader = self._connect()

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows. A broken connection is opened again once."""
        with self._lock:
            for last in (False, True):
                try:
                    if self._reader is None or self._reader.closed:
                        self._reader = self._connect()
                    return self._reader.execute(_marked(query), arguments).fetchall()
                except psycopg.Error as error:
                    self._drop_reader()
                    if last or not isinstance(error, psycopg.OperationalError):
                        raise _unavailable(error) from None
        raise AssertionError

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One transaction. Only one thread may use it at a time, which the store ensures."""
        if self._writer is None or self._writer.closed or self._writer.broken:
            self._writer = self._connect()
        try:
            with self._writer.transaction(), self._writer.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                yield _PostgresTransaction(cursor)
        except psycopg.IntegrityError as error:
            raise LogError(
                "log store: expected the rows of this transaction to be new, but another writer "
                "has "
                f"stored them (SQLSTATE {error.sqlstate}); all servers of a log must share one "
                "PostgreSQL database and its advisory lock"
            ) from None
        except psycopg.Error as error:
            self._writer.close()
            raise _unavailable(error) from None

    def _connect(self) -> psycopg.Connection:
        try:
            connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                tcp_user_timeout=WAIT_MS,
            )
        except psycopg.OperationalError as error:
            raise _unavailable(error) from None
        except psycopg.Error as error:
            raise UsageError(
                "--database: expected a libpq connection string (a URL or keywords), got one that "
                f"cannot be read ({type(error).__name__})"
            ) from None
        _prepare(connection)
        return connection

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None


class _PostgresTransaction:
    def __init__(self, cursor: psycopg.Cursor) -> None:
        self._cursor = cursor

    def all(self, query: str, arguments: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._cursor.execute(_marked(query), arguments).fetchall()

    def run(self, query: str, arguments: Sequence[object] = ()) -> int:
        return self._cursor.execute(_marked(query), arguments).rowcount

    def many(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        self._cursor.executemany(_marked(query), rows)

    def version(self) -> int:
        if self.all("SELECT to_regclass('umay_log')") == [(None,)]:
            return 0
        return int(self.all("SELECT version FROM umay_log")[0][0])

    def create(self) -> None:
        for statement in SCHEMA:
            self.run(statement.replace("BLOB", "BYTEA").replace("INTEGER", "BIGINT"))
        self.run("CREATE TABLE umay_log (version BIGINT)")
        self.run("INSERT INTO umay_log VALUES (?)", (SCHEMA_VERSION,))


def _prepare(connection: psycopg.Connection) -> None:
    """Sets a deadline for everything. Raises UsageError for a server that acknowledges commits
    which it may lose."""
    for name in _BOUNDED:
        connection.execute("SELECT set_config(%s, %s, false)", (name, str(WAIT_MS)))
    for name in ("fsync", "synchronous_commit"):
        row = connection.execute("SELECT current_setting(%s) = 'off'", (name,)).fetchone()
        if row != (False,):
            connection.close()
            raise UsageError(
                f"--database: expected the PostgreSQL setting {name} = on, got off; with it off "
                "the "
                "server may lose acknowledged entries"
            )


def _marked(query: str) -> LiteralString:
    """psycopg marks arguments with %s; no query here holds a literal ? or %."""
    return query.replace("?", "%s")


def _unavailable(error: psycopg.Error) -> Unavailable:
    """The error without the server's text, which may contain a row."""
    if isinstance(error, psycopg.errors.DiskFull):
        return Unavailable("PostgreSQL: the disk of the database server is full", again=True)
    what = error.sqlstate or (str(error).splitlines() or [""])[0]
    return Unavailable(
        "PostgreSQL: expected an answer of the database server, got "
        f"{type(error).__name__} {what}; check --database and the server"
    )
