"""How the torch engine runs, and what it says that it is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from attestation.errors import UsageError
from enclave.guest.engines.base import EngineInfo
from enclave.guest.engines.grammar import LIBRARY, installed
from enclave.guest.engines.kv_cache import Shape
from enclave.guest.engines.loading import check_config

ENGINE = "umay-torch"
ENGINE_VERSION = "3"
"""It is increased whenever the same request could give other tokens than before."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LIBRARIES = ("torch", "transformers", "tokenizers", "jinja2", LIBRARY)
"""Libraries whose version may change an answer."""

FEATURES = frozenset({
    "chat", "completion", "temperature", "top_p", "top_k", "min_p", "seed", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "n", "logprobs", "response_format",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TorchSettings:
    """How the engine runs. The memory for keys and values is that of slots times max_len tokens.

    None for `max_len` or `dtype` stands for the model's own. None for `threads` stands for the
    value of the environment variable UMAY_TORCH_THREADS, or 1 without it. A step reads at most
    `prefill_piece` tokens of prompts, and while answers are written at most `prefill_beside` for
    each prompt: None stands for 16 on a CPU, and for 256 elsewhere. `deterministic` makes
    every step as wide and as long as it can be, so that logits do not depend on the other rows;
    this costs speed.
    """

    slots: int = 8
    max_len: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    threads: int | None = None
    max_waiting: int = 64
    prefill_piece: int = 512
    prefill_beside: int | None = None
    deterministic: bool = False

    @property
    def beside(self) -> int:
        return self.prefill_beside or (16 if self.device == "cpu" else 256)


def describe(config: dict[str, Any], digest: bytes, settings: TorchSettings) -> EngineInfo:
    """The EngineInfo, which is known before anything is loaded. Raises ParseError, UsageError."""
    kept = Shape.of(check_config(config))
    dtype = settings.dtype or config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise UsageError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype}")
    context = int(config["max_position_embeddings"])
    max_len = settings.max_len or context
    if not 1 < max_len <= context or settings.slots < 1 or settings.prefill_piece < 1:
        raise UsageError(
            f"engine: expected max_len from 2 to {context}, and at least 1 slot and prefill_piece "
            f"1, got {max_len}, {settings.slots} and {settings.prefill_piece}"
        )
    return EngineInfo(
        engine=ENGINE,
        version=ENGINE_VERSION,
        libraries=_versions(),
        device=settings.device.partition(":")[0],
        dtype=dtype,
        quantisation="none",
        flags=(
            ("attention", "sdpa"),
            ("deterministic", settings.deterministic),
            ("prefill_beside", settings.beside),
            ("prefill_piece", settings.prefill_piece),
            ("prefix_cache", False),
        ),
        slots=settings.slots,
        max_len=max_len,
        model_digest=digest,
        features=FEATURES,
        kv_bytes=kept.bytes(settings.slots * max_len, DTYPES[dtype]),
    )


def _versions() -> tuple[tuple[str, str], ...]:
    """Of the libraries that this guest has."""
    return tuple((name, version(name)) for name in LIBRARIES if name != LIBRARY or installed())
