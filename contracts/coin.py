"""Amounts as people read them. The coin's name is a setting: UMAY_COIN, TON unless set.

Amounts are kept and sent in nano (1e-9 coins), whole; only what is shown has the name.
"""

from __future__ import annotations

import os

from attestation.errors import UsageError

NANO = 1_000_000_000
NAME = "UMAY_COIN"
MAX_NAME = 12


def shown(nano: int) -> str:
    """Exactly, without trailing zeros: `0.25 TON`. Raises UsageError where UMAY_COIN is no name."""
    name = os.environ.get(NAME, "TON")
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME) or name != name.strip():
        raise UsageError(f"{NAME}: expected a name of 1 to {MAX_NAME} characters")
    whole, part = divmod(abs(nano), NANO)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"{'-' if nano < 0 else ''}{text} {name}"
