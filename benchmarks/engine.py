"""Compares the slot engine with `generate`: tokens per second with 1, 8 and 32 streams.

The peer is `generate` of the library transformers, on the same weights in the same process. With 1
stream it gets one prompt, otherwise one static batch of equal prompts, which is its best case. Only
the slot engine gets prompts of different lengths, and streams its answers.

    python -m benchmarks engine
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import enclave.guest
from enclave.guest.engines.base import GenerateRequest, Message
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import read_model

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
STREAMS = (1, 8, 32)
TOKENS = 128
RUNS = 3
QUESTION = "Tell me a story about a guardian."


async def one_answer(engine: TorchEngine, number: int) -> int:
    """The number of tokens in an answer. A story is longer than TOKENS, so all answers are equally
    long."""
    question = "Please, " * (number % 4) + QUESTION
    request = GenerateRequest(
        messages=(Message("user", question),), max_tokens=TOKENS, temperature=0.0
    )
    deltas = [delta async for delta in engine.generate(request)]
    return deltas[-1].usage.completion


async def measure_ours(streams: int) -> float:
    engine = TorchEngine(read_model(DEMO), settings=TorchSettings(slots=streams))
    await engine.start()
    rates = []
    for _ in range(RUNS):
        began = time.perf_counter()
        counts = await asyncio.gather(*(one_answer(engine, n) for n in range(streams)))
        rates.append(sum(counts) / (time.perf_counter() - began))
    await engine.close()
    return statistics.median(rates)


def measure_generate(streams: int) -> float:
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16)
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer([text] * streams, return_tensors="pt", add_special_tokens=False).input_ids
    rates = []
    for _ in range(RUNS):
        began = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                       min_new_tokens=TOKENS, max_new_tokens=TOKENS)  # fmt: skip
        rates.append(streams * TOKENS / (time.perf_counter() - began))
    return statistics.median(rates)


def run() -> Iterator[dict[str, Any]]:
    for streams in STREAMS:
        peer = measure_generate(streams)
        value = asyncio.run(measure_ours(streams))
        yield {
            "bench": f"engine.streams_{streams}",
            "value": round(value, 1),
            "unit": "tokens/s",
            "peer": "transformers.generate",
            "ratio": round(value / peer, 2),
            "n": RUNS,
        }
