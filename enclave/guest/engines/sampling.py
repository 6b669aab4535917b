"""Chooses the next token of one row from its logits.

Each row draws from its own generator, so a seeded answer does not depend on which other requests
are in the batch. The order is: bias and penalties, temperature, top-k, top-p, min-p, one draw.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from enclave.guest.engines.base import GenerateRequest


@dataclass(frozen=True)
class Sampling:
    """The settings of a request, with the model's defaults filled in. `temperature` 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

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
        )


def model_defaults(generation_config: Mapping[str, object]) -> Sampling:
    """Greedy unless the model says `do_sample`; then the model's own temperature, top_p, top_k and
    min_p."""
    if generation_config.get("do_sample") is not True:
        return Sampling()
    values = {
        name: generation_config[name]
        for name in ("temperature", "top_p", "top_k", "min_p")
        if isinstance(generation_config.get(name), (int, float))
    }
    return Sampling(**{"temperature": 1.0, **values})  # type: ignore[arg-type]


class Sampler:
    """Chooses tokens for one row. It holds the settings, the generator, and what was chosen so
    far."""

    def __init__(
        self,
        settings: Sampling,
        *,
        seed: int | None,
        logit_bias: Mapping[int, float],
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed(secrets.randbits(63) if seed is None else seed)
        self._counts: dict[int, int] = {}
        self._bias = _pair(dict(logit_bias), device) if logit_bias else None

    @property
    def plain(self) -> bool:
        """Whether the choice is simply the greatest logit of the row."""
        settings = self._settings
        penalties = settings.presence_penalty or settings.frequency_penalty
        return settings.temperature == 0 and not penalties and self._bias is None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token for one row of logits [vocabulary]."""
        logits = self._adjusted(logits.float())
        if self._settings.temperature == 0:
            token = int(logits.argmax())
        else:
            # The greatest logit becomes 0 first, so that a tiny temperature does not overflow.
            token = self._draw((logits - logits.max()) / self._settings.temperature)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        settings = self._settings
        if self._bias is not None:
            logits = logits.index_add(0, *self._bias)
        if self._counts and (settings.presence_penalty or settings.frequency_penalty):
            costs = {
                token: -settings.presence_penalty - settings.frequency_penalty * count
                for token, count in self._counts.items()
            }
            logits = logits.index_add(0, *_pair(costs, logits.device))
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        settings = self._settings
        # Stable, so that equal logits keep the order of their ids on every machine.
        values, ids = torch.sort(logits, descending=True, stable=True)
        if settings.top_k:
            values, ids = values[: settings.top_k], ids[: settings.top_k]
        chances = torch.softmax(values, 0).double()
        sums = chances.cumsum(0)
        # The first token that reaches top_p is kept, so at least one token always is.
        keep = (sums - chances < settings.top_p) & (chances >= settings.min_p * chances[0])
        chances = chances * keep
        point = torch.rand((), generator=self._generator, device=logits.device, dtype=torch.float64)
        sums = chances.cumsum(0)
        place = int(torch.searchsorted(sums, point * sums[-1], right=True))
        return int(ids[min(place, int(keep.sum()) - 1)])


def _pair(values: dict[int, float], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.tensor(list(values), device=device),
        torch.tensor(list(values.values()), dtype=torch.float32, device=device),
    )
