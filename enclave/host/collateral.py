"""Where an agent gets vendors' collateral: today a simulator, or a file kept by the host.

Fetchers for Intel's and NVIDIA's services are not written yet. Nothing here is trusted by
anyone: verifiers check every signature in it.
"""

from __future__ import annotations

import socket
from pathlib import Path

from attestation import cbor
from attestation.collateral import Collateral
from attestation.errors import ParseError, Unavailable

TIMEOUT_S = 30.0
MAX_BYTES = 8 << 20


def from_simulator(path: Path) -> Collateral:
    """What the simulated vendors publish today. Raises Unavailable or ParseError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(cbor.encode({0: "collateral"}))
            connection.shutdown(socket.SHUT_WR)
            data = bytearray()
            while len(data) <= MAX_BYTES and (part := connection.recv(1 << 16)):
                data += part
    except OSError as error:
        raise Unavailable(f"simulator: {error.strerror or error}") from None
    answer = cbor.decode_map(bytes(data), required=frozenset({0, 1}), limit=MAX_BYTES)
    if answer[0] != "ok" or not isinstance(answer[1], dict):
        raise ParseError("simulator: expected collateral parts")
    return Collateral(answer[1])


def from_file(path: Path) -> Collateral:
    """Collateral as one file (docs/spec/formats.md). Raises Unavailable or ParseError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"collateral: {path}: {error.strerror}") from None
    return Collateral.from_bytes(data)
