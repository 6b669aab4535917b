"""A process with an enclave and a hostile relay before it, on raw sockets.

Requests come to /SEED/umay/BOOT/…: the seed says what goes wrong. Prints one JSON line with the
port and the enclave's public keys, and for each line on standard input one JSON line with what it
saw: how often each question was executed, and whether a marker or a cookie came by in clear.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from tests.helpers.fake_enclave import FakeEnclave
from tests.helpers.raw_server import RawServer
from tests.hostile.faults import End, Exchange, Fault, fault_of

TARGET = re.compile(rb"([A-Z]+) /([0-9]+)(/umay/\S*) HTTP/1\.1")
MARKER = b"marker-"
QUESTION = re.compile(rb"question-([0-9]+)-")
SILENT_S = 60
FORWARDED = ("content-type", "incremental")


@dataclass
class Seen:
    executions: Counter[str] = field(default_factory=Counter)
    in_clear: int = 0
    cookies: int = 0
    connections: int = 0
    """Open ones."""


class Relay:
    """`upstream` is (host, port) of the enclave or of the network's own relay."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream, self.seen = upstream, Seen()
        self._met: Counter[int] = Counter()
        self._earlier = b""
        self._lock = threading.Lock()
        self.port = RawServer(self._serve).port

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.seen.connections += 1
        try:
            connection.settimeout(SILENT_S)
            self._exchange(connection)
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the client has gone, which is its right
        finally:
            with self._lock:
                self.seen.connections -= 1

    def _exchange(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        first = reader.readline(65536)
        if not first:
            return  # a client whose time was up before it asked
        headers = http.client.parse_headers(reader)
        body = reader.read(int(headers.get("content-length") or 0))
        self._look(first + bytes(headers) + body, headers)
        target = TARGET.match(first)
        assert target is not None, "expected a request that names its seed"
        method, seed, path = target[1].decode(), int(target[2]), target[3].decode()
        sealed = path.endswith("/ohttp")
        fault = self._fault(seed, sealed=sealed)
        answer = self._ask(fault, method, path, headers, body)
        for act in fault.play(answer):
            if isinstance(act, bytes):
                connection.sendall(act)
            elif isinstance(act, float):
                time.sleep(act)
            else:
                _end(connection, act)
        if sealed:
            self._earlier = answer.body

    def _fault(self, seed: int, *, sealed: bool) -> Fault:
        with self._lock:
            self._met[seed] += 1
            met = self._met[seed]
        fault = fault_of(seed)
        return Fault(seed, "none", once=True) if fault.once and met > 1 else fault

    def _ask(
        self, fault: Fault, method: str, path: str, headers: http.client.HTTPMessage, body: bytes
    ) -> Exchange:
        rng = random.Random(fault.seed)
        if fault.name == "lost request":
            return Exchange(502, "text/plain", b"", self._earlier, rng)
        if fault.name == "cut request":
            body = body[: rng.randrange(len(body) + 1)]
        if fault.name == "other request":
            body = rng.randbytes(len(body))
        for _ in range(2 if fault.name == "sent twice" else 1):
            status, media_type, answer = self._forward(method, path, headers, body)
        return Exchange(status, media_type, answer, self._earlier, rng)

    def _forward(
        self, method: str, path: str, headers: http.client.HTTPMessage, body: bytes
    ) -> tuple[int, str, bytes]:
        upstream = http.client.HTTPConnection(*self.upstream, timeout=SILENT_S)
        try:
            kept = {
                n: v for n, v in headers.items() if n.lower() in ("content-type", "incremental")
            }
            upstream.request(method, path, body, {**kept, "content-length": str(len(body))})
            answer = upstream.getresponse()
            return answer.status, answer.getheader("content-type") or "", answer.read()
        finally:
            upstream.close()

    def _look(self, request: bytes, headers: http.client.HTTPMessage) -> None:
        with self._lock:
            self.seen.in_clear += MARKER in request
            self.seen.cookies += "cookie" in headers


def _end(connection: socket.socket, how: End) -> None:
    if how is End.RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    raise ConnectionError("closed, as the fault wants it")


def main(commands: IO[str]) -> None:
    """With an argument HOST:PORT it stands before that, else before an enclave of its own."""
    enclave = None if sys.argv[1:] else FakeEnclave()
    if enclave is None:
        host, _, port = sys.argv[1].rpartition(":")
        relay, keys = Relay((host, int(port))), {}
    else:
        relay = Relay(("127.0.0.1", enclave.server.server_port))
        keys = {
            "configs": [config.hex() for config in enclave.verified.bundle.key_configs],
            "receipt_key": enclave.verified.bundle.receipt_key.hex(),
        }
    print(json.dumps({"port": relay.port, **keys}), flush=True)
    for _ in commands:
        if enclave is not None:
            asked = [QUESTION.findall(inner.content) for inner in list(enclave.script.seen)]
            relay.seen.executions = Counter(found[0].decode() for found in asked if found)
        most = max(relay.seen.executions.values(), default=0)
        again = [name for name, count in relay.seen.executions.items() if count > 1]
        print(
            json.dumps(
                {
                    "executed": sum(relay.seen.executions.values()),
                    "most": most,
                    "again": again[:20],
                    "in_clear": relay.seen.in_clear,
                    "cookies": relay.seen.cookies,
                    "connections": relay.seen.connections,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.stdin)
