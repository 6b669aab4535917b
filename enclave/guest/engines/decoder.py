"""The forward pass of a decoder with full attention, for all rows of a step at once.

The layers are those of the library transformers, with the same weights and the same roundings.
What differs is how much is done in one call: queries, keys and values come from one product, as do
gate and up, and heads that share keys are read together. Keys and values are written in place.
Frequencies and defaults are the library's own. At each start the engine compares itself with the
library on the very weights that it serves (see loading.self_test).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from enclave.guest.engines.kv_cache import Shape, SlotCache

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class Linear:
    """A product with `weight` [out, in], and a `bias` where the model has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Layer:
    """One layer. `heads_norms` are those of queries and of keys, where the model has them."""

    attention_norm: torch.Tensor
    qkv: Linear
    heads_norms: tuple[torch.Tensor, torch.Tensor] | None
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """A model that is ready to run. It takes its tensors out of `weights`, so that none is held
    twice.

    `settings` is the library's configuration object, `rotary` its module for the frequencies.
    """

    def __init__(self, settings: Any, weights: dict[str, torch.Tensor], rotary: Any, *,
                 max_len: int) -> None:  # fmt: skip
        self.kept = Shape.of(settings)
        self._heads, self._kv_heads = settings.num_attention_heads, self.kept.heads
        self._eps = settings.rms_norm_eps
        self._gemma = settings.model_type == "gemma"
        self._activation = ACTIVATIONS[settings.hidden_act]
        self._embedding = weights.pop("model.embed_tokens.weight")
        self._head = weights.pop("lm_head.weight", self._embedding)
        self._norm = weights.pop("model.norm.weight")
        scale = torch.tensor(settings.hidden_size**0.5, dtype=self._embedding.dtype)
        self._scale = scale.to(self._embedding.device) if self._gemma else None
        layers = range(settings.num_hidden_layers)
        self._layers = [_layer(weights, f"model.layers.{number}.") for number in layers]
        self._cos, self._sin = _rotations(rotary, max_len, self._embedding)

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor,
                 cache: SlotCache) -> torch.Tensor:  # fmt: skip
        """The logits [rows, vocabulary] of the last of `tokens` [rows, n] at `positions` [rows, n].

        `mask` [rows or 1, 1, n, length] is added to the scores. `cache` has been told which rows
        and positions these are.
        """
        x = functional.embedding(tokens, self._embedding)
        if self._scale is not None:
            x = x * self._scale
        turn = self._cos[positions][:, :, None], self._sin[positions][:, :, None]
        for number, layer in enumerate(self._layers):
            found = self._attention(layer, self._normed(x, layer.attention_norm), turn)
            keys, values = cache.put(number, found[:, :, self._heads :])
            seen = _attend(found[:, :, : self._heads], keys, values, mask)
            x = x + layer.output(seen)
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(self._activation(gate) * up)
        return functional.linear(self._normed(x[:, -1], self._norm), self._head)

    def _attention(self, layer: Layer, x: torch.Tensor,
                   turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:  # fmt: skip
        """Queries, keys and values as [rows, n, heads + 2 · kv_heads, dim], turned by position."""
        found = layer.qkv(x).unflatten(-1, (self._heads + 2 * self._kv_heads, -1))
        turned = found[:, :, : self._heads + self._kv_heads]
        if layer.heads_norms is not None:
            parts = turned.split((self._heads, self._kv_heads), 2)
            both = zip(parts, layer.heads_norms, strict=True)
            turned = torch.cat([self._normed(part, norm) for part, norm in both], 2)
        cos, sin = turn
        half = turned.roll(turned.shape[-1] // 2, -1)
        found[:, :, : turned.shape[2]] = turned * cos + half * sin
        return found

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Root mean square, in float32. Gemma multiplies by 1 + weight before it rounds."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        if self._gemma:
            return (scaled * (1.0 + weight.float())).to(x.dtype)
        return weight * scaled.to(x.dtype)


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
            mask: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """What `queries` [rows, n, heads, dim] read, as [rows, n, heads · dim]."""
    rows, count, heads, width = queries.shape
    if count == 1:  # heads that share keys stand in one's place of further positions
        shared = queries.reshape(rows, keys.shape[1], heads // keys.shape[1], width)
        found = functional.scaled_dot_product_attention(shared, keys, values, attn_mask=mask)
        return found.reshape(rows, 1, heads * width)
    found = functional.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=True
    )
    return found.transpose(1, 2).reshape(rows, count, heads * width)


def _layer(weights: dict[str, torch.Tensor], prefix: str) -> Layer:
    def taken(*names: str) -> torch.Tensor:
        """One tensor, or those of several products whose outputs are put side by side."""
        found = [weights.pop(prefix + name) for name in names if prefix + name in weights]
        return torch.cat(found) if len(found) > 1 else found[0]

    def linear(*names: str) -> Linear:
        biases = [f"{name}.bias" for name in names]
        has_bias = any(prefix + name in weights for name in biases)
        weight = taken(*(f"{name}.weight" for name in names))
        return Linear(weight, taken(*biases) if has_bias else None)

    norms = [f"self_attn.{name}_norm.weight" for name in "qk"]
    has_norms = prefix + norms[0] in weights
    return Layer(
        attention_norm=taken("input_layernorm.weight"),
        qkv=linear("self_attn.qkv_proj", *(f"self_attn.{name}_proj" for name in "qkv")),
        heads_norms=(taken(norms[0]), taken(norms[1])) if has_norms else None,
        output=linear("self_attn.o_proj"),
        mlp_norm=taken("post_attention_layernorm.weight"),
        gate_up=linear("mlp.gate_up_proj", "mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp.down_proj"),
    )


def _rotations(rotary: Any, max_len: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines [max_len, dim] of every position. Half of the sines are negative, so
    that a turned half is one product."""
    places = torch.arange(max_len, device=like.device, dtype=torch.float32)
    angles = places[:, None] * rotary.inv_freq.to(like.device, torch.float32)
    cos, sin = (part * rotary.attention_scaling for part in (angles.cos(), angles.sin()))
    return torch.cat((cos, cos), -1).to(like.dtype), torch.cat((-sin, sin), -1).to(like.dtype)
