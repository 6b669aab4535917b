"""A receipt as COSE_Sign1 (RFC 9052 §4.2, EdDSA of RFC 9053 §2.2), for verifiers that know COSE.

A receipt's own signature is over a digest under our domain, which is what contracts check. COSE
signs a structure of its own, so the enclave signs a second time, with the same key B[3]. Neither
message can be the other: ours are digests of 32 bytes or begin with "umay/", this is a CBOR array
that begins with "Signature1".
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.receipt import MAX_RECEIPT_BYTES, Receipt

CONTENT_TYPE = "application/umay-receipt+cbor"
PROTECTED = cbor.encode({1: -8, 3: CONTENT_TYPE})
"""The protected header: algorithm EdDSA, content type."""

SIGNATURE_BYTES = 64
TAG = b"\xd2"
"""Of COSE_Sign1: 18, as one byte."""


def sign(body: bytes, key: Ed25519PrivateKey) -> bytes:
    """The COSE signature (64 bytes) of a receipt's bytes."""
    return key.sign(to_be_signed(body))


def to_be_signed(body: bytes) -> bytes:
    """Sig_structure of RFC 9052 §4.4, without external data."""
    return cbor.encode(["Signature1", PROTECTED, b"", body])


def check(body: bytes, signature: bytes, receipt_key: bytes) -> None:
    """Raises NotAuthentic("receipt", "bad-cose-signature") unless it is by B[3] (32 bytes)."""
    try:
        public = Ed25519PublicKey.from_public_bytes(receipt_key)
        public.verify(signature, to_be_signed(body))
    except (InvalidSignature, ValueError):
        raise NotAuthentic(
            "receipt",
            "bad-cose-signature",
            "receipt: expected a COSE signature by the receipt key B[3], got another one",
        ) from None


def encode(body: bytes, signature: bytes) -> bytes:
    """The tagged COSE_Sign1 with the receipt's bytes as its payload."""
    return TAG + cbor.encode([PROTECTED, {}, body, signature])


def decode(data: bytes) -> tuple[bytes, bytes]:
    """(receipt's bytes, signature), which `check` judges.

    Raises ParseError for anything but what `encode` writes of a receipt.
    """
    if data[:1] != TAG:
        raise ParseError("COSE receipt: expected tag 18, COSE_Sign1, got another first byte")
    value = cbor.decode(data[1:], limit=MAX_RECEIPT_BYTES + 256)
    good = isinstance(value, list) and [type(item) for item in value] == [bytes, dict, bytes, bytes]
    if not good or value[0] != PROTECTED or value[1]:
        raise ParseError(
            "COSE receipt: expected [protected, {}, payload, signature] with the protected header "
            f"of EdDSA and {CONTENT_TYPE}, got another value"
        )
    if len(value[3]) != SIGNATURE_BYTES:
        raise ParseError(f"COSE receipt: expected a signature of 64 bytes, got {len(value[3])}")
    Receipt.from_bytes(value[2])
    return value[2], value[3]
