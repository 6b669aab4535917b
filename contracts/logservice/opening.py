"""What the options of `umay log serve` open: the database, and the witnesses."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from attestation.errors import UsageError
from contracts.logservice.cosigned import Witnesses
from contracts.logservice.database import Database, Sqlite
from contracts.logservice.store import Store
from contracts.logservice.witnessing import Witnessing, parse_witness


def witnessing(
    store: Store, witnesses: tuple[tuple[str, str], ...], enough: int | None
) -> Witnesses | None:
    """Asks the witnesses (URL and vkey each) in a thread of its own; None where there are none.
    Raises UsageError for a malformed one, and where `enough` is more than there are."""
    if enough is not None and enough > len(witnesses):
        text = f"--enough: expected at most the number of witnesses, {len(witnesses)}, got {enough}"
        raise UsageError(text)
    if not witnesses:
        return None
    peers = [parse_witness(*witness) for witness in witnesses]
    watched = Witnessing(store, peers, enough=enough)
    threading.Thread(target=watched.run, args=(threading.Event(),), daemon=True).start()
    return watched


def database(directory: Path | None, conninfo: str | None) -> Database:
    """The one of --dir and --database that was given. Raises UsageError for both or neither."""
    if (directory is None) == (conninfo is None):
        raise UsageError(
            "expected exactly one of --dir (SQLite) and --database (PostgreSQL), "
            f"got {'neither' if directory is None else 'both'}"
        )
    if directory is not None:
        return Sqlite(directory)
    from contracts.logservice.postgres import Postgres

    name = (conninfo or "").removeprefix("env:")
    if name == conninfo:
        return Postgres(name)
    if name not in os.environ:
        raise UsageError(
            f"--database env:{name}: expected an environment variable {name} with the "
            "PostgreSQL connection string, but it is not set"
        )
    return Postgres(os.environ[name])
