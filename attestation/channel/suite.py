"""A choice of algorithms, by their registered numbers."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.channel import kem
from attestation.channel.hpke import (
    AES_128_GCM_ID,
    AES_256_GCM_ID,
    CHACHA20_POLY1305_ID,
    HKDF_SHA256_ID,
    KEY_BYTES,
)
from attestation.errors import UsageError

KEMS = (kem.X_WING_ID, kem.X25519_ID)
AEADS = (AES_256_GCM_ID, CHACHA20_POLY1305_ID, AES_128_GCM_ID)
PREFERENCES = tuple((kem_id, aead_id) for kem_id in KEMS for aead_id in AEADS)
"""(KEM, AEAD) as clients choose, best first; the KDF is always HKDF-SHA256."""


@dataclass(frozen=True)
class Suite:
    """A KEM and an AEAD of ours, over HKDF-SHA256. Raises UsageError for any other."""

    kem_id: int
    aead_id: int
    kdf_id: int = HKDF_SHA256_ID

    def __post_init__(self) -> None:
        known = self.kem_id in KEMS and self.aead_id in KEY_BYTES
        if not known or self.kdf_id != HKDF_SHA256_ID:
            raise UsageError(
                f"HPKE suite: expected one of ours, got KEM {self.kem_id:#06x}, "
                f"KDF {self.kdf_id:#06x}, AEAD {self.aead_id:#06x}"
            )

    @property
    def key_bytes(self) -> int:
        """Of the AEAD key."""
        return KEY_BYTES[self.aead_id]

    @property
    def enc_bytes(self) -> int:
        """Of the encapsulated key."""
        return kem.enc_bytes(self.kem_id)

    @property
    def post_quantum(self) -> bool:
        return self.kem_id == kem.X_WING_ID

    def numbers(self) -> bytes:
        """KEM, KDF and AEAD numbers, six bytes, as a request's header carries them."""
        return b"".join(n.to_bytes(2, "big") for n in (self.kem_id, self.kdf_id, self.aead_id))
