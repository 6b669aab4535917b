"""Key encapsulation for HPKE: DHKEM(X25519) of RFC 9180 §4.1 and X-Wing.

X-Wing (draft-connolly-cfrg-xwing-kem) joins ML-KEM-768 and X25519, so that a prompt
stays secret while either holds.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from attestation.channel import kdf
from attestation.errors import ChannelError

X25519_ID, X_WING_ID = 0x0020, 0x647A
X25519_BYTES = 32
MLKEM_PUBLIC_BYTES, MLKEM_CIPHERTEXT_BYTES, MLKEM_SEED_BYTES = 1184, 1088, 64
SECRET_BYTES = 32
_X_WING_LABEL = rb"\.//^" + b"\\"


class PrivateKey(Protocol):
    """A KEM private key. `public` is its serialised public key."""

    kem_id: int
    public: bytes

    def decapsulate(self, enc: bytes) -> bytes: ...


class X25519Key:
    """DHKEM(X25519, HKDF-SHA256)."""

    kem_id = X25519_ID

    def __init__(self, secret: bytes) -> None:
        """`secret` is 32 bytes. Raises ChannelError for another length."""
        if len(secret) != X25519_BYTES:
            raise ChannelError(
                f"X25519: expected a key of {X25519_BYTES} bytes, got another length"
            )
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> X25519Key:
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    def decapsulate(self, enc: bytes) -> bytes:
        """The 32-byte shared secret of `enc` (32 bytes). Raises ChannelError."""
        shared = _exchange(self._key, enc)
        return kdf.dhkem_secret(X25519_ID, shared, enc + self.public)


class XWingKey:
    """X-Wing, expanded from a 32-byte seed."""

    kem_id = X_WING_ID

    def __init__(self, seed: bytes) -> None:
        """Raises ChannelError for a seed of another length than 32 bytes."""
        if len(seed) != SECRET_BYTES:
            raise ChannelError(f"X-Wing: expected a seed of {SECRET_BYTES} bytes")
        expanded = hashlib.shake_256(seed).digest(MLKEM_SEED_BYTES + X25519_BYTES)
        self._mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:MLKEM_SEED_BYTES])
        self._x25519 = X25519PrivateKey.from_private_bytes(expanded[MLKEM_SEED_BYTES:])
        self._x_public = self._x25519.public_key().public_bytes_raw()
        self.public = self._mlkem.public_key().public_bytes_raw() + self._x_public

    @classmethod
    def generate(cls) -> XWingKey:
        return cls(secrets.token_bytes(SECRET_BYTES))

    def decapsulate(self, enc: bytes) -> bytes:
        """The 32-byte shared secret of `enc` (1120 bytes). Raises ChannelError."""
        if len(enc) != MLKEM_CIPHERTEXT_BYTES + X25519_BYTES:
            raise ChannelError("X-Wing: expected an encapsulated key of 1120 bytes")
        ciphertext, x_enc = enc[:MLKEM_CIPHERTEXT_BYTES], enc[MLKEM_CIPHERTEXT_BYTES:]
        mlkem_secret = self._mlkem.decapsulate(ciphertext)
        return _combine(mlkem_secret, _exchange(self._x25519, x_enc), x_enc, self._x_public)


def encapsulate(
    kem_id: int, public: bytes, *, ephemeral: bytes | None = None
) -> tuple[bytes, bytes]:
    """(shared secret, enc) for a public key. `ephemeral` (32 bytes) is for vectors alone.

    Raises ChannelError for an unknown KEM or a key it cannot take.
    """
    if kem_id == X25519_ID:
        key = _ephemeral(ephemeral)
        enc = key.public_key().public_bytes_raw()
        return kdf.dhkem_secret(X25519_ID, _exchange(key, public), enc + public), enc
    if kem_id == X_WING_ID:
        return _encapsulate_x_wing(public, _ephemeral(ephemeral))
    raise ChannelError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")


def public_bytes(kem_id: int) -> int:
    """Size of a KEM's public key. Raises ChannelError for an unknown KEM."""
    sizes = {X25519_ID: X25519_BYTES, X_WING_ID: MLKEM_PUBLIC_BYTES + X25519_BYTES}
    if kem_id not in sizes:
        raise ChannelError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
    return sizes[kem_id]


def enc_bytes(kem_id: int) -> int:
    """Size of a KEM's encapsulated key. Raises ChannelError for an unknown KEM."""
    sizes = {X25519_ID: X25519_BYTES, X_WING_ID: MLKEM_CIPHERTEXT_BYTES + X25519_BYTES}
    if kem_id not in sizes:
        raise ChannelError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
    return sizes[kem_id]


def _encapsulate_x_wing(public: bytes, key: X25519PrivateKey) -> tuple[bytes, bytes]:
    if len(public) != public_bytes(X_WING_ID):
        raise ChannelError("X-Wing: expected a public key of 1216 bytes")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES])
    except ValueError:
        raise ChannelError("X-Wing: expected an ML-KEM-768 public key, got other bytes") from None
    mlkem_secret, ciphertext = mlkem.encapsulate()
    x_public, x_enc = public[MLKEM_PUBLIC_BYTES:], key.public_key().public_bytes_raw()
    secret = _combine(mlkem_secret, _exchange(key, x_public), x_enc, x_public)
    return secret, ciphertext + x_enc


def _combine(mlkem_secret: bytes, x_secret: bytes, x_enc: bytes, x_public: bytes) -> bytes:
    joined = mlkem_secret + x_secret + x_enc + x_public + _X_WING_LABEL
    return hashlib.sha3_256(joined).digest()


def _ephemeral(secret: bytes | None) -> X25519PrivateKey:
    return (
        X25519PrivateKey.generate()
        if secret is None
        else X25519PrivateKey.from_private_bytes(secret)
    )


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # another length, or a point of low order (all-zero secret)
        raise ChannelError("X25519: expected a usable public key, got another point") from None
