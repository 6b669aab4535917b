"""A model from its bytes: architecture from the installed library, weights as views.

No code of the model runs and no file is opened. A configuration that asks for anything
the slot loop was not compared with (remote code, quantisation, sliding windows) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from attestation.errors import ParseError
from enclave.guest.engines.base import Delta, EngineFailed
from enclave.guest.engines.sampling import Sampler, Sampling
from enclave.guest.engines.slots import Job, Scheduler
from enclave.guest.engines.text import Detokenizer, StopFilter
from enclave.guest.engines.weights import tensors

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Full-attention decoders that were compared with `generate`; others belong in vLLM."""

SELF_TEST_TOKENS = 8

SELF_TEST_GAP = 0.5
"""Logits; bfloat16 with another batch shape differs by about 0.01 to 0.1."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ParseError for what this engine does not run."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES or config.get("architectures") != [ARCHITECTURES[kind]]:
        known = ", ".join(ARCHITECTURES.values())
        raise ParseError(f"config.json: expected one of {known}, got {kind!r}")
    for name in ("auto_map", "quantization_config"):
        if config.get(name):
            raise ParseError(f"config.json: {name} is not supported")
    if config.get("use_sliding_window"):
        raise ParseError("config.json: sliding windows are not supported")
    for name in ("vocab_size", "max_position_embeddings"):
        if type(config.get(name)) is not int or config[name] < 1:
            raise ParseError(f"config.json: {name}: expected a positive integer")


def load_model(
    config: Mapping[str, Any],
    files: Mapping[str, bytearray],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """The model in evaluation mode; on the CPU in its own dtype its weights are `files`."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    weights = {name: value.to(device, dtype) for name, value in tensors(files).items()}
    _assign(model, weights)
    # Its frequencies are computed, not stored: they are still without data here, and
    # stay in float32 whatever the weights are.
    model.model.rotary_emb = type(model.model.rotary_emb)(settings).to(device)
    return model.eval().requires_grad_(False)


def _assign(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Puts the tensors in place of the parameters; every name must match."""
    tied = "lm_head.weight" not in weights and model.config.tie_word_embeddings
    if tied:
        weights["lm_head.weight"] = weights.get("model.embed_tokens.weight", torch.empty(0))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != got:
        names = sorted(name for name, _ in expected.items() ^ got.items())
        raise ParseError(f"weights: name or shape does not fit the configuration: {names[0]!r}")
    model.load_state_dict(weights, strict=True, assign=True)
    if tied:
        model.tie_weights()


def self_test(
    model: Any, scheduler: Scheduler, prompt: list[int], decode: Callable[[Sequence[int]], str]
) -> None:
    """One short greedy answer through the slots, compared with one pass without a cache.

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
            f"engine: the self-test's tokens are {gap:.2f} logits below the best ones"
        )
