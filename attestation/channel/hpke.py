"""HPKE in base mode and in PSK mode (RFC 9180 §5.1), with a key schedule of our own: chunked
Oblivious HTTP needs contexts, additional data and the exporter, which the library keeps to
itself.

A context numbers its messages; sealing or opening out of turn fails. Secrets stay out
of every repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from attestation.channel import kdf, kem
from attestation.channel.protocol import NONCE_BYTES
from attestation.errors import ChannelError, UsageError

HKDF_SHA256_ID = 0x0001
AES_128_GCM_ID, AES_256_GCM_ID, CHACHA20_POLY1305_ID = 0x0001, 0x0002, 0x0003
KEY_BYTES = {AES_128_GCM_ID: 16, AES_256_GCM_ID: 32, CHACHA20_POLY1305_ID: 32}
MIN_PSK_BYTES = 32
"""RFC 9180 §5.1.2: what guessing costs must not fall below the other secrets."""

MAX_MESSAGES = 2**32
"""Far below what AES-GCM bears under one key, far above any answer."""


def cipher(aead_id: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """The AEAD over `key`. Raises ChannelError for an unknown one."""
    if aead_id not in KEY_BYTES:
        raise ChannelError(f"AEAD: expected one of our suites, got {aead_id:#06x}")
    return ChaCha20Poly1305(key) if aead_id == CHACHA20_POLY1305_ID else AESGCM(key)


@dataclass
class Sequence:
    """An AEAD whose nonce counts: base nonce XOR number (RFC 9180 §5.2)."""

    aead: AESGCM | ChaCha20Poly1305 = field(repr=False)
    base_nonce: bytes = field(repr=False)
    number: int = 0

    def __post_init__(self) -> None:
        self._base = int.from_bytes(self.base_nonce, "big")

    def _nonce(self) -> bytes:
        if self.number >= MAX_MESSAGES:
            raise ChannelError(
                f"HPKE: expected at most {MAX_MESSAGES} messages in one exchange, got more"
            )
        return (self._base ^ self.number).to_bytes(NONCE_BYTES, "big")

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        sealed = self.aead.encrypt(self._nonce(), plaintext, aad)
        self.number += 1
        return sealed

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        """Raises ChannelError for anything but the next message under `aad`."""
        try:
            opened = self.aead.decrypt(self._nonce(), ciphertext, aad)
        except InvalidTag:
            raise ChannelError(
                "sealed message: expected one by this exchange in its order, got one that "
                "is not authentic"
            ) from None
        self.number += 1
        return opened


@dataclass
class Context:
    """One direction's messages, and the exporter both ends share."""

    messages: Sequence
    suite: bytes
    exporter_secret: bytes = field(repr=False)

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        return self.messages.seal(plaintext, aad)

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        return self.messages.open(ciphertext, aad)

    def export(self, label: bytes, length: int) -> bytes:
        """`length` bytes that only both ends of this exchange know (RFC 9180 §5.3)."""
        return kdf.labeled_expand(self.suite, self.exporter_secret, b"sec", label, length)


@dataclass(frozen=True)
class Psk:
    """A pre-shared key of at least 32 bytes and its id, which is not empty (RFC 9180 §5.1.2).

    Raises UsageError for a shorter key or an empty id.
    """

    key: bytes = field(repr=False)
    id: bytes

    def __post_init__(self) -> None:
        if len(self.key) < MIN_PSK_BYTES or not self.id:
            raise UsageError(
                f"PSK: expected a key of at least {MIN_PSK_BYTES} bytes and an id, got "
                f"{len(self.key)} and {len(self.id)} bytes"
            )


def setup_sender(
    *,
    kem_id: int,
    aead_id: int,
    public: bytes,
    info: bytes,
    psk: Psk | None = None,
    ephemeral: bytes | None = None,
) -> tuple[bytes, Context]:
    """(enc, context). With a `psk` in PSK mode: opening takes it and the private key, both.

    `ephemeral` is for vectors alone. Raises ChannelError.
    """
    secret, enc = kem.encapsulate(kem_id, public, ephemeral=ephemeral)
    return enc, _schedule(kem_id, aead_id, secret, info, psk)


def setup_receiver(
    key: kem.PrivateKey, *, aead_id: int, enc: bytes, info: bytes, psk: Psk | None = None
) -> Context:
    """The context of what was sealed to `key`, in PSK mode with a `psk`. Raises ChannelError."""
    return _schedule(key.kem_id, aead_id, key.decapsulate(enc), info, psk)


def _schedule(kem_id: int, aead_id: int, secret: bytes, info: bytes, psk: Psk | None) -> Context:
    if aead_id not in KEY_BYTES:
        raise ChannelError(f"AEAD: expected one of our suites, got {aead_id:#06x}")
    ids = (kem_id, HKDF_SHA256_ID, aead_id)
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in ids)
    mode, psk_key, psk_id = (b"\1", psk.key, psk.id) if psk else (b"\0", b"", b"")
    psk_id_hash = kdf.labeled_extract(suite, b"", b"psk_id_hash", psk_id)
    context = mode + psk_id_hash + kdf.labeled_extract(suite, b"", b"info_hash", info)
    root = kdf.labeled_extract(suite, secret, b"secret", psk_key)
    key = kdf.labeled_expand(suite, root, b"key", context, KEY_BYTES[aead_id])
    nonce = kdf.labeled_expand(suite, root, b"base_nonce", context, NONCE_BYTES)
    exporter = kdf.labeled_expand(suite, root, b"exp", context, kdf.HASH_BYTES)
    return Context(Sequence(cipher(aead_id, key), nonce), suite, exporter)
