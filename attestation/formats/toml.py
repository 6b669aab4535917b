"""TOML of at most so many bytes, whose keys are short.

`tomllib` takes quadratic time and memory for keys of many dotted parts: 40 KB of one key are
seconds and a gigabyte. No file of ours has more than a few, so a line with many is refused.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from typing import Any

from attestation.arguments import expect
from attestation.errors import ParseError

MAX_DOTS = 64
"""In one line, wherever they stand."""


def read(data: bytes, *, what: str, limit: int) -> dict[str, Any]:
    """Raises ParseError, which begins with `what`."""
    expect(what, data, bytes, what="bytes of TOML")
    if len(data) > limit:
        raise ParseError(f"{what}: expected at most {limit} bytes, got {len(data)}")
    if any(line.count(b".") > MAX_DOTS for line in data.splitlines()):
        raise ParseError(f"{what}: expected at most {MAX_DOTS} dots in a line, got more")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # ValueError: not UTF-8, not TOML, or a number longer than Python converts.
        raise ParseError(f"{what}: expected TOML, got other text ({error})") from None
    _check_integers(document, what)
    return document


def _check_integers(value: object, what: str) -> None:
    """TOML has 64 bits. `tomllib` reads longer ones, which Python cannot print in an error."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_integers(item, what)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ParseError(f"{what}: expected whole numbers of at most 64 bits, got a longer one")


def check_keys(found: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raises ParseError, which begins with `where`, for the first key that is not known: a typo
    must not look like a setting that counts."""
    expected = sorted(known)
    for key in sorted(set(found) - set(expected)):
        raise ParseError(f"{where} {key}: unknown key; {meant(key, expected)}")


def meant(word: str, known: Iterable[str]) -> str:
    """A question for who mistyped a word, or all the words there are."""
    expected = sorted(known)
    near = difflib.get_close_matches(word, expected, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(expected)}"
