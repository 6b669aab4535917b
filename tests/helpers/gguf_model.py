"""A tiny model as a GGUF file holds it, without the package gguf: weights from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from enclave.importer.gguf_file import Floats, Gguf, Tensor

WIDTH, INNER, BLOCKS, HEADS, KEY_HEADS, HEAD_WIDTH = 32, 48, 2, 4, 2, 8
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]


def byte_words() -> list[str]:
    """One character for each byte, as byte-level BPE writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(others))]


WORDS = [*SPECIAL, *byte_words(), *("".join(merge.split()) for merge in MERGES)]


def metadata(**changed: Any) -> dict[str, Any]:
    """Keys are spelt with __ for a dot; None leaves one out."""
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "Toy",
        "llama.block_count": BLOCKS,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": HEAD_WIDTH,
        "llama.vocab_size": len(WORDS),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(WORDS) - len(SPECIAL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
    }
    values |= {key.replace("__", "."): value for key, value in changed.items()}
    return {key: value for key, value in values.items() if value is not None}


def arrays() -> dict[str, Floats]:
    """By the names that transformers' Llama has; the embeddings are tied."""
    draw = np.random.default_rng(7)
    found = {"model.embed_tokens": (len(WORDS), WIDTH), "model.norm": (WIDTH,)}
    kept = KEY_HEADS * HEAD_WIDTH
    for number in range(BLOCKS):
        parts = {
            "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
            "self_attn.q_proj": (HEADS * HEAD_WIDTH, WIDTH), "self_attn.k_proj": (kept, WIDTH),
            "self_attn.v_proj": (kept, WIDTH), "self_attn.o_proj": (WIDTH, HEADS * HEAD_WIDTH),
            "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }  # fmt: skip
        found |= {f"model.layers.{number}.{name}": shape for name, shape in parts.items()}
    return {
        f"{name}.weight": draw.normal(0.0, 0.5, shape).astype(np.float32)
        for name, shape in found.items()
    }


def tensors() -> dict[str, Floats]:
    """By their names in GGUF, with the rows of queries and keys as llama.cpp stores them."""
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    found = {}
    for name, values in arrays().items():
        if name.startswith("model.layers."):
            _, _, number, part = name.removesuffix(".weight").split(".", 3)
            found[f"blk.{number}.{names[part]}.weight"] = _stored(names[part], values)
    whole = arrays()
    found["token_embd.weight"] = whole["model.embed_tokens.weight"]
    found["output_norm.weight"] = whole["model.norm.weight"]
    return found


def _stored(name: str, values: Floats) -> Floats:
    """As llama.cpp's convert_hf_to_gguf.py permutes: halves of a head become pairs."""
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name)
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def toy(changed: dict[str, Floats | None] | None = None, **settings: Any) -> Gguf:
    """The file; `changed` tensors by name, None leaves one out."""
    found = {name: v for name, v in (tensors() | (changed or {})).items() if v is not None}
    wrapped = {
        name: Tensor(values.shape, "F32", lambda values=values: values)  # type: ignore[misc]
        for name, values in found.items()
    }
    return Gguf(metadata(**settings), wrapped)
