"""Makes a model from its bytes, and compares it with the library's own before it serves.

No code of the model runs, and no file is opened. A configuration is refused if it asks for
something with which our forward pass was not compared (remote code, quantisation, sliding windows,
frequencies that depend on the length).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attestation.errors import ParseError
from enclave.guest.engines.base import Delta, EngineFailed, FieldRefused, TokenLogprob
from enclave.guest.engines.decoder import ACTIVATIONS, Decoder
from enclave.guest.engines.draw import ID_BITS
from enclave.guest.engines.sampling import Sampler, Sampling
from enclave.guest.engines.slots import Job, Scheduler
from enclave.guest.engines.text import Detokenizer, StopFilter
from enclave.guest.engines.weights import check_shapes, tensors

ARCHITECTURES = {
    "gemma": "GemmaForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Decoders with full attention, whose answers were compared with those of `generate`."""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Frequencies that are the same for every length of a text."""

SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
)
"""Numbers that every config.json must have."""

UNSUPPORTED = (
    "auto_map",
    "per_layer_config",
    "quantization_config",
    "use_bidirectional_attention",
    "use_sliding_window",
)
"""Keys that change what the library computes, or how."""

SELF_TEST_TOKENS = 8

SELF_TEST_GAP = 0.1
"""A difference of logits (root mean square), as a part of their own spread. In bfloat16 another
shape of the batch makes about 0.01."""


def check_config(config: Mapping[str, Any]) -> Any:
    """The library's configuration object, with its defaults. Raises ParseError for a configuration
    that this engine does not run."""
    kind = config.get("model_type")
    if (
        not isinstance(kind, str)
        or kind not in ARCHITECTURES
        or config.get("architectures") != [ARCHITECTURES[kind]]
    ):
        known = ", ".join(ARCHITECTURES.values())
        raise ParseError(
            f"config.json: model_type and architectures: expected one of {known}, got {kind!r}"
        )
    for name in UNSUPPORTED:
        if config.get(name):
            raise ParseError(
                f"config.json: expected no {name}, got one; this engine does not support it"
            )
    for name in SIZES:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ParseError(f"config.json: {name}: expected a positive integer, got another value")
    settings = library_settings(config)
    _check_settings(settings)
    return settings


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


def library_settings(config: Mapping[str, Any]) -> Any:
    """The library's configuration object, with its defaults. Raises ParseError."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    except Exception as error:  # the library raises many kinds
        raise ParseError(
            "config.json: expected a configuration that the library transformers takes, got one "
            f"that it refuses with {type(error).__name__}"
        ) from None


def _check_settings(settings: Any) -> None:
    """Raises ParseError, also where only a default of the library is what this engine lacks."""
    rope = settings.rope_parameters
    layers = getattr(settings, "layer_types", None) or ()
    for name, got, known in (
        ("is_causal", getattr(settings, "is_causal", True), (True,)),
        ("sliding_window", getattr(settings, "sliding_window", None), (None,)),
        ("hidden_act", settings.hidden_act, tuple(ACTIVATIONS)),
        ("rope_type", rope["rope_type"], ROPE_TYPES),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), (1.0,)),
        *(("layer_types", kind, ("full_attention",)) for kind in layers),
    ):
        if got not in known:
            words = ", ".join("null" if one is None else str(one) for one in known)
            raise ParseError(
                f"config.json: {name}: expected one of {words}, got {got}; this engine supports no "
                "other"
            )
    heads, shared = settings.num_attention_heads, settings.num_key_value_heads or 1
    if heads % shared:
        raise ParseError(
            "config.json: num_attention_heads: expected a multiple of num_key_value_heads, "
            f"{shared}, got {heads}"
        )
    if settings.vocab_size >> ID_BITS:
        raise ParseError(
            f"config.json: vocab_size: expected less than {1 << ID_BITS}, got {settings.vocab_size}"
        )


