"""What both databases must do with blobs that may pass."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.logservice.database import Database
from contracts.logservice.store import Entry, Store


def forgets_passing_blobs(database: Database) -> None:
    day, key = 86_400, Ed25519PrivateKey.generate()
    now = [100.0 * day]
    with Store(database, origin="localhost/log", key=key, clock=lambda: now[0]) as store:
        store.append([Entry(b"a", b"leaf", (b"kept",), passing=(b"old", b"both"))])
        now[0] += 10 * day
        store.append([Entry(b"b", b"leaf", (b"both",), passing=(b"young", b"kept"))])
        now[0] += 1 * day
        assert (store.forget(11), store.forget(10)) == (0, 1)
        held = {blob: store.blob(sha256(blob).digest()) for blob in (b"kept", b"both", b"young")}
        assert all(held[blob] == blob for blob in held)
        assert store.blob(sha256(b"old").digest()) is None
        assert (store.size, store.leaf(0)) == (2, b"leaf")
