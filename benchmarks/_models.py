"""Models for the benchmarks of the engine: the shipped one, random ones, and the peers' classes.

A random model has the shipped one's tokenizer and template. Its weights say nothing, but its
matrices cost as much as those of a trained model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import enclave.guest
from enclave.guest.engines.weights import tensors
from enclave.guest.model import ModelFiles, read_model

DEMO = Path(enclave.guest.__file__).parent / "demo_model"

TINY = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
"""5.6 million parameters."""


def demo() -> ModelFiles:
    return read_model(DEMO)


def random_model(sizes: Mapping[str, int]) -> ModelFiles:
    """A Llama of these sizes with random weights in bfloat16, the same ones each time."""
    model = demo()
    config = json.loads(bytes(model.files["config.json"])) | dict(sizes)
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(_settings(config), dtype=torch.bfloat16)
    weights = {name: value for name, value in made.state_dict().items() if "lm_head" not in name}
    files = {
        **model.files,
        "config.json": bytearray(json.dumps(config).encode()),
        "model.safetensors": bytearray(save(weights)),
    }
    return ModelFiles(files, model.manifest, model.digest)


def peer_model(model: ModelFiles, dtype: torch.dtype) -> Any:
    """The same model as an object of transformers, which has `generate`."""
    config = json.loads(bytes(model.files["config.json"]))
    made = AutoModelForCausalLM.from_config(_settings(config), dtype=dtype)
    made.load_state_dict(tensors(model.files), strict=False)
    made.tie_weights()
    return made.eval()


def _settings(config: dict[str, Any]) -> Any:
    settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    settings.tie_word_embeddings = True
    return settings
