"""Hints for checking ECDSA over P-256 in a TVM that hashes every digest once more.

For digest e, signature (r, s) and key Q with x-coordinate x, the contract receives
s1 = E(x − r)/e and s2 = s1·s/x (mod n) and T = (s1·Q − E·G)/x, where E is the SHA-256 of the
256-bit number 1. docs/spec/quote-verifier.md explains why two calls of the TVM's opcode then
decide the signature. Nothing here is secret, so nothing runs in constant time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from attestation.errors import ParseError

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
A = P - 3
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
E = int.from_bytes(hashlib.sha256((1).to_bytes(32)).digest())

Point = tuple[int, int]


@dataclass(frozen=True)
class HintedSignature:
    """A signature (r, s) with the hints that the contract needs to check it; `point` is T in
    compressed form (33 bytes)."""

    r: int
    s: int
    s1: int
    s2: int
    point: bytes


def hinted(digest: bytes, signature: bytes, key: bytes) -> HintedSignature:
    """Hints for a raw signature (r ‖ s, 64 bytes) over a 32-byte digest by a key (x ‖ y, 64).

    The signature need not be valid. Raises ParseError if no hint exists: a number is zero, or the
    key is not a point of the curve.
    """
    e, (r, s), q = int.from_bytes(digest), _halves(signature), _halves(key)
    x = q[0]
    if not _on_curve(q):
        raise ParseError(
            "P-256: public key: expected a point of the curve, got another pair of numbers"
        )
    s1 = E * (x - r) * _inverse(e) % N
    s2 = s1 * s * _inverse(x) % N
    point = _add(_times(s1 * _inverse(x) % N, q), _times(-E * _inverse(x) % N, G))
    if point is None or s1 == 0:
        raise ParseError(
            "P-256: expected a signature for which a hint exists, got one that leads to the "
            "point at "
            "infinity or to s1 = 0"
        )
    return HintedSignature(r, s, s1, s2, bytes([2 + point[1] % 2]) + point[0].to_bytes(32))


def _halves(data: bytes) -> Point:
    if len(data) != 64:
        raise ParseError(f"P-256: expected a key or signature of 64 bytes, got {len(data)}")
    return int.from_bytes(data[:32]), int.from_bytes(data[32:])


def _inverse(value: int) -> int:
    if value % N == 0:
        raise ParseError("P-256: expected a number that is not zero modulo n, got zero")
    return pow(value, -1, N)


def _on_curve(point: Point) -> bool:
    x, y = point
    return x < P and y < P and (y * y - x * x * x - A * x - _B) % P == 0


_B = (G[1] ** 2 - G[0] ** 3 - A * G[0]) % P


def _add(left: Point | None, right: Point | None) -> Point | None:
    if left is None or right is None:
        return left or right
    if left[0] == right[0]:
        if (left[1] + right[1]) % P == 0:
            return None
        slope = (3 * left[0] ** 2 + A) * pow(2 * left[1], -1, P) % P
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, P) % P
    x = (slope * slope - left[0] - right[0]) % P
    return x, (slope * (left[0] - x) - left[1]) % P


def _times(scalar: int, point: Point) -> Point | None:
    result: Point | None = None
    for bit in bin(scalar % N)[2:]:
        result = _add(result, result)
        if bit == "1":
            result = _add(result, point)
    return result
