"""A log of release manifests on loopback, by the real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import Refused
from attestation.log.leaf import release_leaf
from attestation.log.submission import release_key
from attestation.net.serve import Server
from contracts.logservice import server
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store

KEY = Ed25519PrivateKey.generate()


def entry(item: bytes | Entry) -> Entry:
    if isinstance(item, Entry):
        return item
    return Entry(release_key(item), release_leaf(item).to_bytes(), (item,))


@contextmanager
def serving(
    directory: Path, batches: Sequence[Sequence[bytes | Entry]], name: str = "log"
) -> Iterator[str]:
    """Its address, `http://` and the log's origin; a checkpoint for each batch of manifests and
    entries."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        origin = f"127.0.0.1:{bound.getsockname()[1]}/{name}"
        with Store(Sqlite(directory), origin=origin, key=KEY) as store:
            for batch in batches:
                store.append([entry(item) for item in batch])

            def nothing(*_: object) -> None:
                raise Refused("parse", "closed", "no submissions here")

            app = server.create_app(store, admit=nothing, origin_path=f"/{name}")
            running = Server(app)
            thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
            thread.start()
            while not running.started:
                pass
            yield f"http://{origin}"
            running.should_exit = True
            thread.join()
