"""JSON that others wrote: UTF-8 of a depth that Python's own recursion can stand.

`json.loads` raises RecursionError for some thousand nested brackets, and so does whatever walks
a little fewer: a server must not be able to choose that.
"""

from __future__ import annotations

import json
from typing import Any

from attestation.errors import ParseError

MAX_DEPTH = 64
"""Nothing that we read, the vendors' lists among it, reaches ten."""

_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"} | {
    int: "a number",
    float: "a number",
}


def decode(data: bytes | str, *, what: str) -> Any:
    """The value. Raises ParseError, which begins with `what`, for anything else, and where
    values nest deeper than MAX_DEPTH. Callers bound the size."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ParseError(
            f"{what}: expected JSON, got other bytes ({type(error).__name__})"
        ) from None
    _check_depth(value, what)
    return value


def object_of(value: Any, *, what: str) -> dict[str, Any]:
    """`value`, a JSON object. Raises ParseError, which names what came, for anything else."""
    if not isinstance(value, dict):
        raise ParseError(f"{what}: expected a JSON object, got {_KINDS[type(value)]}")
    return value


def _check_depth(value: Any, what: str) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [item for parent in layer for item in _inside(parent)]
        if not layer:
            return
    raise ParseError(f"{what}: expected JSON of at most {MAX_DEPTH} levels, got more")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
