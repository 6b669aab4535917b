"""The simulator behind a Unix socket: one connection, one request, one answer.

The client writes one CBOR map and shuts its writing side down; the server answers one
CBOR map and closes. The socket is readable by its owner only.
"""

from __future__ import annotations

import os
import socket
import socketserver
from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.formats import cbor
from enclave.simulator.service import Simulator

MAX_REQUEST_BYTES = 64 * 1024
"""The longest request carries one quote, at most 16 KiB, and its changed fields."""

TIMEOUT_S = 10.0


class Server(socketserver.ThreadingUnixStreamServer):
    """Serves `simulator` at `path`, replacing a socket that nobody listens on any more."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, simulator: Simulator) -> None:
        self.simulator = simulator
        _clear(path)
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Handler)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        finally:
            os.umask(before)


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.settimeout(TIMEOUT_S)
        try:
            connection.sendall(cbor.encode(self._answer(_read(connection))))
        except OSError:
            return  # the client has gone; there is nobody to tell

    def _answer(self, data: bytes) -> dict[int, object]:
        try:
            request = cbor.decode_map(data, required=frozenset({0}), limit=MAX_REQUEST_BYTES)
        except ParseError as error:
            return {0: "error", 1: str(error)}
        return self.server.simulator.handle(request)


def _read(connection: socket.socket) -> bytes:
    data = bytearray()
    while len(data) <= MAX_REQUEST_BYTES and (part := connection.recv(65536)):
        data += part
    return bytes(data)


def _clear(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise UsageError(f"{path}: expected a free socket, another simulator listens there")
    path.unlink()
