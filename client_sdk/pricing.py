"""What an exchange costs by a price table, for comparing offers. Nano coins per token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from attestation.errors import TooDear

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


def too_dear(table: Mapping[str, Any], most: Price | None) -> TooDear | None:
    """The error where a price of a verified table is above `most`, or missing."""
    price = price_of_table(table)
    if most is None or all(one <= limit for one, limit in zip(price, most, strict=True)):
        return None
    return TooDear(
        f"price: expected at most {most[0]:g} nano coins per prompt token and {most[1]:g} per "
        f"completion token, got {price[0]:g} and {price[1]:g} from the cheapest machine; nothing "
        "was sent. Ask later, or accept a higher price"
    )


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
