"""JSON as strangers write it, read within bounds."""

from __future__ import annotations

import json
from typing import Any

from attestation.errors import ParseError

MAX_JSON_BYTES = 32 << 20
"""Of one text, as of a file: eight GPUs with their chains come to half a megabyte."""

MAX_DEPTH = 32


def read_json(text: bytes | str) -> Any:
    """Raises ParseError for what is no JSON, too deep, or names a key twice."""
    if len(text) > MAX_JSON_BYTES:
        raise ParseError(f"JSON: expected at most {MAX_JSON_BYTES} bytes, got {len(text)}")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ParseError("JSON: nested too deeply") from None
    except ValueError as error:
        raise ParseError(f"JSON: {error}") from None


def is_json_text(text: str) -> bool:
    """Whether a string may hold JSON itself, as some services write it."""
    return text[:1] in ("{", "[") and text[-1:] in ("}", "]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ParseError("JSON: a key stands twice in one object")
    return found
