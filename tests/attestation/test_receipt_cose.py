"""Receipts as COSE_Sign1: the bytes that RFC 9052 gives, and every other one refused."""

from __future__ import annotations

import hashlib

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor, receipt_cose
from attestation.formats.receipt import Receipt

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
RECEIPT = Receipt(
    evidence_digest=b"\x01" * 32,
    model_digest=b"\x02" * 32,
    request_hash=b"\x03" * 32,
    response_hash=b"\x04" * 32,
    finish_reason="stop",
    tokens=(5, 0, 3, 0),
    price_digest=b"\x05" * 32,
    amount=36,
    time=1_795_000_020,
    sequence=7,
)
BODY = RECEIPT.to_bytes()
SIGNATURE = receipt_cose.sign(BODY, KEY)
GOOD = receipt_cose.encode(BODY, SIGNATURE)
VECTOR = "2251c363496b457e32fa2e13f856ad19b93d90ad6975922625d462ba5ba583ae"
"""SHA-256 of GOOD. pycose 1.1.0 and cwt 3.3.0 accept these bytes under PUBLIC, and refuse them with
one bit changed."""


def test_the_file_is_the_one_that_other_implementations_accept() -> None:
    assert hashlib.sha256(GOOD).hexdigest() == VECTOR


def test_the_structure_is_written_by_hand() -> None:
    """RFC 9052 §4.4, byte by byte."""
    protected = b"\xa2\x01\x27\x03\x78\x1d" + b"application/umay-receipt+cbor"
    assert protected == receipt_cose.PROTECTED
    head = b"\x84\x6aSignature1" + b"\x58" + bytes([len(protected)]) + protected + b"\x40"
    signed = head + b"\x58" + bytes([len(BODY)]) + BODY
    assert receipt_cose.to_be_signed(BODY) == signed
    KEY.public_key().verify(SIGNATURE, signed)
    tagged = cbor2.loads(GOOD)
    assert (tagged.tag, list(tagged.value)) == (18, [protected, {}, BODY, SIGNATURE])


def test_what_is_encoded_is_decoded_and_holds() -> None:
    body, signature = receipt_cose.decode(GOOD)
    receipt_cose.check(body, signature, PUBLIC)
    assert Receipt.from_bytes(body) == RECEIPT


def test_it_is_not_the_receipts_other_signature() -> None:
    other = RECEIPT.sign(KEY).signature
    assert other != SIGNATURE
    with pytest.raises(NotAuthentic) as refused:
        receipt_cose.check(BODY, other, PUBLIC)
    assert refused.value.code == "bad-cose-signature"


WRONG = {
    "another receipt": (BODY[:-1] + b"\x08", SIGNATURE, PUBLIC),
    "another key": (BODY, SIGNATURE, b"\x07" * 32),
    "no key": (BODY, SIGNATURE, b""),
    "a flipped bit": (BODY, bytes([SIGNATURE[0] ^ 1]) + SIGNATURE[1:], PUBLIC),
    "a short one": (BODY, SIGNATURE[:-1], PUBLIC),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_signature_that_does_not_hold(name: str) -> None:
    with pytest.raises(NotAuthentic, match="bad-cose-signature"):
        receipt_cose.check(*WRONG[name])


def made(*parts: object) -> bytes:
    return receipt_cose.TAG + cbor.encode(list(parts))


PROTECTED = receipt_cose.PROTECTED
MALFORMED = {
    "nothing": b"",
    "no tag": GOOD[1:],
    "another tag": b"\xd1" + GOOD[1:],
    "a longer tag": b"\xd8\x12" + GOOD[1:],
    "a byte more": GOOD + b"\0",
    "a byte less": GOOD[:-1],
    "another algorithm": made(cbor.encode({1: -7}), {}, BODY, SIGNATURE),
    "an unprotected field": made(PROTECTED, {4: b"k"}, BODY, SIGNATURE),
    "no payload": made(PROTECTED, {}, None, SIGNATURE),
    "a payload that is no receipt": made(PROTECTED, {}, b"\xa0", SIGNATURE),
    "a short signature": made(PROTECTED, {}, BODY, SIGNATURE[:-1]),
    "three parts": made(PROTECTED, {}, BODY),
    "a map": receipt_cose.TAG + cbor.encode({0: 1}),
    "longer than any": made(PROTECTED, {}, bytes(1 << 16), SIGNATURE),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_cose_receipt_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        receipt_cose.decode(MALFORMED[name])


@settings(max_examples=100)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_passes(at: int, change: int) -> None:
    data = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
    with pytest.raises((ParseError, NotAuthentic)):
        body, signature = receipt_cose.decode(data)
        receipt_cose.check(body, signature, PUBLIC)
