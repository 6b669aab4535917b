"""Compares the slot engine with transformers: tokens per second with 1, 8 and 32 streams.

The peers are `generate`, with one static batch of equal prompts, which is its best case, and
`generate_batch`, which is the library's continuous batching. Both run on the same weights in the
same process, in turns with ours. Only ours gets prompts of different lengths, and streams its
answers. Every engine has as many slots as there are streams, one thread, and
float32, which is the faster dtype on a CPU without instructions for bfloat16.

    python -m benchmarks engine
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from benchmarks._models import (
    NO_END,
    TINY,
    continuous,
    demo,
    generate,
    peer_model,
    random_model,
)
from enclave.guest.engines.base import GenerateRequest, Message
from enclave.guest.engines.prompt import PromptEncoder
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import ModelFiles

STREAMS = (1, 8, 32)
TOKENS = 128
RUNS = 5
QUESTION = "Tell me a story about a guardian."


def run() -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for name, model in (("demo", demo()), ("tiny", random_model(TINY))):
        peers = Peers(model)
        for streams in STREAMS:
            rates = asyncio.run(_rates(model, streams, peers))
            for peer in ("generate", "continuous batching"):
                yield _figure(f"engine.{name}.streams_{streams}", rates, peer)


def _figure(bench: str, rates: dict[str, list[float]], peer: str) -> dict[str, Any]:
    ours, theirs = median(rates["ours"]), median(rates[peer])
    return {
        "bench": f"{bench}.{peer.replace(' ', '_')}",
        "value": round(ours, 1),
        "unit": "tokens/s",
        "peer": f"transformers' {peer}, {theirs:.1f} tokens/s",
        "ratio": round(ours / theirs, 2),
        "n": RUNS,
    }


async def _rates(model: ModelFiles, streams: int, peers: Peers) -> dict[str, list[float]]:
    """Tokens per second of each engine, measured in turns."""
    engine = TorchEngine(
        model, settings=TorchSettings(slots=streams, max_len=1024, dtype="float32")
    )
    await engine.start()
    found: dict[str, list[float]] = {"ours": [], "generate": [], "continuous batching": []}
    for _ in range(RUNS):
        began = time.perf_counter()
        counts = await asyncio.gather(*(one_answer(engine, n) for n in range(streams)))
        found["ours"].append(sum(counts) / (time.perf_counter() - began))
        found["generate"].append(_timed(peers.generate, streams))
        found["continuous batching"].append(_timed(peers.continuous, streams))
    await engine.close()
    return found


def _timed(work: Callable[[int], None], streams: int) -> float:
    began = time.perf_counter()
    work(streams)
    return streams * TOKENS / (time.perf_counter() - began)


async def one_answer(engine: TorchEngine, number: int) -> int:
    """The number of tokens in an answer."""
    request = GenerateRequest(
        messages=(Message("user", "Please, " * (number % 4) + QUESTION),),
        max_tokens=TOKENS,
        temperature=0.0,
        logit_bias=NO_END,
    )
    deltas = [delta async for delta in engine.generate(request)]
    usage = deltas[-1].usage
    assert usage is not None and usage.completion == TOKENS
    return usage.completion


class Peers:
    """transformers' own ways to answer."""

    def __init__(self, model: ModelFiles) -> None:
        self._model = peer_model(model, torch.float32)
        question = (Message("user", QUESTION),)
        self._ids = PromptEncoder(model.files).encode_chat(question, max_tokens=1024)

    def generate(self, streams: int) -> None:
        generate(self._model, [self._ids] * streams, TOKENS)

    def continuous(self, streams: int) -> None:
        continuous(self._model, [self._ids] * streams, TOKENS, batch_tokens=512)
