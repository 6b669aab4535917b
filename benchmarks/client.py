"""The whole client beside the plain `openai` package: how long until the first token, how much CPU.

Ours: `connect(…).openai()` against a simulated network, through relay and agent, without pacing.
The peer: `openai.OpenAI` over plain HTTP, straight to a second server with the same engine. "Cold"
is a new client that must verify a machine first; "warm" has verified one.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import openai

from benchmarks._serving import served
from client_sdk import Client, connect, connect_async
from client_sdk.localnet.devnet import Network
from client_sdk.localnet.netfiles import GuestSpec

COLD, WARM, STREAMS, TOKENS = 9, 40, 5, 200
PLAIN_SLOTS = 8
GUESTS = (GuestSpec("ada", 1, 1),)
MODEL = "umay-demo"
QUESTION: list[Any] = [{"role": "user", "content": "Tell me a story about a guardian."}]


def run() -> Iterator[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        served(PLAIN_SLOTS) as (url, _),
        Network(Path(directory), guests=GUESTS) as network,
    ):
        network.start()
        plain = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
        yield from _cold(network, plain)
        with _client(network) as client:
            sealed = client.openai()
            yield from _warm(sealed, plain)
            yield from _cpu(sealed, plain)
        yield from _cpu_async(network, url)


def _client(network: Network) -> Client:
    return connect(network.files.directory, pacing="none")


def _first_token(api: openai.OpenAI) -> float:
    """Seconds until the first token; the rest is not read."""
    began = perf_counter()
    with _stream(api, 2) as stream:
        next(piece for piece in stream if piece.choices and piece.choices[0].delta.content)
        taken = perf_counter() - began
        for _ in stream:
            pass
    return taken


def _stream(api: Any, tokens: int) -> Any:
    """Of an OpenAI; of an AsyncOpenAI, what is awaited for it."""
    return api.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        stream=True,
        max_tokens=tokens,
        temperature=0,
        logit_bias={"2": -100},
    )


def _cold(network: Network, plain: openai.OpenAI) -> Iterator[dict[str, Any]]:
    def ours() -> float:
        began = perf_counter()
        with _client(network) as client:
            api = client.openai()
            made = perf_counter() - began
            return made + _first_token(api)

    yield _beside("client-first-token-cold", ours, lambda: _first_token(plain), COLD)


def _warm(sealed: openai.OpenAI, plain: openai.OpenAI) -> Iterator[dict[str, Any]]:
    _first_token(sealed), _first_token(plain)
    yield _beside(
        "client-first-token-warm", lambda: _first_token(sealed), lambda: _first_token(plain), WARM
    )


def _cpu(sealed: openai.OpenAI, plain: openai.OpenAI) -> Iterator[dict[str, Any]]:
    def seconds(api: openai.OpenAI) -> float:
        began = process_time()
        count = sum(bool(piece.choices) for piece in _stream(api, TOKENS))
        return (process_time() - began) / count * 1000

    yield _per_1000_tokens(
        "client-cpu-per-1000-tokens",
        *_pairs(lambda: seconds(sealed), lambda: seconds(plain), STREAMS),
    )


def _cpu_async(network: Network, url: str) -> Iterator[dict[str, Any]]:
    """The same with `connect_async(…).async_openai()` beside `openai.AsyncOpenAI`, in one loop."""

    async def seconds(api: openai.AsyncOpenAI) -> float:
        began = process_time()
        count = 0
        async for piece in await _stream(api, TOKENS):
            count += bool(piece.choices)
        return (process_time() - began) / count * 1000

    async def measured() -> list[tuple[float, float]]:
        where = network.files.directory
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as plain,
            connect_async(where, pacing="none") as client,
        ):
            sealed = client.async_openai()
            await seconds(sealed), await seconds(plain)
            return [(await seconds(sealed), await seconds(plain)) for _ in range(STREAMS)]

    ours, peer = zip(*asyncio.run(measured()), strict=True)
    yield _per_1000_tokens("client-cpu-per-1000-tokens-async", ours, peer)


def _per_1000_tokens(name: str, ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    return {
        "bench": name,
        "value": round(median(ours), 3),
        "unit": "s",
        "peer": f"openai over plain HTTP, {median(peer):.3f} s",
        "ratio": round(median(ours) / median(peer), 2),
        "n": STREAMS,
    }


def _beside(
    name: str, ours: Callable[[], float], plain: Callable[[], float], runs: int
) -> dict[str, Any]:
    mine, peer = _pairs(ours, plain, runs)
    return {
        "bench": name,
        "value": round(median(mine) * 1000, 1),
        "unit": "ms",
        "peer": f"openai over plain HTTP, {median(peer) * 1000:.1f} ms",
        "ratio": round(median(mine) / median(peer), 2),
        "added_ms": round((median(mine) - median(peer)) * 1000, 1),
        "n": runs,
    }


def _pairs(
    ours: Callable[[], float], plain: Callable[[], float], runs: int
) -> tuple[list[float], list[float]]:
    """In turn, so that both meet the same load."""
    found = [(ours(), plain()) for _ in range(runs)]
    return [pair[0] for pair in found], [pair[1] for pair in found]
