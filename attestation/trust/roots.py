"""The vendors' root public keys, pinned as SHA-256 of the SubjectPublicKeyInfo.

Evidence brings its certificate chain; only the key at its end is known beforehand.
Each value was computed from the vendor's own published root certificate: Intel
SGX Root CA (PCS), ARK certificates (AMD KDS), NVIDIA Device Identity CA and NVIDIA
CoRIM root (NVIDIA attestation trust-anchor pages).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Roots:
    """SHA-256 digests (32 bytes) of accepted root SubjectPublicKeyInfos, per vendor.

    `simulated` marks roots of a simulator: every report made under them says so.
    """

    intel: frozenset[bytes]
    amd: frozenset[bytes]
    nvidia_device: frozenset[bytes]
    nvidia_rim: frozenset[bytes]
    simulated: bool


def _pin(*digests: str) -> frozenset[bytes]:
    return frozenset(bytes.fromhex(digest) for digest in digests)


PRODUCTION = Roots(
    intel=_pin("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"),
    amd=_pin(
        "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",  # ARK-Milan
        "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",  # ARK-Genoa
        "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",  # ARK-Turin
    ),
    nvidia_device=_pin("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"),
    nvidia_rim=_pin("dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"),
    simulated=False,
)