@dataclass(frozen=True)
class Expected:
    """What the library itself answers greedily to `prompt`: the tokens, and the logits of each."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


def load_model(
    config: Mapping[str, Any],
    files: Mapping[str, bytearray],
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_len: int,
    prompt: list[int],
) -> tuple[Decoder, Expected]:
    """The model, and what the library's own answers to `prompt` with the same weights.

    Raises ParseError, EngineFailed.
    """
    settings = library_settings(config)
    weights = {name: value.to(device, dtype) for name, value in tensors(files).items()}
    model = _library_model(settings, weights)
    expected = _answered(model, prompt)
    rotary, weights = model.model.rotary_emb, dict(model.state_dict())
    del model  # or its tensors are held twice
    decoder = Decoder(settings, weights, rotary, max_len=max_len)
    if weights:
        raise EngineFailed(f"engine: expected to use every tensor, did not use {min(weights)!r}")
    return decoder, expected


def _library_model(settings: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The library's model in evaluation mode, with these tensors as its parameters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    _assign(model, weights)
    # What is not stored in the files has no data yet, and must be float32 whatever the weights are.
    device = next(iter(weights.values())).device
    if hasattr(model.model.embed_tokens, "embed_scale"):
        scale = model.model.embed_tokens.scalar_embed_scale
        model.model.embed_tokens.embed_scale = torch.tensor(scale, device=device)
    model.model.rotary_emb = type(model.model.rotary_emb)(settings).to(device)
    return model.eval().requires_grad_(False)


def _assign(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Replaces the parameters by the tensors. Every name and shape must match."""
    tied = "lm_head.weight" not in weights and model.config.tie_word_embeddings
    if tied:
        weights["lm_head.weight"] = weights.get("model.embed_tokens.weight", torch.empty(0))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes(weights, expected)
    model.load_state_dict(weights, strict=True, assign=True)
    if tied:
        model.tie_weights()


@torch.inference_mode()
def _answered(model: Any, prompt: list[int]) -> Expected:
    tokens: list[int] = []
    rows = []
    for _ in range(SELF_TEST_TOKENS):
        ids = torch.tensor([prompt + tokens], device=model.device)
        rows.append(model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float())
        tokens.append(int(rows[-1].argmax()))
    return Expected(prompt, tokens, torch.stack(rows).cpu())


def self_test(
    scheduler: Scheduler, expected: Expected, decode: Callable[[Sequence[int]], str]
) -> None:
    """Compares the logits of one short greedy answer through the slots with the library's, as long
    as the tokens are the same. Raises EngineFailed."""
    rows: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, token: int) -> TokenLogprob:
        rows.append(logits.float().cpu())
        return TokenLogprob(b"", 0.0, ())

    told: list[Delta | FieldRefused] = []
    sampler = Sampler(Sampling(), seed=0, logit_bias={}, device=scheduler.device)
    job = Job(expected.prompt, SELF_TEST_TOKENS, sampler, Detokenizer(decode), StopFilter(()),
              told.append, score=keep)  # fmt: skip
    scheduler.stop_ids, stop_ids = frozenset(), scheduler.stop_ids
    scheduler.add(job)
    while not scheduler.idle:
        scheduler.step()
    scheduler.stop_ids = stop_ids
    if not rows:
        raise EngineFailed("engine: expected finite logits from the self-test, got none")
    for ours, theirs, best in zip(rows, expected.logits, expected.tokens, strict=False):
        spread = max(float(theirs.std()), float(_size(theirs)) / 10)  # they may all be equal
        gap = float(_size(ours - theirs)) / spread
        if not gap <= SELF_TEST_GAP:  # a NaN fails too
            raise EngineFailed(
                f"engine: the self-test expected logits that differ from the library's by at most "
                f"{SELF_TEST_GAP} of their spread, got {gap:.2f}"
            )
        if int(ours.argmax()) != best:
            return


def _size(values: torch.Tensor) -> torch.Tensor:
    """The root of the mean square."""
    return values.square().mean().sqrt()
