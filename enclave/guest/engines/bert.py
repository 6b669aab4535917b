"""A BERT encoder, from token ids to one vector for each text.

Devlin et al., "BERT" (2018), with the pooling of Reimers and Gurevych, "Sentence-BERT" (2019).
Texts of one length are computed together, so nothing is filled up and nothing is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch.nn import functional as nn

from attestation.errors import ParseError
from enclave.guest.engines.weights import check_shapes

FIXED: Mapping[str, object] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "dtype": "float32",
}
"""What config.json says besides the fields of BertConfig; this encoder knows no other value."""

POOLINGS = ("mean", "cls")
LARGEST = 1 << 20
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The names are those of transformers, and `pooling` ("mean", or "cls" for the first token),
    `normalize` (to the length 1) and `max_tokens` of a text, special ones included, are ours."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    pooling: Literal["mean", "cls"]
    normalize: bool
    max_tokens: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BertConfig:
        """Raises ParseError for a config.json with another key, or a value that is not known."""
        kinds = {field.name: field.type for field in fields(cls)}
        if differing := sorted(config.keys() ^ (kinds.keys() | FIXED.keys())):
            got = "one" if differing[0] in config else "none"
            raise ParseError(
                f"config.json: {differing[0]}: expected exactly the keys of an embedding model "
                f"that was imported, got {got}"
            )
        for name, value in FIXED.items():
            if config[name] != value:
                raise ParseError(f"config.json: {name}: expected {value!r}, got another value")
        for name in (name for name, kind in kinds.items() if kind == "int"):
            if type(config[name]) is not int or not 0 < config[name] <= LARGEST:
                raise ParseError(f"config.json: {name}: expected an integer from 1 to {LARGEST}")
        found = cls(**{name: config[name] for name in kinds})
        _check(found)
        return found


def _check(config: BertConfig) -> None:
    def expect(right: bool, name: str, wanted: str) -> None:
        if not right:
            raise ParseError(f"config.json: {name}: expected {wanted}, got another value")

    epsilon = config.layer_norm_eps
    expect(type(epsilon) is float and 0 < epsilon < 1, "layer_norm_eps", "a number from 0 to 1")
    expect(config.pooling in POOLINGS, "pooling", " or ".join(POOLINGS))
    expect(type(config.normalize) is bool, "normalize", "true or false")
    heads, most = config.num_attention_heads, config.max_position_embeddings
    expect(config.hidden_size % heads == 0, "hidden_size", f"a multiple of {heads} heads")
    expect(2 < config.max_tokens <= most, "max_tokens", f"an integer from 3 to {most}")


def shapes(config: BertConfig) -> Shapes:
    """Every tensor that the encoder needs, by its name in transformers."""
    wide, between = config.hidden_size, config.intermediate_size
    found: Shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, wide),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, wide),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, wide),
        **_norm("embeddings", wide),
    }
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            found |= _linear(f"{layer}.attention.self.{name}", wide, wide)
        found |= _linear(f"{layer}.attention.output.dense", wide, wide)
        found |= _norm(f"{layer}.attention.output", wide)
        found |= _linear(f"{layer}.intermediate.dense", between, wide)
        found |= _linear(f"{layer}.output.dense", wide, between)
        found |= _norm(f"{layer}.output", wide)
    return found


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.LayerNorm.weight": (width,), f"{name}.LayerNorm.bias": (width,)}


class BertEncoder:
    """A model whose weights are `weights`: the tensors of `shapes(config)`, in float32."""

    def __init__(self, config: BertConfig, weights: Mapping[str, torch.Tensor]) -> None:
        check_shapes(weights, shapes(config))
        if other := sorted(name for name in weights if weights[name].dtype != torch.float32):
            raise ParseError(f"weights: {other[0]!r}: expected float32, got another type")
        self._config, self._weights = config, weights

    def vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 [texts, hidden_size] for `ids`, int64 [texts, tokens]."""
        with torch.inference_mode():
            hidden = self._embedded(ids)
            for number in range(self._config.num_hidden_layers):
                hidden = self._layer(f"encoder.layer.{number}", hidden)
            pooled = hidden.mean(1) if self._config.pooling == "mean" else hidden[:, 0]
            return nn.normalize(pooled, dim=1) if self._config.normalize else pooled

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        words, positions, kinds = (
            self._weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        # In this order transformers adds them too.
        return self._norm("embeddings", words[ids] + kinds[0] + positions[: ids.shape[1]])

    def _layer(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        seen = self._linear(f"{name}.attention.output.dense", self._attended(name, hidden))
        hidden = self._norm(f"{name}.attention.output", seen + hidden)
        between = nn.gelu(self._linear(f"{name}.intermediate.dense", hidden))
        return self._norm(f"{name}.output", self._linear(f"{name}.output.dense", between) + hidden)

    def _attended(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        texts, tokens, wide = hidden.shape
        heads = self._config.num_attention_heads
        query, key, value = (
            self._linear(f"{name}.attention.self.{part}", hidden)
            .view(texts, tokens, heads, wide // heads)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        found = nn.scaled_dot_product_attention(query, key, value)
        return found.transpose(1, 2).reshape(texts, tokens, wide)

    def _linear(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        return nn.linear(hidden, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        weight = self._weights[f"{name}.LayerNorm.weight"]
        bias = self._weights[f"{name}.LayerNorm.bias"]
        return nn.layer_norm(hidden, weight.shape, weight, bias, self._config.layer_norm_eps)
