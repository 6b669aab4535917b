"""Chooses the next token of each row from its logits.

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
from enclave.guest.engines.draw import Draw, draw_rows

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

    def adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """A row of logits [vocabulary] in float32, with penalties, bias and what is forbidden."""
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

    @property
    def draw(self) -> Draw | None:
        """How its next token is drawn; None where it is the greatest logit."""
        settings = self._settings
        if settings.greedy:
            return None
        point = uniform(self._seed, self._choice, self._written)
        return Draw(settings.temperature, settings.top_k, settings.top_p, settings.min_p, point)


def choose(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[int]:
    """The next token of each row of logits [rows, vocabulary], which its sampler remembers."""
    tokens: list[int] = logits.argmax(1).tolist()
    changed = {at: one for at, one in enumerate(samplers) if not one.plain}
    if changed:
        rows = [one.adjusted(logits[at].float()) for at, one in changed.items()]
        found = _drawn(list(changed.values()), torch.stack(rows))
        for at, token in zip(changed, found, strict=True):
            tokens[at] = token
    return [one.chosen(token) for one, token in zip(samplers, tokens, strict=True)]


def _drawn(samplers: Sequence[Sampler], rows: torch.Tensor) -> list[int]:
    """The greatest of each row, or what is drawn from it."""
    tokens: list[int] = rows.argmax(1).tolist()
    draws = {at: draw for at, one in enumerate(samplers) if (draw := one.draw) is not None}
    if draws:
        found = draw_rows(rows[list(draws)], list(draws.values()))
        for at, token in zip(draws, found, strict=True):
            tokens[at] = token
    return tokens


def _pair(values: dict[int, float], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.tensor(list(values), device=device),
        torch.tensor(list(values.values()), dtype=torch.float32, device=device),
    )
