"""QUIC variable-length integers (RFC 9000 §16), shortest form only.

RFC 9292 allows longer forms; this profile refuses them, so that one value has one
encoding.
"""

from __future__ import annotations

from attestation.errors import ParseError

_LIMITS = ((1 << 6, 1, 0), (1 << 14, 2, 1), (1 << 30, 4, 2), (1 << 62, 8, 3))


def encode(value: int) -> bytes:
    """1, 2, 4 or 8 bytes. Raises ParseError outside 0 to 2^62-1."""
    for limit, size, prefix in _LIMITS:
        if 0 <= value < limit:
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ParseError(f"variable-length integer: expected 0 to 2^62-1, got {value}")


def size(first_byte: int) -> int:
    """Bytes of the integer that begins with `first_byte`."""
    return 1 << (first_byte >> 6)


def decode(data: bytes | bytearray | memoryview) -> int:
    """The integer that `data` holds exactly. Raises ParseError for a longer form."""
    if not data or len(data) != size(data[0]):
        raise ParseError(f"variable-length integer: expected a whole one, got {len(data)} byte(s)")
    value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 2)) - 1)
    if len(data) > 1 and value < _LIMITS[(data[0] >> 6) - 1][0]:
        raise ParseError(f"variable-length integer: expected shortest form, got {len(data)} bytes")
    return value
