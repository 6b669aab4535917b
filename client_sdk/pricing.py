"""What an exchange costs by a price table, for comparing offers. Nano coins per token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

TYPICAL_PROMPT, TYPICAL_COMPLETION = 1, 3
"""Weights for one figure per offer: answers are longer than what a cache leaves to read."""

UNKNOWN = float("inf")

Price = tuple[float, float]
"""Nano coins per prompt token and per completion token; infinite where a table lacks one."""


def offer(table: Mapping[str, Any]) -> float:
    """One figure to order offers by; a table without both prices comes last."""
    return weighed(price_of_table(table))


def price_of_table(table: Mapping[str, Any]) -> Price:
    prompt, completion = table.get("prompt"), table.get("completion")
    if _is_price(prompt) and _is_price(completion):
        return float(prompt), float(completion)
    return UNKNOWN, UNKNOWN


def weighed(price: Price) -> float:
    """One figure to order prices by."""
    return TYPICAL_PROMPT * price[0] + TYPICAL_COMPLETION * price[1]


def claimed_offer(price_table: bytes) -> float:
    """The same from bytes that nobody has verified yet: only the order of trying."""
    try:
        table = json.loads(price_table)
    except (ValueError, RecursionError):
        return UNKNOWN
    return offer(table) if isinstance(table, dict) else UNKNOWN


def _is_price(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63
