"""What a long prompt costs the others: the time between two tokens of seven streams, alone and
while a prompt of 2,000 tokens is read beside them.

The peer is the same engine without the long prompt, so the ratio is what the others notice. Only
times until the long prompt's first token count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch

from benchmarks._models import NO_END, TINY, random_model
from enclave.guest.engines.base import GenerateRequest
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings

STREAMS, RUNS = 7, 5
LONG = 2000
CALM_TOKENS = 200


def run() -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    calm, busy, waited = asyncio.run(_measured())
    for name, part in (("p50", 49), ("p99", 98)):
        ours, peer = (quantiles(times, n=100)[part] * 1000 for times in (busy, calm))
        yield {
            "bench": f"engine.beside_a_long_prompt.{name}",
            "value": round(ours, 2),
            "unit": "ms between tokens",
            "peer": f"without it, {peer:.2f} ms",
            "ratio": round(ours / peer, 2),
            "n": len(busy),
        }
    yield {
        "bench": "engine.long_prompt.first_token",
        "value": round(sorted(waited)[RUNS // 2] * 1000),
        "unit": "ms",
        "n": RUNS,
    }


async def _measured() -> tuple[list[float], list[float], list[float]]:
    """Times between tokens without and with a long prompt, and how long its first token took."""
    settings = TorchSettings(slots=2 * (STREAMS + 1), dtype="float32")
    engine = TorchEngine(random_model(TINY | {"vocab_size": 1024}), settings=settings)
    await engine.start()
    calm: list[float] = []
    busy: list[float] = []
    waited: list[float] = []
    for _ in range(RUNS):
        arrivals: list[list[float]] = [[] for _ in range(STREAMS)]
        streams = [asyncio.create_task(_stream(engine, times)) for times in arrivals]
        while any(len(times) < CALM_TOKENS for times in arrivals):
            await asyncio.sleep(0.01)
        began = perf_counter()
        await _first_token(engine, LONG)
        ended = perf_counter()
        waited.append(ended - began)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        for times in arrivals:
            calm += [b - a for a, b in pairwise(times[1:]) if b < began]
            busy += [b - a for a, b in pairwise(times) if began < a and b < ended]
    await engine.close()
    return calm, busy, waited


def _request(tokens: int, most: int) -> GenerateRequest:
    ids = tuple(3 + number % 1000 for number in range(tokens))
    return GenerateRequest(prompt="", token_ids=ids, max_tokens=most, temperature=0.0,
                           logit_bias=NO_END)  # fmt: skip


async def _stream(engine: TorchEngine, times: list[float]) -> None:
    async with aclosing(engine.generate(_request(32, 1800))) as answer:
        async for _ in answer:
            times.append(perf_counter())


async def _first_token(engine: TorchEngine, tokens: int) -> None:
    async for _ in engine.generate(_request(tokens, 1)):
        return
