"""Chooses the next token of one row from its logits.

Each draw is a hash of the seed, the choice and the position, and integers decide what it hits: no
library's generator has a part in it. So a seeded answer does not depend on which other requests are
in the batch, and another implementation draws the same token from the same logits.

The order is: penalty for repetition, bias and penalties, forbidden tokens, temperature, top-k,
top-p, min-p, one draw.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from enclave.guest.engines.base import GenerateRequest

GREEDY_BELOW = 1e-6
"""A temperature below this is greedy: divided by less, differences of logits overflow."""


@dataclass(frozen=True)
class Sampling:
    """The settings of a request, with the model's defaults filled in. A `temperature` below
    GREEDY_BELOW is greedy: the greatest logit, the lowest id of equal ones."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, request: GenerateRequest, defaults: Sampling) -> Sampling:
        """The settings in `request`, and for the others those in the model's generation_config."""

        def chosen(name: str) -> float:
            value = getattr(request, name)
            return getattr(defaults, name) if value is None else value

        return cls(
            temperature=chosen("temperature"),
            top_p=chosen("top_p"),
            top_k=int(chosen("top_k")),
            min_p=chosen("min_p"),
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            repetition_penalty=chosen("repetition_penalty"),
        )

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Rules:
    """What a model's generation_config.json says of every answer: tokens that are never chosen,
    those that are not chosen first, and the `stop_ids`, of which none is chosen before
    `min_new_tokens`."""

    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()

    def forbidden(self, written: int) -> tuple[int, ...]:
        """The tokens that may not follow after `written` tokens of an answer."""
        first = self.begin_suppress if not written else ()
        early = self.stop_ids if written < self.min_new_tokens else ()
        return (*self.suppress, *first, *early)


NO_RULES = Rules()


DRAW_DOMAIN = b"umay/draw/v1\0"
UNIT = 2.0**32
"""The weight of the greatest logit. Weights are integers, because sums of these are exact."""


def seed_bytes(seed: int | None) -> bytes:
    """A client's seed as 8 bytes, big-endian two's complement; without one, 32 random bytes."""
    return secrets.token_bytes(32) if seed is None else seed.to_bytes(8, "big", signed=True)


def uniform(seed: bytes, choice: int, position: int) -> float:
    """The number in [0, 1) for one draw: the first 53 bits of H("umay/draw/v1" ‖ 0 ‖ seed ‖ u32
    choice ‖ u32 position), divided by 2^53. `position` counts the tokens of the answer before."""
    places = choice.to_bytes(4, "big") + position.to_bytes(4, "big")
    digest = hashlib.sha256(DRAW_DOMAIN + seed + places).digest()
    return float((int.from_bytes(digest[:8], "big") >> 11) / (1 << 53))


class Sampler:
    """Chooses tokens for one row. It holds the settings, the seed, and what was chosen so far.
    `prompt` counts for the penalty for repetition, as in transformers."""

    def __init__(
        self,
        settings: Sampling,
        *,
        seed: int | None,
        logit_bias: Mapping[int, float],
        device: torch.device,
        rules: Rules = NO_RULES,
        prompt: Sequence[int] = (),
        choice: int = 0,
    ) -> None:
        self._settings, self._rules, self._device = settings, rules, device
        self._seen = dict.fromkeys(prompt) if settings.repetition_penalty != 1 else {}
        self._written = 0
        self._seed, self._choice = seed_bytes(seed), choice
        self._counts: dict[int, int] = {}
        self._bias = _pair(dict(logit_bias), device) if logit_bias else None

    @property
    def plain(self) -> bool:
        """Whether the choice is simply the greatest logit of the row."""
        settings = self._settings
        penalties = settings.presence_penalty or settings.frequency_penalty
        changed = penalties or settings.repetition_penalty != 1 or self._bias is not None
        return settings.greedy and not changed and not self._rules.forbidden(self._written)

    def chosen(self, token: int) -> int:
        """The same token, remembered: what follows depends on it."""
        self._written += 1
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._settings.repetition_penalty != 1:
            self._seen[token] = None
        return token

    def choose(self, logits: torch.Tensor) -> int:
        """The next token for one row of logits [vocabulary]."""
        logits = self._adjusted(logits.float())
        if self._settings.greedy:
            return self.chosen(int(logits.argmax()))
        return self.chosen(self._draw(logits))

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        settings = self._settings
        if self._seen:
            ids = torch.tensor(list(self._seen), device=self._device)
            found, penalty = logits[ids], settings.repetition_penalty
            logits = logits.index_copy(
                0, ids, torch.where(found < 0, found * penalty, found / penalty)
            )
        if self._bias is not None:
            logits = logits.index_add(0, *self._bias)
        if self._counts and (settings.presence_penalty or settings.frequency_penalty):
            costs = {
                token: -settings.presence_penalty - settings.frequency_penalty * count
                for token, count in self._counts.items()
            }
            logits = logits.index_add(0, *_pair(costs, logits.device))
        if forbidden := self._rules.forbidden(self._written):
            ids = torch.tensor(forbidden, device=self._device)
            logits = logits.index_fill(0, ids, -math.inf)
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        """One token by the weights ⌊exp((z - max) / T) · 2^32⌋ of the tokens that are kept."""
        settings = self._settings
        scaled = (logits - logits.max()).double() / settings.temperature
        weights = (scaled.exp() * UNIT).floor().long()
        # Stable, so that equal weights keep the order of their ids.
        values, ids = torch.sort(weights, descending=True, stable=True)
        if settings.top_k:
            values, ids = values[: settings.top_k], ids[: settings.top_k]
        sums = values.cumsum(0)
        need = math.ceil(settings.top_p * int(sums[-1]))
        # The first token that reaches top_p is kept, so at least one token always is.
        keep = (sums - values < need) & (values >= math.floor(settings.min_p * int(values[0])))
        ids, order = ids[keep].sort()
        sums = values[keep][order].cumsum(0)
        total = int(sums[-1])
        point = uniform(self._seed, self._choice, self._written)
        hit = min(math.floor(point * total), total - 1)
        return int(ids[torch.searchsorted(sums, hit, right=True)])


def _pair(values: dict[int, float], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.tensor(list(values), device=device),
        torch.tensor(list(values.values()), dtype=torch.float32, device=device),
    )
