"""Network files for tests, signed as asked."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.formats.network_file import NetworkFile, sign
from tests.helpers.world import NOW

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 7)]
"""The first three are the operators of the first version, two of whom have to sign."""


def body(version: int, keys: list[Ed25519PrivateKey], **changes: Any) -> dict[int, Any]:
    fields = {
        0: 1,
        1: "umay-test",
        2: version,
        3: NOW - 100,
        4: NOW + 86_400,
        5: 2,
        6: [key.public_key().public_bytes_raw() for key in keys],
        7: [f"https://relay{version}.example"],
        8: [],
        9: [],
        10: [],
    }
    return fields | {int(key.removeprefix("k")): value for key, value in changes.items()}


def network_file(
    version: int,
    *,
    keys: list[Ed25519PrivateKey] = KEYS[:3],
    signers: list[Ed25519PrivateKey] = KEYS[:2],
    **changes: Any,
) -> NetworkFile:
    """`changes` by key of the body: k4=… is its end."""
    return sign(body(version, keys, **changes), signers)
