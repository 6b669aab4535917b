"""Measures sessions: how many a guest makes in a second, and what one costs a client.

The quotes are those of the simulator, which takes about a millisecond for one. Real hardware takes
longer, so its quotes come less often; each still serves as many as 256 clients. Time on the
processor stands beside the time on the clock, because other programs change only the second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from attestation import wire
from attestation.channel.client import ClientRequest
from attestation.channel.server import KeyRing
from attestation.formats.session import MAX_SESSIONS_PER_QUOTE, SessionRequest
from attestation.verify.verifier import Presented, Verifier
from benchmarks._sealed_server import booted
from benchmarks._serving import served
from client_sdk.transport import Transport
from enclave.guest.sessions import Sessions
from tests.helpers.world import NOW, World

X_WING = 0x647A
BATCHES = 16
CONNECTIONS = 128
EACH = 16
RUNS = 30


def run() -> Iterator[dict[str, Any]]:
    yield from _in_one_process()
    yield from _over_http()
    yield from _verification()
    yield from _sealing()


def _in_one_process() -> Iterator[dict[str, Any]]:
    """Keys, tree and quote alone, with as many clients waiting as one quote can serve."""
    count = BATCHES * MAX_SESSIONS_PER_QUOTE
    with tempfile.TemporaryDirectory() as directory:
        seconds, busy = asyncio.run(_opened(Path(directory)))
    yield _figure("sessions-per-second, simulated quotes", count / seconds, "1/s", n=count)
    yield _figure("cpu-per-session, simulated quotes", busy / count * 1000, "ms", n=count)


async def _opened(directory: Path) -> tuple[float, float]:
    guest = await booted(directory, 1)
    sessions = Sessions(guest.epochs, guest.platform)
    begun, busy = perf_counter(), process_time()
    for _ in range(BATCHES):
        asked = [SessionRequest(bytes(32), X_WING) for _ in range(MAX_SESSIONS_PER_QUOTE)]
        await asyncio.gather(*(sessions.open(one) for one in asked))
    spent = perf_counter() - begun, process_time() - busy
    await guest.engine.close()
    return spent


def _over_http() -> Iterator[dict[str, Any]]:
    """Through the guest's server, from another process."""
    with served(1) as (url, pid):
        boot = json.loads(Transport().get(url + wire.LISTING))["boots"][0]
        begun, busy = perf_counter(), _cpu_seconds(pid)
        asyncio.run(_all_connections(int(url.rpartition(":")[2]), f"{wire.base(boot)}session"))
        seconds, busy = perf_counter() - begun, _cpu_seconds(pid) - busy
    count = CONNECTIONS * EACH
    where = f"simulated quotes, HTTP, {CONNECTIONS} connections"
    yield _figure(f"sessions-per-second, {where}", count / seconds, "1/s", n=count)
    yield _figure(f"cpu-per-session, {where}", busy / count * 1000, "ms", n=count)


def _cpu_seconds(pid: int) -> float:
    """Of a process so far, the simulator's quotes included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _all_connections(port: int, path: str) -> None:
    body = SessionRequest(bytes(32), X_WING).to_bytes()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    await asyncio.gather(*(_one(port, head.encode() + body) for _ in range(CONNECTIONS)))


async def _one(port: int, request: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(EACH):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(head.decode())
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()


def _verification() -> Iterator[dict[str, Any]]:
    """A client that knows the machine and the vendors' documents verifies it again. Each session
    has a new quote."""
    with tempfile.TemporaryDirectory() as directory:
        world = World.start(Path(directory))
    check = Verifier(world.policy, remember=0)
    bare, anchor = world.logged(world.presented())
    new = [
        dataclasses.replace(bare, session=world.session(number.to_bytes(32, "big")))
        for number in range(RUNS)
    ]

    def verify(presented: Presented) -> object:
        return check.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)

    verify(bare)
    without = _median_ms(lambda: verify(bare))
    waiting = iter(new)
    within = _median_ms(lambda: verify(next(waiting)))
    yield _figure(
        "verify-with-session", within, "ms", n=RUNS, peer="without a session", than=without
    )


def _sealing() -> Iterator[dict[str, Any]]:
    ring = KeyRing()
    epoch = ring.open_epoch()
    configs = [config.to_bytes() for config in epoch.configs]
    session = ring.sessions.open(X_WING, epoch.guard)

    def sealed(session: bytes | None) -> bytes:
        return ClientRequest(configs, pq="required", session=session).seal(bytes(1024))

    def opened(session: bytes | None) -> object:
        request = ring.request(chunked=True, to_session=session is not None)
        return request.open(sealed(session))

    peer = "to the epoch's key alone"
    for name, work in (("seal", sealed), ("seal-and-open", opened)):
        with_session, without = (_median_ms(partial(work, key)) for key in (session, None))
        yield _figure(f"{name}, to a session", with_session, "ms", n=RUNS, peer=peer, than=without)
    sizes = len(sealed(session)), len(sealed(None))
    yield _figure(
        "request of 1 KiB, to a session", sizes[0], "bytes", n=1, peer=peer, than=sizes[1]
    )


def _median_ms(work: Callable[[], object]) -> float:
    """Of the time on the processor."""
    times = []
    for _ in range(RUNS):
        begun = process_time()
        work()
        times.append((process_time() - begun) * 1000)
    return median(times)


def _figure(
    name: str, value: float, unit: str, *, n: int, peer: str | None = None, than: float = 0
) -> dict[str, Any]:
    figure: dict[str, Any] = {"bench": name, "value": round(value, 3), "unit": unit, "n": n}
    return figure if peer is None else {**figure, "peer": peer, "ratio": round(value / than, 3)}
