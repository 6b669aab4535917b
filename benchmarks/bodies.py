"""How long one sealed request with a body of the largest size delays the other streams.

A guest with a context of 131,072 tokens, so that the limit is that of the channel (16 MiB), streams
small pieces, one every 10 ms, to one client in another process. Meanwhile another client sends one
such body. There are two figures, each the longest between two pieces of the stream: the processor
time that the guest's process spent, which does not depend on what else the machine does, and the
pause that the client saw, less that of a stream with nobody beside it. The peer is a guest that
reads all bodies by itself.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.key_config import parse_key_list
from client_sdk.session import SealedExchange
from client_sdk.transport import Transport
from enclave.guest import parsing
from enclave.guest.engines.base import Delta
from tests.helpers import guest_room
from tests.helpers.fake_enclave import verified

CONTEXT = 131_072
RUNS = 3
PIECES, PAUSE_S = 600, 0.01
MARGIN = 4096
"""Bytes of the message around the body."""


def _filled(begin: str, unit: str, end: str) -> bytes:
    room = wire.MAX_REQUEST_BYTES - MARGIN - len(begin) - len(end)
    return (begin + unit * (room // len(unit)) + end).encode()


def _chat(content: str) -> tuple[str, str]:
    begin = '{"model":"scripted","messages":[{"role":"user","content":"'
    return begin + content, '"}]}'


BODIES: dict[str, Callable[[], bytes]] = {
    "text": lambda: _filled(_chat("")[0], "word ", _chat("")[1]),
    "escapes": lambda: _filled(_chat("")[0], "\\u00e9", _chat("")[1]),
    "lists": lambda: _filled('{"model":"scripted","a":[', "[],", "[]]}"),
    "objects": lambda: _filled('{"model":"scripted","a":[', "{},", "{}]}"),
    "numbers": lambda: _filled('{"model":"scripted","a":[', "1.5,", "1]}"),
}


def run() -> Iterator[dict[str, Any]]:
    for name in BODIES:
        ours, peer = _delays(name, "pool"), _delays(name, "inline")
        for what, mine, other in zip(("processor", "pause"), ours, peer, strict=True):
            yield {
                "bench": f"bodies-{name}-{what}",
                "value": round(mine, 1),
                "unit": "ms",
                "peer": f"read in the guest's own process, {other:.1f} ms",
                "ratio": round(mine / other, 3),
                "n": RUNS,
            }


def _delays(name: str, how: str) -> tuple[float, float]:
    """Milliseconds of processor time, and of added pause; medians of RUNS."""
    found = [_delay(name, how) for _ in range(RUNS)]
    processor, pause = zip(*found, strict=True)
    return median(processor) * 1000, median(pause) * 1000


def _delay(name: str, how: str) -> tuple[float, float]:
    with _process("serve", how) as server:
        assert server.stdin and server.stdout
        room = _Room(server.stdout.readline().strip())
        room.ask(b"{" * 100_000)  # starts the process that reads
        alone = room.longest(None)
        with _process("send", room.base, name) as other:
            assert other.stdout
            other.stdout.readline()  # it is ready
            beside = room.longest(other)
            other.kill()
        server.stdin.close()
        return float(server.stdout.readline()), beside - alone


def _process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.bodies", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class _Room:
    """The client's side of one guest."""

    def __init__(self, base: str) -> None:
        boot = base.rstrip("/").rpartition("/")[2]
        keys = parse_key_list(Transport().get(f"{base}ohttp-keys"))
        self.base = base
        self._enclave = verified(keys, Ed25519PrivateKey.generate(), bytes.fromhex(boot))

    def ask(self, body: bytes) -> None:
        for _ in self._answer(body):
            pass

    def longest(self, beside: subprocess.Popen[str] | None) -> float:
        """Seconds: the longest pause of a stream. `beside` is told to send once the stream runs."""
        asked = {
            "model": "scripted",
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
        }
        pieces = self._answer(json.dumps(asked).encode())
        next(pieces)
        last, longest = time.perf_counter(), 0.0
        for count, _ in enumerate(pieces):
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            if count == 20 and beside is not None:
                assert beside.stdin
                beside.stdin.close()
        return longest

    def _answer(self, body: bytes) -> Iterator[bytes]:
        headers = ((b"content-type", b"application/json"), (wire.PACING_FIELD, b"none"))
        request = bhttp.Request("POST", wire.CHAT, headers, body)
        exchange = SealedExchange(self._enclave, request, pq="preferred", now=int(time.time()))
        headers_out = wire.sealed_headers(exchange.media_type)
        for part in Transport().stream(f"{self.base}ohttp", exchange.body, headers_out):
            for event in exchange.push(part):
                if isinstance(event, bhttp.Content):
                    yield event.data


def _send(base: str, name: str) -> None:
    """Sends one large body as soon as standard input ends."""
    room, body = _Room(base), BODIES[name]()
    print("ready", flush=True)
    sys.stdin.read()
    room.ask(body)


def _serve(how: str) -> None:
    """A guest with a scripted engine, until standard input ends. Then it prints the longest
    processor time between two pieces of one answer."""
    guest_room.ScriptedEngine.info = dataclasses.replace(guest_room.INFO, max_len=CONTEXT)
    guest_room.ScriptedAnswer = _Timed  # type: ignore[misc]
    if how == "inline":
        parsing.INLINE_BYTES = wire.MAX_REQUEST_BYTES
    with guest_room.room() as room:
        room.engine.script = guest_room.Script(pieces=["word "] * PIECES, pause=PAUSE_S)
        print(room.base, flush=True)
        sys.stdin.read()
        print(_Timed.longest, flush=True)


class _Timed(guest_room.ScriptedAnswer):
    longest = 0.0
    _last: float | None = None

    async def __anext__(self) -> Delta:
        piece = await super().__anext__()
        now = time.process_time()
        if self._last is not None:
            _Timed.longest = max(_Timed.longest, now - self._last)
        self._last = now
        return piece


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(sys.argv[2])
    else:
        _send(sys.argv[2], sys.argv[3])
