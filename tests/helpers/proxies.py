"""The local proxy on a loopback port, and raw requests to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from attestation.net.serve import Server
from client_sdk.client import Client
from client_sdk.proxy.app import create_app
from tests.helpers.waiting import HANG_S, wait_for

TOKEN = "test-token-0123456789"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def proxy_of(client: Client, **options: Any) -> Iterator[str]:
    """Its address, while it serves in a thread."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = Server(create_app(client, token=TOKEN, **options))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join()
    bound.close()


class Wire:
    """One connection, for requests as they are written."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._socket = socket.create_connection((url.hostname, url.port), timeout=HANG_S)

    def ask(self, head: str, body: bytes = b"", *, method: str = "GET") -> HTTPResponse:
        """`head` is the request line and the fields; its answer, read to its end."""
        lines = "\r\n".join(head.strip().splitlines())
        length = f"\r\nContent-Length: {len(body)}" if body else ""
        self._socket.sendall(f"{lines}{length}\r\n\r\n".encode() + body)
        answer = HTTPResponse(self._socket, method=method)
        answer.begin()
        answer.content = answer.read()  # type: ignore[attr-defined]
        return answer

    def close(self) -> None:
        self._socket.close()


@contextmanager
def wire_to(address: str) -> Iterator[Wire]:
    wire = Wire(address)
    yield wire
    wire.close()
