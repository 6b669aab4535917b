"""Small inputs that ask for much: each ends at once, with one of our errors."""

from __future__ import annotations

import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.trust.policy import Policy
from client_sdk.pricing import UNKNOWN, claimed_offer
from tests.attestation.test_policy import GOOD
from tests.helpers.waiting import at_most_cpu_seconds


def shared(depth: int, width: int) -> bytes:
    """Nested lists whose elements are references to the one below (tags 28 and 29)."""
    if depth == 0:
        return b"\xd8\x1c\x80"
    inner = shared(depth - 1, width)
    return b"\xd8\x1c" + bytes([0x80 + width]) + inner + b"\xd8\x1d\x01" * (width - 1)


BOMBS = {
    "shared references": shared(7, 12),
    "eight million empty lists": b"\x9a" + (8_000_000).to_bytes(4, "big") + b"\x80" * 8_000_000,
    "list of 2^60": b"\x9b\x0f" + b"\xff" * 7,
    "bytes of 2^40": b"\x5b\x00\x00\x01" + bytes(5),
    "deep lists": b"\x81" * 100_000 + b"\x00",
    "fraction of huge numbers": b"\xd8\x1e\x82" + cbor2.dumps(1 << 999_999) * 2,
    "bignum": cbor2.dumps(1 << 64),
    "float": cbor2.dumps(1.5),
    "undefined": b"\xf7",
    "simple value in two bytes": b"\xf8\x16",
    "indefinite list": b"\x9f\xff",
    "indefinite bytes": b"\x5f\xff",
    "reserved length": b"\x1c",
    "nothing": b"",
    "two values": b"\x00\x00",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_cbor_bombs_end_at_once(data: bytes) -> None:
    with at_most_cpu_seconds(6), pytest.raises(ParseError):
        cbor.decode(data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_whatever_we_encode_is_read_back(value: object) -> None:
    try:
        assert cbor.decode(cbor.encode(value)) == value
    except ParseError as error:
        assert "deep" in str(error)


@pytest.mark.parametrize("digits", [20, 400, 5000])
@pytest.mark.parametrize("name", ["prompt", "completion"])
def test_prices_too_long_for_a_number_come_last(digits: int, name: str) -> None:
    other = {"prompt": "completion", "completion": "prompt"}[name]
    table = f'{{"{name}":1{"0" * digits},"{other}":1}}'
    assert claimed_offer(table.encode()) == UNKNOWN
    assert claimed_offer(json.dumps({"prompt": 1, "completion": 1}).encode()) != UNKNOWN


def test_a_policy_number_of_five_thousand_digits() -> None:
    with pytest.raises(ParseError):
        Policy.from_toml(GOOD.replace("version = 2", "version = " + "1" * 5000).encode())
