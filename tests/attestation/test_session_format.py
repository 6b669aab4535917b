"""The bytes of a session: strict, bounded, and signed where they end."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation import wire
from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.session import (
    SessionAnswer,
    SessionRequest,
    check_gone,
    session_leaf,
    sign_gone,
)

GOOD: dict[int, Any] = {0: b"quote", 1: b"config", 2: [bytes(32)], 3: 1, 4: 2}


@given(nonce=st.binary(min_size=32, max_size=32), kem_id=st.integers(0, 0xFFFF))
def test_a_request_reads_back(nonce: bytes, kem_id: int) -> None:
    asked = SessionRequest(nonce, kem_id)
    assert SessionRequest.from_bytes(asked.to_bytes()) == asked


@pytest.mark.parametrize("length", [0, 32, 33, 35, 34 * 2])
def test_a_request_of_another_length(length: int) -> None:
    with pytest.raises(ParseError, match="session request: expected 34 bytes"):
        SessionRequest.from_bytes(bytes(length))


@given(
    quote=st.binary(max_size=100),
    config=st.binary(max_size=100),
    path=st.lists(st.binary(min_size=32, max_size=32), max_size=8),
    size=st.integers(1, 256),
    data=st.data(),
)
def test_an_answer_reads_back(
    quote: bytes, config: bytes, path: list[bytes], size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    answer = SessionAnswer(quote, config, tuple(path), index, size)
    assert SessionAnswer.from_bytes(answer.to_bytes()) == answer


@given(data=st.binary(max_size=200))
def test_other_bytes_are_refused_or_read_back(data: bytes) -> None:
    try:
        answer = SessionAnswer.from_bytes(data)
    except ParseError:
        return
    assert SessionAnswer.from_bytes(answer.to_bytes()) == answer


BAD: dict[str, dict[int, Any]] = {
    "a quote as text": {0: "quote"},
    "a key as a list": {1: [b"config"]},
    "no path": {2: None},
    "a path of nine": {2: [bytes(32)] * 9},
    "a short hash": {2: [bytes(31)]},
    "a hash as text": {2: ["0" * 32]},
    "an index that is no number": {3: True},
    "a size that is no number": {4: b"\2"},
    "an index below zero": {3: -1},
    "an index at the size": {3: 2},
    "a size of 257": {4: 257},
    "a critical key": {-1: 0},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_malformed_answer(change: dict[int, Any]) -> None:
    with pytest.raises(ParseError):
        SessionAnswer.from_bytes(cbor.encode(GOOD | change))


def test_the_last_of_256_sessions() -> None:
    last = GOOD | {2: [bytes(32)] * 8, 3: 255, 4: 256}
    answer = SessionAnswer.from_bytes(cbor.encode(last))
    assert (answer.index, answer.size, len(answer.path)) == (255, 256, 8)


@pytest.mark.parametrize("key", GOOD)
def test_an_answer_without_a_part(key: int) -> None:
    with pytest.raises(ParseError, match=f"expected key {key}"):
        SessionAnswer.from_bytes(cbor.encode({k: v for k, v in GOOD.items() if k != key}))


def test_an_answer_over_the_limit() -> None:
    with pytest.raises(ParseError, match="at most 65536 bytes"):
        SessionAnswer.from_bytes(cbor.encode(GOOD | {0: bytes(wire.MAX_SESSION_BYTES)}))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_leaf_of_another_nonce(length: int) -> None:
    with pytest.raises(ParseError, match="session nonce: expected 32 bytes"):
        session_leaf(bytes(length), b"config")


@pytest.mark.parametrize("what", ["key", "evidence", "request", "signature", "short", "no key"])
def test_the_end_of_another_session(what: str) -> None:
    key, evidence, clear = Ed25519PrivateKey.generate(), bytes(32), b"clear"
    word, public = sign_gone(key, evidence, clear), key.public_key().public_bytes_raw()
    check_gone(public, word, evidence=evidence, clear=clear)
    if what == "key":
        public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    if what == "no key":
        public = b""
    if what in ("signature", "short"):
        word = bytes(64) if what == "signature" else word[:-1]
    evidence = b"\1" * 32 if what == "evidence" else evidence
    clear = b"another" if what == "request" else clear
    with pytest.raises(NotAuthentic) as caught:
        check_gone(public, word, evidence=evidence, clear=clear)
    assert (caught.value.step, caught.value.code) == ("freshness", "bad-session-gone")
