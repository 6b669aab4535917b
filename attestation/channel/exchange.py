"""What both ends derive alike: the header, the HPKE info, the keys of the response.

A request to a session is sealed twice over: base mode to the session key gives a secret, and
with it as PSK the epoch key seals the request. Whoever lacks one of the two private keys lacks
the key of the request (docs/spec/channel.md).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from attestation.channel import hpke, kdf
from attestation.channel.protocol import (
    LABEL_CHUNKED_REQUEST,
    LABEL_CHUNKED_RESPONSE,
    LABEL_REQUEST,
    LABEL_RESPONSE,
    LABEL_SESSION_KEY,
    LABEL_SESSION_PSK,
    LABEL_SESSION_REQUEST,
    NONCE_BYTES,
    PSK_BYTES,
    SESSION_ID_BYTES,
)
from attestation.channel.suite import Suite
from attestation.errors import UsageError
from attestation.formats.digests import sha256

HEADER_BYTES = 7


@dataclass(frozen=True)
class Exchange:
    """One request and its response, as either end knows them once the keys are agreed."""

    suite: Suite
    enc: bytes
    context: hpke.Context
    chunked: bool

    def response_messages(self, nonce: bytes) -> hpke.Sequence:
        """RFC 9458 §4.4: what seals or opens the response that begins with `nonce`."""
        label = LABEL_CHUNKED_RESPONSE if self.chunked else LABEL_RESPONSE
        secret = self.context.export(label, response_nonce_bytes(self.suite))
        prk = kdf.extract(self.enc + nonce, secret)
        key = kdf.expand(prk, b"key", self.suite.key_bytes)
        base_nonce = kdf.expand(prk, b"nonce", NONCE_BYTES)
        return hpke.Sequence(hpke.cipher(self.suite.aead_id, key), base_nonce)

    def export(self, label: bytes, length: int) -> bytes:
        """Secret bytes for another use, such as a receipt's salt; equal at both ends.

        Raises UsageError for the labels from which the response keys come.
        """
        if label in (LABEL_RESPONSE, LABEL_CHUNKED_RESPONSE):
            raise UsageError("export: this label belongs to the response keys")
        return self.context.export(label, length)


def header(key_id: int, suite: Suite) -> bytes:
    """RFC 9458 §4.3: key id and algorithm numbers, 7 bytes."""
    return bytes([key_id]) + suite.numbers()


def info(head: bytes, *, chunked: bool) -> bytes:
    """The HPKE info: label, zero byte, header."""
    return (LABEL_CHUNKED_REQUEST if chunked else LABEL_REQUEST) + b"\0" + head


def session_id(config: bytes) -> bytes:
    """By which a request names a session: the first 16 bytes of its key configuration's hash."""
    return sha256(config)[:SESSION_ID_BYTES]


def session_key_info(head: bytes, name: bytes) -> bytes:
    """The HPKE info under the session key: label, zero byte, header, session id."""
    return LABEL_SESSION_KEY + b"\0" + head + name


def session_info(clear: bytes) -> bytes:
    """The HPKE info under the epoch key: label, zero byte, all of the request before `enc`."""
    return LABEL_SESSION_REQUEST + b"\0" + clear


def session_psk(context: hpke.Context, config_digest: bytes) -> hpke.Psk:
    """What the session key contributes. `config_digest` is the hash of its configuration."""
    return hpke.Psk(context.export(LABEL_SESSION_PSK, PSK_BYTES), config_digest)


def response_nonce_bytes(suite: Suite) -> int:
    return max(NONCE_BYTES, suite.key_bytes)


def new_response_nonce(suite: Suite) -> bytes:
    return secrets.token_bytes(response_nonce_bytes(suite))
