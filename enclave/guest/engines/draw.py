"""Draws one token for each of many rows at once.

Each draw is a hash of the seed, the choice and the position, and integers decide what it hits: no
library's generator has a part in it. So a seeded answer does not depend on which other requests are
in the batch, and another implementation draws the same token from the same logits. The definition
is in docs/spec/engine.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

UNIT = 2.0**32
"""The weight of the greatest logit. Weights are integers, because sums of these are exact."""

ID_BITS = 21
"""Of a token's id, beside its weight of at most 33 bits in one integer of 63."""

FEW = 128
"""So many of the greatest weights mostly hold all that top-p and top-k keep."""


class Draw(NamedTuple):
    """How one row is drawn. `point` in [0, 1) says where."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    point: float

    @property
    def orders(self) -> bool:
        """Whether it depends on the order of the weights what is kept."""
        return bool(self.top_k) or self.top_p < 1.0


def draw_rows(logits: torch.Tensor, rows: Sequence[Draw]) -> list[int]:
    """The token of each row of `logits` [rows, vocabulary] in float32."""
    device = logits.device
    temperature, min_p, point = (
        torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64, device=device)
        for name in ("temperature", "min_p", "point")
    )
    greatest = logits.max(1, keepdim=True).values
    scaled = (logits - greatest).double() / temperature[:, None]
    weights = (scaled.exp() * UNIT).floor().long()
    least = (min_p[:, None] * UNIT).floor().long()
    ordered = [number for number, row in enumerate(rows) if row.orders]
    if ordered:
        at = torch.tensor(ordered, device=device)
        kept = _kept(weights[at], [rows[number] for number in ordered])
        weights = weights.index_copy(0, at, kept)
    sums = torch.where(weights >= least, weights, 0).cumsum(1)
    total = sums[:, -1]
    hit = torch.minimum((point * total).floor().long(), total - 1)
    found = torch.searchsorted(sums, hit[:, None], right=True)[:, 0]
    return [int(token) for token in found.tolist()]


def _kept(weights: torch.Tensor, rows: Sequence[Draw]) -> torch.Tensor:
    """The weights that top-k and then top-p keep, and 0 for the others. They are looked for among
    the greatest FEW, and among all where these do not hold all of it."""
    size = weights.shape[1]
    limits = torch.tensor([row.top_k or size for row in rows], device=weights.device)
    top_p = torch.tensor([row.top_p for row in rows], dtype=torch.float64, device=weights.device)
    for count in (min(FEW, size), size):
        values, ids = _greatest(weights, count)
        values = torch.where(torch.arange(count, device=limits.device) < limits[:, None], values, 0)
        sums = values.cumsum(1)
        whole = torch.where(limits <= count, sums[:, -1], weights.sum(1))
        need = (top_p * whole).ceil().long()
        found = (limits <= count) | (limits >= size) & (sums[:, -1] >= need)
        if count == size or bool(found.all()):
            break
    # The first token that reaches top_p is kept, so at least one token always is.
    kept = torch.where(sums - values < need[:, None], values, 0)
    return torch.zeros_like(weights).scatter_(1, ids, kept)


def _greatest(weights: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` greatest weights of each row and their ids; equal ones in the order of ids."""
    last = (1 << ID_BITS) - 1
    ids = torch.arange(weights.shape[1], device=weights.device)
    keys = ((weights << ID_BITS) | (last - ids)).topk(count, 1).values
    return keys >> ID_BITS, last - (keys & last)
