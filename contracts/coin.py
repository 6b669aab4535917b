"""Amounts for people. The environment variable UMAY_COIN names the coin; the default is TON.

Amounts are kept and sent as whole numbers of nano (1e-9 coins); the name is only shown.
"""

from __future__ import annotations

import os

from attestation.errors import UsageError

NANO = 1_000_000_000
NAME = "UMAY_COIN"
MAX_NAME = 12


def shown(nano: int) -> str:
    """The exact amount without trailing zeros: `0.25 TON`. Raises UsageError if UMAY_COIN is not a
    usable name."""
    name = os.environ.get(NAME, "TON")
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME) or name != name.strip():
        raise UsageError(
            f"environment variable {NAME}: expected a name of 1 to {MAX_NAME} printable characters "
            f"without space at its ends, got {name[:40]!r}"
        )
    whole, part = divmod(abs(nano), NANO)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"{'-' if nano < 0 else ''}{text} {name}"
