"""Models for the benchmarks of the engine, and how transformers answers with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

import enclave.guest
from enclave.guest.engines.loading import library_settings
from enclave.guest.engines.weights import tensors
from enclave.guest.model import ModelFiles, read_model
from tests.helpers import random_model as helper

DEMO = Path(enclave.guest.__file__).parent / "demo_model"

TINY = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
"""5.6 million parameters. Weights of this range repeat one token, so each is told as it comes."""

NO_END = {2: -100.0}
"""The bias that keeps these models' token of the end away, so that answers are equally long."""


def demo() -> ModelFiles:
    return read_model(DEMO)


def random_model(sizes: Mapping[str, Any]) -> ModelFiles:
    """A Llama of these sizes. Its weights say nothing, but cost as much as those of a trained
    model."""
    return helper.random_model("llama", **sizes)[0]


def peer_model(model: ModelFiles, dtype: torch.dtype) -> Any:
    """The same model, with tied embeddings, as an object of transformers."""
    settings = library_settings(json.loads(bytes(model.files["config.json"])))
    made = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    made.load_state_dict(tensors(model.files), strict=False)
    made.tie_weights()
    return made.eval()


def generate(library: Any, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    """`tokens` greedy tokens for each prompt, all of one length, as one static batch."""
    ids = torch.tensor(prompts, device=library.device)
    found = library.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens,
        max_new_tokens=tokens, pad_token_id=0,
    )  # fmt: skip
    assert found.shape[1] == ids.shape[1] + tokens


def continuous(
    library: Any, prompts: Sequence[Sequence[int]], tokens: int, *, batch_tokens: int
) -> None:
    """The same with the library's continuous batching."""
    pages = sum((len(prompt) + tokens) // 32 + 2 for prompt in prompts)
    found = library.generate_batch(
        prompts,
        GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=-1),
        ContinuousBatchingConfig(page_size=32, num_blocks=pages, max_batch_tokens=batch_tokens),
    )
    assert all(len(one.generated_tokens) == tokens for one in found.values())
