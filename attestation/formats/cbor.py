"""Deterministic CBOR (RFC 8949 §4.2) and nothing else.

What `decode` accepts, `encode` gives back byte for byte; every other encoding of
the same value is refused, so bytes can be hashed as served.
"""

from __future__ import annotations

from typing import Any

import cbor2

from attestation.arguments import expect
from attestation.errors import ParseError

MAX_BYTES = 16 * 1024 * 1024
"""Largest structure decoded: 8 GPU reports with chains are about 100 kB; RIMs 1 MB."""

MAX_DEPTH = 8
MAX_ITEMS = 1 << 16
"""Values in one structure. The largest of ours, a submission, has a few hundred."""

_CONTAINERS = {4: 1, 5: 2}
_STRINGS = (2, 3)
_SIMPLE = (20, 21, 22)


def encode(value: object) -> bytes:
    """The one deterministic encoding of `value`."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, limit: int = MAX_BYTES) -> Any:
    """The value whose deterministic encoding is exactly `data`.

    Raises ParseError for anything longer than `limit` bytes, malformed, trailing,
    duplicate or non-deterministic, and for types other than int, bytes, str, bool,
    None, list and map with numbers or strings as keys.
    """
    expect("CBOR", data, bytes, bytearray)
    if len(data) > limit:
        raise ParseError(f"CBOR: expected at most {limit} bytes, got {len(data)}")
    _scan(data)
    try:
        value = cbor2.loads(data)
    except Exception as error:  # cbor2 lets ValueError, TypeError and others through
        raise ParseError(
            f"CBOR: expected well-formed CBOR, got other bytes ({type(error).__name__})"
        ) from None
    _check_keys(value)
    if encode(value) != data:
        raise ParseError("CBOR: expected the deterministic encoding, got another one")
    return value


def decode_map(data: bytes, *, required: frozenset[int], limit: int = MAX_BYTES) -> dict[int, Any]:
    """A map with integer keys. Unknown positive keys stay, unknown negative keys raise.

    Raises ParseError; `required` keys must all be present.
    """
    value = decode(data, limit=limit)
    if not isinstance(value, dict) or not all(type(key) is int for key in value):
        raise ParseError("CBOR: expected a map with integer keys, got another value")
    critical = [key for key in value if key < 0]
    if critical:
        raise ParseError(
            f"CBOR: expected no unknown negative key, which is critical, got {critical[0]}"
        )
    missing = required - value.keys()
    if missing:
        raise ParseError(f"CBOR: expected key {min(missing)}, got none")
    return value


def _check_keys(value: object) -> None:
    """Keys are numbers or strings: a list as key would be read as something else."""
    if isinstance(value, dict):
        if not all(type(key) in (int, str, bytes) for key in value):
            raise ParseError("CBOR: expected numbers or strings as keys, got another type")
        for item in value.values():
            _check_keys(item)
    elif isinstance(value, list):
        for item in value:
            _check_keys(item)


def _scan(data: bytes) -> None:
    """Only our types, bounded in number and depth, before anything is built from them.

    Tags above all: shared references let a few bytes unfold into gigabytes.
    """
    open_items, at, items = [1], 0, 0
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        open_items[-1] -= 1
        major, value, at = _head(data, at)
        items += 1
        if major in _STRINGS:
            at += value
        elif major in _CONTAINERS:
            open_items.append(value * _CONTAINERS[major])
        elif major == 6 or (major == 7 and value not in _SIMPLE):
            raise ParseError("CBOR: expected no tag, float or simple value, got one")
        if items > MAX_ITEMS or len(open_items) > MAX_DEPTH + 1:
            raise ParseError(
                f"CBOR: expected at most {MAX_ITEMS} values, {MAX_DEPTH} deep, got more"
            )
    if at != len(data):
        raise ParseError(f"CBOR: expected {at} bytes, got {len(data)}")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, its argument, where the next byte stands) of RFC 8949 §3."""
    if at >= len(data):
        raise ParseError("CBOR: expected a whole value, it ends within one")
    major, info = data[at] >> 5, data[at] & 31
    if info < 24:
        return major, info, at + 1
    size = 1 << (info - 24)
    if info > 27 or major == 7 or at + 1 + size > len(data):
        raise ParseError("CBOR: expected the head of a value, got a malformed one")
    return major, int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
