"""Times a model on this machine, through the engine that a guest runs and with its settings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from enclave.guest.engines.base import GenerateRequest
from enclave.guest.engines.embedding import EmbedRequest
from enclave.guest.engines.embedding_engine import EmbeddingEngine, EmbeddingSettings
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import ModelFiles

PROMPT = "What is a confidential virtual machine, and who has to be trusted?"
TOKENS = 16
"""Of each answer: enough to outlast the prompt, few enough for a slow machine."""

TEXTS = 16
"""That are turned into embeddings together."""

NEVER = -100.0
"""The bias of an end token, so that every answer has its full length."""


@dataclass(frozen=True)
class Timing:
    """Tokens per second of one answer alone, and of `slots` answers together."""

    dtype: str
    alone: float
    together: float
    slots: int

    @property
    def cost(self) -> float:
        """Seconds for one token alone and for one in each slot; the smaller is the faster."""
        return 1 / self.alone + self.slots / self.together

    def __str__(self) -> str:
        return (
            f"{self.dtype}: {self.alone:.1f} tokens/s alone, {self.together:.1f} in "
            f"{self.slots} answers together"
        )


def measure(
    files: ModelFiles, dtype: str, *, end_ids: tuple[int, ...], threads: int | None = None
) -> Timing:
    """Loads the model, tests it as a guest does, and times it. Raises EngineFailed."""
    settings = TorchSettings(dtype=dtype, threads=threads)
    return asyncio.run(_measure(files, settings, end_ids))


def measure_embeddings(files: ModelFiles, *, threads: int | None = None) -> Timing:
    """The same for a model that makes embeddings; tokens are those that are read."""
    return asyncio.run(_measure_embeddings(files, EmbeddingSettings(threads=threads)))


async def _measure_embeddings(files: ModelFiles, settings: EmbeddingSettings) -> Timing:
    engine = EmbeddingEngine(files, settings=settings)
    try:
        await engine.start()
        alone = await _read_rate(engine, 1)
        together = await _read_rate(engine, TEXTS)
    finally:
        await engine.close()
    return Timing(engine.info.dtype, alone, together, TEXTS)


async def _read_rate(engine: EmbeddingEngine, count: int) -> float:
    text = (0,) * min(TOKENS, engine.info.max_len // 2)  # whatever token that is
    began = time.perf_counter()
    found = await engine.embed(EmbedRequest(inputs=(text,) * count), client=b"")
    return found.tokens / (time.perf_counter() - began)


async def _measure(files: ModelFiles, settings: TorchSettings, end_ids: tuple[int, ...]) -> Timing:
    engine = TorchEngine(files, settings=settings)
    try:
        await engine.start()
        alone = await _rate(engine, 1, end_ids)
        together = await _rate(engine, settings.slots, end_ids)
    finally:
        await engine.close()
    return Timing(engine.info.dtype, alone, together, settings.slots)


async def _rate(engine: TorchEngine, count: int, end_ids: tuple[int, ...]) -> float:
    request = GenerateRequest(
        prompt=PROMPT, max_tokens=TOKENS, temperature=0.0, logit_bias=dict.fromkeys(end_ids, NEVER)
    )
    began = time.perf_counter()
    tokens = await asyncio.gather(*(_answer(engine, request) for _ in range(count)))
    return sum(tokens) / (time.perf_counter() - began)


async def _answer(engine: TorchEngine, request: GenerateRequest) -> int:
    return sum([len(delta.token_ids) async for delta in engine.generate(request)])
