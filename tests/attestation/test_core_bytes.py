"""KeyBundle, Evidence, Collateral, Receipt, CBOR: one byte string per value, and back."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, UmayError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import (
    Device,
    Evidence,
    fresh_published,
    fresh_session,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
    statement,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.formats.receipt import Receipt, SignedReceipt, matches, salted_hash

BUNDLE = KeyBundle(
    boot_id=bytes(16),
    key_configs=(b"\x01" * 41, b"\x02" * 1225),
    receipt_key=b"\x03" * 32,
    model_digest=b"\x04" * 32,
    engine_digest=b"\x05" * 32,
    gpu_count=1,
    not_before=1_790_000_000,
    not_after=1_790_004_200,
    network="umay-test",
    beacon=(7, b"\x06" * 32),
    price_digest=b"\x07" * 32,
    host_config_digest=b"\x08" * 32,
)
EVIDENCE = Evidence(
    platform="tdx",
    bundle=BUNDLE.to_bytes(),
    quote=b"quote",
    ccel=b"log",
    rtmr3_events=(b"\x09" * 48,),
    devices=(Device(0, b"report", (b"leaf", b"root")), Device(1, b"switch", (b"leaf",))),
)
RECEIPT = Receipt(
    evidence_digest=b"\x01" * 32,
    model_digest=b"\x02" * 32,
    request_hash=b"\x03" * 32,
    response_hash=b"\x04" * 32,
    finish_reason="stop",
    tokens=(1, 0, 2, 0),
    price_digest=b"\x05" * 32,
    amount=9,
    time=1_790_000_040,
    sequence=1,
)


@pytest.mark.parametrize("value", [BUNDLE, EVIDENCE, RECEIPT], ids=lambda v: type(v).__name__)
def test_bytes_and_back(value: KeyBundle | Evidence | Receipt) -> None:
    data = value.to_bytes()
    assert type(value).from_bytes(data) == value
    assert type(value).from_bytes(data).to_bytes() == data


def test_digests_follow_the_written_formulas() -> None:
    """Recomputed here from DESIGN §4 with hashlib alone."""

    def h(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    b = bundle_digest(EVIDENCE.bundle)
    assert b == h(EVIDENCE.bundle)
    assert gpu_nonce(b) == h(b"umay/gpu-nonce/v1\0", b)
    devices = (
        b"\0\0\0\x02"
        + b"\0" + b"\0\0\0\x06" + b"report" + b"\0\0\0\x08" + b"leafroot"
        + b"\1" + b"\0\0\0\x06" + b"switch" + b"\0\0\0\x04" + b"leaf"
    )  # fmt: skip
    e = gpu_evidence_digest(EVIDENCE.devices)
    assert e == h(b"umay/gpu-evidence/v1\0", devices)
    assert report_data_binding(b, e) == h(b"umay/report/v1\0", b, e)
    assert fresh_published(b"r" * 32) == h(b"umay/fresh/v1\0", b"\0", b"r" * 32)
    assert fresh_session(b"r" * 32) == h(b"umay/fresh/v1\0", b"\2", b"r" * 32)
    assert statement(b"signed") == h(b"umay/statement/v1\0", b"signed")
    registers = (b"\1" * 48, b"\2" * 48, b"\3" * 48, b"\4" * 48)
    encoded = b"\x85\x63tdx" + b"".join(b"\x58\x30" + register for register in registers)
    assert measurement_digest("tdx", registers) == h(b"umay/measurement/v1\0", encoded)


BAD_CBOR = {
    "empty": b"",
    "trailing": b"\x01\x02",
    "long form of a small integer": b"\x18\x01",
    "indefinite array": b"\x9f\xff",
    "duplicate key": b"\xa2\x00\x01\x00\x02",
    "unsorted keys": b"\xa2\x01\x01\x00\x01",
    "float": b"\xf9\x3c\x00",
    "tag": b"\xc2\x41\x01",
    "undefined": b"\xf7",
    "simple value": b"\xe0",
    "deep": b"\x81" * 40 + b"\x01",
    "truncated": b"\x58\x20abc",
    "huge length": b"\x5b" + b"\xff" * 8,
    "array as key": b"\xa1\x80\x01",
    "text not UTF-8": b"\x61\xff",
}


@pytest.mark.parametrize("data", BAD_CBOR.values(), ids=BAD_CBOR)
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        cbor.decode(data)


values = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**64 - 1), st.binary(max_size=20), st.text(max_size=9), st.booleans()
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 30), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_hypothesis_cbor_identity(value: object) -> None:
    try:
        assert cbor.decode(cbor.encode(value)) == value
    except ParseError as error:
        assert "nested" in str(error)


@given(st.binary(max_size=120))
def test_hypothesis_arbitrary_bytes(data: bytes) -> None:
    for parse in (
        cbor.decode,
        KeyBundle.from_bytes,
        Evidence.from_bytes,
        Collateral.from_bytes,
        Receipt.from_bytes,
        SignedReceipt.from_bytes,
    ):
        try:
            value = parse(data)
        except UmayError:
            continue
        encoded = cbor.encode(value) if parse is cbor.decode else value.to_bytes()
        assert encoded == data


@given(st.integers(0, len(EVIDENCE.to_bytes()) - 1), st.integers(1, 255))
def test_hypothesis_flipped_evidence_is_other_evidence_or_refused(at: int, flip: int) -> None:
    data = bytearray(EVIDENCE.to_bytes())
    data[at] ^= flip
    try:
        assert Evidence.from_bytes(bytes(data)) != EVIDENCE
    except ParseError:
        pass


BAD_BUNDLES = {
    "version 2": {0: 2},
    "version true": {0: True},
    "short boot id": {1: b"x"},
    "no key configs": {2: []},
    "too many key configs": {2: [b"k"] * 9},
    "key config as text": {2: ["k"]},
    "short digest": {4: b"x" * 31},
    "negative GPUs": {6: -1},
    "GPU count true": {6: True},
    "ends before it begins": {8: 1},
    "beacon without hash": {10: [7]},
    "beacon seqno over 32 bits": {10: [2**32, b"\x06" * 32]},
    "empty network": {9: ""},
    "critical key": {-1: 0},
    "TLS hash of 31 bytes": {12: b"x" * 31},
}


@pytest.mark.parametrize("change", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_bad_bundles_are_refused(change: dict[int, object]) -> None:
    fields = cbor.decode(BUNDLE.to_bytes()) | change
    with pytest.raises(ParseError):
        KeyBundle.from_bytes(cbor.encode(fields))


def test_a_missing_key_is_named() -> None:
    fields = cbor.decode(BUNDLE.to_bytes())
    del fields[6]
    with pytest.raises(ParseError, match="expected key 6, got none"):
        KeyBundle.from_bytes(cbor.encode(fields))


def test_receipt_signature_holds_only_for_its_key_and_bytes() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed = RECEIPT.sign(key)
    assert (
        SignedReceipt.from_bytes(signed.to_bytes()).open(key.public_key().public_bytes_raw())
        == RECEIPT
    )
    with pytest.raises(NotAuthentic):
        signed.open(other.public_key().public_bytes_raw())
    body = bytearray(signed.body)
    body[-1] ^= 1
    with pytest.raises(UmayError):
        SignedReceipt(bytes(body), signed.signature).open(key.public_key().public_bytes_raw())


@pytest.mark.parametrize("key", [12, 13, 1000, -1])
def test_a_receipt_with_another_key_is_refused(key: int) -> None:
    """Or a contract could not write its bytes again, and it could not be held against anyone."""
    fields = cbor.decode(RECEIPT.to_bytes())
    with pytest.raises(ParseError, match=r"no other|negative"):
        Receipt.from_bytes(cbor.encode({**fields, key: 0}))


def test_salted_hash_depends_on_salt_and_content() -> None:
    digest = salted_hash(b"s" * 32, b"question")
    assert matches(digest, b"s" * 32, b"question")
    assert not matches(digest, b"t" * 32, b"question")
    assert not matches(digest, b"s" * 32, b"another")
    with pytest.raises(ParseError):
        salted_hash(b"short", b"question")
