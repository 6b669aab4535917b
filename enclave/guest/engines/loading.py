"""Makes a model from its bytes. The architecture is that of the installed library, and the weights
are views of the bytes.

No code of the model runs, and no file is opened. A configuration is refused if it asks for
something with which the slot scheduler was not compared (remote code, quantisation, sliding
windows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attestation.errors import ParseError
from enclave.guest.engines.base import Delta, EngineFailed
from enclave.guest.engines.sampling import Sampler, Sampling
from enclave.guest.engines.slots import Job, Scheduler
from enclave.guest.engines.text import Detokenizer, StopFilter
from enclave.guest.engines.weights import tensors

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Decoders with full attention, whose answers were compared with those of `generate`."""

SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
)
"""Numbers that every config.json must have."""

SELF_TEST_TOKENS = 8

SELF_TEST_GAP = 0.5
"""A difference of logits. In bfloat16 another shape of the batch changes them by about 0.01 to
0.1."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ParseError for a configuration that this engine does not run."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES or config.get("architectures") != [ARCHITECTURES[kind]]:
        known = ", ".join(ARCHITECTURES.values())
        raise ParseError(
            f"config.json: model_type and architectures: expected one of {known}, got {kind!r}"
        )
    for name in ("auto_map", "quantization_config"):
        if config.get(name):
            raise ParseError(
                f"config.json: expected no {name}, got one; this engine does not support it"
            )
    if config.get("use_sliding_window"):
        raise ParseError(
            "config.json: use_sliding_window: expected false, got true; this engine does not "
            "support sliding windows"
        )
    for name in SIZES:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ParseError(f"config.json: {name}: expected a positive integer, got another value")


def check_vocabulary(config: Mapping[str, Any], greatest_id: int) -> None:
    """Raises ParseError where the tokenizer has a token for which the model has no row: one text
    with it would stop the engine for everybody."""
    if greatest_id >= config["vocab_size"]:
        raise ParseError(
            f"tokenizer.json: expected token ids below the vocab_size of config.json, "
            f"{config['vocab_size']}, got {greatest_id}"
        )


def check_room(needed: int, device: torch.device) -> None:
    """Raises EngineFailed where the device has less free memory than keys and values may take, in
    bytes: a guest must not end in the middle of somebody's answer."""
    free = _free(device)
    if needed > free:
        raise EngineFailed(
            f"engine: expected {needed} bytes of free memory for the keys and values of all slots, "
            f"got {free}; give fewer slots or a smaller max_len in [engine] of the host config"
        )


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10


def load_model(
    config: Mapping[str, Any],
    files: Mapping[str, bytearray],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """The model in evaluation mode. On the CPU and in its own dtype, its weights are views of
    `files`."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    weights = {name: value.to(device, dtype) for name, value in tensors(files).items()}
    _assign(model, weights)
    # The frequencies are not stored in the files. They have no data yet, and must be float32
    # whatever the weights are.
    model.model.rotary_emb = type(model.model.rotary_emb)(settings).to(device)
    return model.eval().requires_grad_(False)


def _assign(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Replaces the parameters by the tensors. Every name and shape must match."""
    tied = "lm_head.weight" not in weights and model.config.tie_word_embeddings
    if tied:
        weights["lm_head.weight"] = weights.get("model.embed_tokens.weight", torch.empty(0))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != got:
        names = sorted(name for name, _ in expected.items() ^ got.items())
        raise ParseError(
            "weights: expected exactly the names and shapes of config.json, got a difference at "
            f"{names[0]!r}"
        )
    model.load_state_dict(weights, strict=True, assign=True)
    if tied:
        model.tie_weights()


def self_test(
    model: Any, scheduler: Scheduler, prompt: list[int], decode: Callable[[Sequence[int]], str]
) -> None:
    """Compares one short greedy answer through the slots with one pass without a cache.

    Raises EngineFailed.
    """
    told: list[Delta] = []
    sampler = Sampler(Sampling(), seed=0, logit_bias={}, device=model.device)
    scheduler.add(
        Job(prompt, SELF_TEST_TOKENS, sampler, Detokenizer(decode), StopFilter(()), told.append)
    )
    while not scheduler.idle:
        scheduler.step()
    tokens = [token for delta in told for token in delta.token_ids]
    if not tokens or any(token >= model.config.vocab_size for token in tokens):
        raise EngineFailed("engine: expected tokens from the self-test, got none")
    with torch.inference_mode():
        ids = torch.tensor([prompt + tokens], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(tokens, device=model.device)[:, None])[:, 0]
    gap = float((logits.max(1).values - chosen).max())
    if not gap <= SELF_TEST_GAP:  # a NaN fails too
        raise EngineFailed(
            f"engine: the self-test expected tokens within {SELF_TEST_GAP} logits of the best "
            f"ones, got a token {gap:.2f} logits below"
        )
