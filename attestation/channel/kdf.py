"""HKDF-SHA256 with RFC 9180's labels (§4)."""

from __future__ import annotations

import hmac

HASH_BYTES = 32


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869), 32 bytes."""
    return hmac.digest(salt or bytes(HASH_BYTES), secret, "sha256")


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869), at most 8160 bytes."""
    output, block = b"", b""
    for counter in range(1, -(-length // HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def labeled_extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + secret)


def labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def dhkem_secret(kem_id: int, shared: bytes, context: bytes) -> bytes:
    """ExtractAndExpand of RFC 9180 §4.1: 32 bytes."""
    suite = b"KEM" + kem_id.to_bytes(2, "big")
    key = labeled_extract(suite, b"", b"eae_prk", shared)
    return labeled_expand(suite, key, b"shared_secret", context, HASH_BYTES)
