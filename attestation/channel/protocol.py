"""Constants inside the channel: labels and sizes. Algorithm numbers: kem, hpke, suite; what stands
outside: wire.

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

TAG_BYTES = 16
NONCE_BYTES = 12
SESSION_ID_BYTES = 16
PSK_BYTES = 32

MAX_CHUNK_BYTES = 16 * 1024
"""Plaintext of one chunk: what every implementation of the draft must accept."""

MAX_KEY_CONFIGS = 64
