"""TOML of at most so many bytes, whose keys are short.

`tomllib` takes quadratic time and memory for keys of many dotted parts: 40 KB of one key are
seconds and a gigabyte. No file of ours has more than a few, so a line with many is refused.
"""

from __future__ import annotations

import tomllib
from typing import Any

from attestation.arguments import expect
from attestation.errors import ParseError

MAX_DOTS = 64
"""In one line, wherever they stand."""


def read(data: bytes, *, what: str, limit: int) -> dict[str, Any]:
    """Raises ParseError, which begins with `what`."""
    expect(what, data, bytes, what="bytes of TOML")
    if len(data) > limit:
        raise ParseError(f"{what}: expected at most {limit} bytes")
    if any(line.count(b".") > MAX_DOTS for line in data.splitlines()):
        raise ParseError(f"{what}: expected at most {MAX_DOTS} dots in a line")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # ValueError: not UTF-8, not TOML, or a number longer than Python converts.
        raise ParseError(f"{what}: not TOML ({error})") from None
