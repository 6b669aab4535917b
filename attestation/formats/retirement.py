"""Retirement: a boot's own word that its keys are gone (docs/spec/log.md).

Signed with the receipt key of its KeyBundle, B[3]; whoever holds that key is the enclave.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.digests import DIGEST_BYTES, domain_digest

BOOT_ID_BYTES = 16
SIGNATURE_BYTES = 64
MAX_RETIREMENT_BYTES = 256
_KEYS = frozenset(range(4))


@dataclass(frozen=True)
class Retirement:
    """`boot_id` of 16 bytes, `bundle_digest` of its last KeyBundle in use, Ed25519 signature."""

    boot_id: bytes
    bundle_digest: bytes
    signature: bytes

    def __post_init__(self) -> None:
        lengths = (len(self.boot_id), len(self.bundle_digest), len(self.signature))
        if lengths != (BOOT_ID_BYTES, DIGEST_BYTES, SIGNATURE_BYTES):
            raise ParseError(f"retirement: expected 16, 32 and 64 bytes, got {lengths}")

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, boot_id: bytes, bundle_digest: bytes) -> Retirement:
        return cls(boot_id, bundle_digest, key.sign(_message(boot_id, bundle_digest)))

    def to_bytes(self) -> bytes:
        return cbor.encode({0: 1, 1: self.boot_id, 2: self.bundle_digest, 3: self.signature})

    @classmethod
    def from_bytes(cls, data: bytes) -> Retirement:
        """Raises ParseError for anything that is not exactly one retirement."""
        fields = cbor.decode_map(data, required=_KEYS, limit=MAX_RETIREMENT_BYTES)
        if [type(fields[key]) for key in range(4)] != [int, bytes, bytes, bytes] or fields[0] != 1:
            raise ParseError(
                "retirement: expected version 1, boot id, bundle digest, signature, got "
                "another form"
            )
        return cls(fields[1], fields[2], fields[3])

    def check(self, receipt_key: bytes) -> None:
        """`receipt_key` is B[3], 32 bytes. Raises NotAuthentic("log", "bad-retirement")."""
        message = _message(self.boot_id, self.bundle_digest)
        try:
            Ed25519PublicKey.from_public_bytes(receipt_key).verify(self.signature, message)
        except (InvalidSignature, ValueError):
            text = (
                "retirement: expected a signature by the receipt key B[3], got one that "
                "does not hold"
            )
            raise NotAuthentic("log", "bad-retirement", text) from None


def _message(boot_id: bytes, bundle_digest: bytes) -> bytes:
    return domain_digest("umay/retire/v1", boot_id, bundle_digest)
