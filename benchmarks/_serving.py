"""The server of benchmarks/_sealed_server.py as a process, for as long as a benchmark needs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from attestation import wire
from attestation.errors import Unavailable
from client_sdk.transport import Transport

START_SECONDS = 120.0


class Served(NamedTuple):
    url: str
    pid: int


@contextmanager
def served(slots: int) -> Iterator[Served]:
    """Once it serves. Raises Unavailable where it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-m", "benchmarks._sealed_server", port, str(slots)])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, server)
        yield Served(url, server.pid)
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    transport = Transport()
    while True:
        try:
            transport.get(url + wire.LISTING)
            return
        except Unavailable:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.2)
