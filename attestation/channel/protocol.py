"""Constants inside the channel: labels, algorithm numbers, sizes. What stands outside: wire.

RFC 9180 (HPKE), RFC 9292 (binary HTTP), RFC 9458 (Oblivious HTTP),
draft-ietf-ohai-chunked-ohttp-08, draft-connolly-cfrg-xwing-kem.
"""

from __future__ import annotations

LABEL_REQUEST = b"message/bhttp request"
LABEL_RESPONSE = b"message/bhttp response"
LABEL_CHUNKED_REQUEST = b"message/bhttp chunked request"
LABEL_CHUNKED_RESPONSE = b"message/bhttp chunked response"
LABEL_SESSION_REQUEST = b"message/umay-session request"
LABEL_SESSION_KEY = b"message/umay-session key"
LABEL_SESSION_PSK = b"umay/session-psk/v1"
FINAL_AAD = b"final"

KEM_X25519 = 0x0020
KEM_XWING = 0x647A
KDF_HKDF_SHA256 = 0x0001
AEAD_AES_128_GCM = 0x0001
AEAD_AES_256_GCM = 0x0002
AEAD_CHACHA20_POLY1305 = 0x0003

TAG_BYTES = 16
NONCE_BYTES = 12
HASH_BYTES = 32
SESSION_ID_BYTES = 16
PSK_BYTES = 32

PREFERENCES = tuple(
    (kem, aead)
    for kem in (KEM_XWING, KEM_X25519)
    for aead in (AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, AEAD_AES_128_GCM)
)
"""(KEM, AEAD) as clients choose, best first; the KDF is always HKDF-SHA256."""

POST_QUANTUM_KEMS = frozenset({KEM_XWING})

MAX_CHUNK_BYTES = 16 * 1024
"""Plaintext of one chunk: what every implementation of the draft must accept."""

MAX_KEY_CONFIGS = 64
