"""The keys and values of all slots: a fixed number of slots of `max_len` positions each.

Nothing is paged and no prefix is shared, so the timing of an answer tells nothing about the prompt
of another tenant.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch


class Shape(NamedTuple):
    """Of a model's keys and values: layers, heads, and the dimension of each head."""

    layers: int
    heads: int
    width: int

    @classmethod
    def of(cls, settings: Any) -> Shape:
        """Of the library's configuration object."""
        heads = settings.num_attention_heads
        width = getattr(settings, "head_dim", None) or settings.hidden_size // heads
        return cls(settings.num_hidden_layers, settings.num_key_value_heads or heads, width)

    def bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """For so many tokens."""
        return 2 * math.prod(self) * tokens * dtype.itemsize


class SlotCache:
    """For each layer one tensor [slots, 2 · heads, max_len, dim]: the keys, then the values.

    `aim` says which rows and positions the next forward pass writes and reads.
    """

    def __init__(self, kept: Shape, *, slots: int, max_len: int, dtype: torch.dtype,
                 device: torch.device) -> None:  # fmt: skip
        count, self._heads, self._width = kept
        self._max_len, self.device = max_len, device
        shape = (slots, 2 * self._heads, max_len, self._width)
        self.layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(count)]
        self._rows, self._length = slice(0, 0), 0
        self._places = torch.zeros(0, dtype=torch.long, device=device)

    @property
    def slots(self) -> int:
        return len(self.layers[0])

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    def aim(self, first: int, positions: torch.Tensor, length: int) -> None:
        """Makes the next pass write `positions` [rows, n] of the slots from `first` on, and read
        the positions below `length` of these slots."""
        rows = len(positions)
        self._rows, self._length = slice(first, first + rows), length
        slots = torch.arange(first, first + rows, device=self.device)[:, None]
        heads = slots * 2 * self._heads + torch.arange(2 * self._heads, device=self.device)
        self._places = (heads[:, None] * self._max_len + positions[:, :, None]).flatten()

    def put(self, layer: int, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes `found` [rows, n, 2 · heads, dim]. Returns the keys and the values that these rows
        may see, [rows, heads, length, dim] each."""
        kept = self.layers[layer]
        kept.view(-1, self._width).index_copy_(0, self._places, found.reshape(-1, self._width))
        seen = kept[self._rows, :, : self._length]
        return seen[:, : self._heads], seen[:, self._heads :]

    def wipe(self, slot: int) -> None:
        """Sets to zero what an answer left."""
        for tensor in self.layers:
            tensor[slot].zero_()
