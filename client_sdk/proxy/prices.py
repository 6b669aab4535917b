"""The cap of one request: `umay-max-price: PROMPT COMPLETION`, in nano coins per token."""

from __future__ import annotations

import re
from collections.abc import Mapping

from client_sdk.pricing import Price
from client_sdk.proxy.refusal import Refusal

HEADER = "umay-max-price"
_NUMBER = r"(0|[1-9][0-9]{0,18})(?:\.[0-9]{1,9})?"
_CAP = re.compile(rf"({_NUMBER}) ({_NUMBER})")


def cap_of(headers: Mapping[str, str]) -> Price | None:
    """None where there is no such field. Raises Refusal for one that is not two numbers."""
    said = headers.get(HEADER)
    if said is None:
        return None
    found = _CAP.fullmatch(said)
    if found is None:
        raise Refusal(
            400,
            "invalid_value",
            f"{HEADER}: expected two numbers with one space between them, nano coins per prompt "
            "token and per completion token, such as 5 20",
        )
    return float(found[1]), float(found[3])
