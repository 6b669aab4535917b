"""Compares sealed with direct streaming from one server over loopback, which shows the cost of the
channel.

Both use the same engine. The peer is plain SSE. The pacing is "none", so every token is a sealed
chunk of its own of at least 512 bytes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.key_config import parse_key_list
from attestation.verify.verdict import VerifiedEnclave
from benchmarks._serving import served
from client_sdk import sse
from client_sdk.session import SealedExchange
from client_sdk.transport import Transport
from tests.helpers.fake_enclave import verified

STREAMS = (1, 8, 32)
TOKENS = 96
RUNS = 3
BODY = json.dumps(
    {
        "model": "umay-demo",
        "messages": [{"role": "user", "content": "Tell me a story about a guardian."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "logit_bias": {"2": -100},
    }
).encode()
Ask = Callable[[], list[float]]


def run() -> Iterator[dict[str, Any]]:
    with served(max(STREAMS)) as (base, _):
        transport = Transport()
        boot, enclave = _enclave(transport, base)
        for streams in STREAMS:
            yield from _compare(streams, transport, base, boot, enclave)


def _enclave(transport: Transport, base: str) -> tuple[str, VerifiedEnclave]:
    """The guest's boot and keys. They are not verified here; the benchmark `verify` measures
    that."""
    boot = json.loads(transport.get(base + wire.LISTING))["boots"][0]
    keys = parse_key_list(transport.get(f"{base}{wire.base(boot)}ohttp-keys"))
    return boot, verified(keys, Ed25519PrivateKey.generate(), bytes.fromhex(boot))


def _compare(
    streams: int, transport: Transport, base: str, boot: str, enclave: VerifiedEnclave
) -> Iterator[dict[str, Any]]:
    def sealed() -> list[float]:
        return _sealed(transport, f"{base}{wire.base(boot)}ohttp", enclave)

    def direct() -> list[float]:
        return _direct(transport, f"{base}/plain")

    ours, peers = [], []
    gaps: dict[str, list[float]] = {"sealed": [], "direct": []}
    _together(direct, streams), _together(sealed, streams)  # warm
    for _ in range(RUNS):
        rate, found = _together(sealed, streams)
        ours.append(rate)
        gaps["sealed"] += found
        rate, found = _together(direct, streams)
        peers.append(rate)
        gaps["direct"] += found
    yield {
        "bench": f"sealed-tokens-{streams}-streams",
        "value": round(median(ours)),
        "unit": "tokens/s",
        "peer": f"plain SSE, {median(peers):.0f} tokens/s",
        "ratio": round(median(ours) / median(peers), 3),
        "n": RUNS,
    }
    for name, part in (("p50", 49), ("p99", 98)):
        ours_ms, peer_ms = (quantiles(gaps[kind], n=100)[part] * 1000 for kind in gaps)
        yield {
            "bench": f"sealed-added-per-token-{name}-{streams}-streams",
            "value": round(ours_ms - peer_ms, 3),
            "unit": "ms",
            "peer": f"plain SSE, {peer_ms:.3f} ms between tokens",
            "ratio": round(ours_ms / peer_ms, 3),
            "n": len(gaps["sealed"]),
        }


def _together(ask: Ask, streams: int) -> tuple[float, list[float]]:
    """The tokens per second of all streams together, and each time between two tokens of a
    stream."""
    began = perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        arrivals = [task.result() for task in [pool.submit(ask) for _ in range(streams)]]
    taken = perf_counter() - began
    gaps = [b - a for times in arrivals for a, b in itertools.pairwise(times)]
    return sum(map(len, arrivals)) / taken, gaps


def _sealed(transport: Transport, url: str, enclave: VerifiedEnclave) -> list[float]:
    headers = ((b"content-type", wire.JSON.encode()), (wire.PACING_FIELD, b"none"))
    request = bhttp.Request("POST", wire.CHAT, headers, BODY)
    exchange = SealedExchange(enclave, request, pq="required", now=int(time.time()))
    stream = transport.stream(url, exchange.body, wire.sealed_headers(exchange.media_type))
    pieces = (
        event.data
        for part in stream
        for event in exchange.push(part)
        if isinstance(event, bhttp.Content)
    )
    times = _times(pieces)
    exchange.finish()
    return times


def _direct(transport: Transport, url: str) -> list[float]:
    headers = {wire.CONTENT_TYPE: wire.JSON}
    return _times(iter(transport.stream(url, BODY, headers)))


def _times(pieces: Iterator[bytes]) -> list[float]:
    """The times at which the events of an answer arrived."""
    return [perf_counter() for _ in sse.data_of(pieces)]
