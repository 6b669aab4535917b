"""Deterministic CBOR (RFC 8949 §4.2) and nothing else.

What `decode` accepts, `encode` gives back byte for byte; every other encoding of
the same value is refused, so bytes can be hashed as served.
"""

from __future__ import annotations

import io
from typing import Any

import cbor2

from attestation.errors import ParseError

MAX_BYTES = 16 * 1024 * 1024
"""Largest structure decoded: 8 GPU reports with chains are about 100 kB; RIMs 1 MB."""

MAX_DEPTH = 8


def encode(value: object) -> bytes:
    """The one deterministic encoding of `value`."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, limit: int = MAX_BYTES) -> Any:
    """The value whose deterministic encoding is exactly `data`.

    Raises ParseError for anything longer than `limit` bytes, malformed, trailing,
    duplicate or non-deterministic, and for types other than int, bytes, str, bool,
    None, list and map.
    """
    if len(data) > limit:
        raise ParseError(f"CBOR: expected at most {limit} bytes, got {len(data)}")
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream, max_depth=MAX_DEPTH * 2).decode()
    except Exception as error:  # cbor2 lets ValueError, TypeError and others through
        raise ParseError(f"CBOR: malformed ({type(error).__name__})") from None
    _check_types(value, MAX_DEPTH)
    if encode(value) != data:
        raise ParseError("CBOR: expected the deterministic encoding, got another one")
    return value


def decode_map(data: bytes, *, required: frozenset[int], limit: int = MAX_BYTES) -> dict[int, Any]:
    """A map with integer keys. Unknown positive keys stay, unknown negative keys raise.

    Raises ParseError; `required` keys must all be present.
    """
    value = decode(data, limit=limit)
    if not isinstance(value, dict) or not all(type(key) is int for key in value):
        raise ParseError("CBOR: expected a map with integer keys")
    critical = [key for key in value if key < 0]
    if critical:
        raise ParseError(f"CBOR: unknown critical key {critical[0]}")
    missing = required - value.keys()
    if missing:
        raise ParseError(f"CBOR: key {min(missing)} is missing")
    return value


def _check_types(value: object, depth: int) -> None:
    if depth < 0:
        raise ParseError(f"CBOR: nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_types(key, depth - 1)
            _check_types(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_types(item, depth - 1)
    elif value is not None and type(value) not in (int, bytes, str, bool):
        raise ParseError(f"CBOR: unexpected type {type(value).__name__}")
