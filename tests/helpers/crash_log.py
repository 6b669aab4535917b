"""A log that appends without end and serves what it has.

`python -m tests.helpers.crash_log WHERE ORIGIN PORT`: WHERE is a directory for SQLite, or a
connection string of PostgreSQL, which several of these may share.
Every batch that was committed is acknowledged by one line: the size after it.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import Refused, Unavailable
from attestation.net.serve import serve
from contracts.logservice import server
from contracts.logservice.database import Sqlite
from contracts.logservice.postgres import Postgres
from contracts.logservice.store import Entry, Store

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
BATCH = 37


def origin(port: str) -> str:
    return f"localhost:{port}/log"


def leaf(index: int) -> bytes:
    return b"leaf %d" % index


def main(where: str, origin: str, port: str) -> None:
    database = Postgres(where) if "host=" in where else Sqlite(Path(where))
    store = Store(database, origin=origin, key=KEY)

    def write() -> None:
        while True:
            try:
                at = store.size
                numbers = range(at, at + BATCH)
                store.append([Entry(n.to_bytes(32), leaf(n), (b"blob %d" % n,)) for n in numbers])
            except Unavailable:
                time.sleep(0.1)
                continue
            sys.stdout.write(f"{numbers.stop}\n")
            sys.stdout.flush()
            time.sleep(0.02)

    def nothing(*_: object, **__: object) -> None:
        raise Refused("parse", "closed", "this log takes no submissions")

    threading.Thread(target=write, daemon=True).start()
    app = server.create_app(store, admit=nothing)
    serve([(app, f"127.0.0.1:{port}")], ready=lambda urls: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
