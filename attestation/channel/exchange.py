"""What both ends derive alike: the header, the HPKE info, the keys of the response."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from attestation.channel import hpke, kdf
from attestation.channel.protocol import (
    LABEL_CHUNKED_REQUEST,
    LABEL_CHUNKED_RESPONSE,
    LABEL_REQUEST,
    LABEL_RESPONSE,
    NONCE_BYTES,
)
from attestation.channel.suite import Suite
from attestation.errors import UsageError

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


def response_nonce_bytes(suite: Suite) -> int:
    return max(NONCE_BYTES, suite.key_bytes)


def new_response_nonce(suite: Suite) -> bytes:
    return secrets.token_bytes(response_nonce_bytes(suite))
