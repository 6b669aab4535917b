"""The architectures that can be imported: names of tensors in GGUF and in safetensors, and the
config.json that the settings of the file amount to.

The names are those of llama.cpp (gguf-py) and of transformers. llama.cpp stores the rows of the
query and key projections of `llama` in another order, for its own form of rotary embedding;
`restored` undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from enclave.importer.fields import Fields
from enclave.importer.gguf_file import Floats, Gguf, Tensor

OUTPUT = "output.weight"
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMED = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
DEFAULT_ROPE_THETA = 10000.0
"""What llama.cpp takes where a file does not say."""

_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.weight")


@dataclass(frozen=True)
class Architecture:
    """`interleaved` names the projections whose rows have to be put in order."""

    model_type: str
    class_name: str
    block: Mapping[str, str]
    interleaved: frozenset[str] = frozenset()


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", BLOCK, frozenset({"attn_q", "attn_k"})),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", BLOCK | NORMED),
}
"""By `general.architecture`. TorchEngine runs these and more (engines/loading.py)."""


def architecture_of(fields: Fields) -> Architecture:
    """Raises ParseError, which names what can be imported."""
    name = fields.text("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ParseError(f"GGUF: general.architecture: expected one of {known}, got {name!r}")
    return ARCHITECTURES[name]


def config_of(file: Gguf, fields: Fields) -> dict[str, Any]:
    """The config.json, without dtype and tokens. Raises ParseError for settings that are absent,
    or that this import does not understand."""
    kind = architecture_of(fields)
    prefix = fields.text("general.architecture")
    width, heads = fields.integer(f"{prefix}.embedding_length"), _heads(fields, prefix)
    config = {
        "architectures": [kind.class_name],
        "model_type": kind.model_type,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": _head_width(fields, prefix, width // heads),
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": fields.integer(f"{prefix}.feed_forward_length"),
        "max_position_embeddings": fields.integer(f"{prefix}.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": fields.integer(f"{prefix}.block_count"),
        "num_key_value_heads": _key_heads(fields, prefix, heads),
        "rms_norm_eps": fields.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {
            "rope_theta": fields.number(f"{prefix}.rope.freq_base", DEFAULT_ROPE_THETA),
            "rope_type": "default",
        },
        "tie_word_embeddings": OUTPUT not in file.tensors,
        "use_cache": True,
        "vocab_size": _rows(file, fields, prefix),
    }
    fields.finish(f"{prefix}.")
    return config | ({"mlp_bias": False} if kind.model_type == "llama" else {})


def tensors_of(file: Gguf, config: Mapping[str, Any]) -> dict[str, tuple[str, Tensor]]:
    """For each name in safetensors, the tensor and its name in the file. Raises ParseError for a
    tensor that is absent or unknown."""
    kind = _kind(config)
    wanted = dict(WHOLE)
    if config["tie_word_embeddings"]:
        del wanted[OUTPUT]
    for number in range(config["num_hidden_layers"]):
        for ours, theirs in kind.block.items():
            wanted[f"blk.{number}.{ours}.weight"] = f"model.layers.{number}.{theirs}.weight"
    if differing := sorted(wanted.keys() ^ file.tensors.keys()):
        got = "an unknown one" if differing[0] in file.tensors else "none"
        raise ParseError(
            f"GGUF: {differing[0]}: expected exactly the tensors of {kind.class_name}, got {got}"
        )
    return {theirs: (ours, file.tensors[ours]) for ours, theirs in wanted.items()}


def restored(name: str, values: Floats, config: Mapping[str, Any]) -> Floats:
    """`values` of the tensor `name` of the file, with its rows in the order of transformers."""
    kind = _kind(config)
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in kind.interleaved:
        return values
    heads = config["num_attention_heads" if match[2] == "attn_q" else "num_key_value_heads"]
    if values.ndim != 2 or values.shape[0] % (2 * heads):
        raise ParseError(f"GGUF: {name}: expected {heads} heads of equal width, got other rows")
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, values.shape[1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _kind(config: Mapping[str, Any]) -> Architecture:
    return next(k for k in ARCHITECTURES.values() if k.model_type == config["model_type"])


def _heads(fields: Fields, prefix: str) -> int:
    return fields.integer(f"{prefix}.attention.head_count")


def _key_heads(fields: Fields, prefix: str, heads: int) -> int:
    count = fields.integer(f"{prefix}.attention.head_count_kv", heads)
    if not count or heads % count:
        raise ParseError(
            f"GGUF: {prefix}.attention.head_count_kv: expected a divisor of {heads}, got {count}"
        )
    return count


def _head_width(fields: Fields, prefix: str, default: int) -> int:
    """Every place that says the width of a head must say the same."""
    width = fields.integer(f"{prefix}.attention.key_length", default)
    for key in ("attention.value_length", "rope.dimension_count"):
        other = fields.integer(f"{prefix}.{key}", width)
        if other != width:
            raise ParseError(f"GGUF: {prefix}.{key}: expected {width}, got {other}")
    return width


def _rows(file: Gguf, fields: Fields, prefix: str) -> int:
    """The size of the vocabulary: of the tokens, and of the embeddings' rows."""
    tokens = len(fields.texts("tokenizer.ggml.tokens"))
    said = fields.integer(f"{prefix}.vocab_size", tokens)
    embedded = file.tensors.get("token_embd.weight")
    if embedded is None or said != tokens or embedded.shape[0] != tokens:
        rows = embedded.shape[0] if embedded else "no"
        raise ParseError(
            f"GGUF: expected as many embeddings as tokens, got {tokens} tokens, {rows} embeddings "
            f"and a vocab_size of {said}"
        )
    return tokens
