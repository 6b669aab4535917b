"""Small models with random weights, in any architecture that the engine runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM

import enclave.guest
from enclave.guest.engines.loading import ARCHITECTURES, library_settings
from enclave.guest.model import ModelFiles, read_model

DEMO = read_model(Path(enclave.guest.__file__).parent / "demo_model")
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "sliding_window": None,
}
"""Weights of this range give answers that do not repeat one token."""


def random_model(kind: str, seed: int = 1, **changes: Any) -> tuple[ModelFiles, Any]:
    """The files, with the demo model's tokenizer, and the library's own model in float32. A change
    to ... leaves the field out of config.json."""
    config = {"model_type": kind, "architectures": [ARCHITECTURES[kind]], "dtype": "float32",
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    config |= {key: value for key, value in (SIZES | changes).items() if value is not ...}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(library_settings(config))
    for name, value in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(value, mean=float("norm" in name), std=0.2)
    tied = model.config.tie_word_embeddings
    weights = {n: v for n, v in model.state_dict().items() if not (tied and "lm_head" in n)}
    files = DEMO.files | {
        "config.json": bytearray(json.dumps(config).encode()),
        "model.safetensors": bytearray(save(weights)),
    }
    return ModelFiles(files, DEMO.manifest, DEMO.digest), model.eval()
