"""A receipt with what its holder shows of the exchange: what holds, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import wire
from attestation.errors import ChannelError, NotAuthentic, ParseError, UmayError, UsageError
from attestation.formats import cbor
from client_sdk.disclosure import DisclosedReceipt
from client_sdk.session import CheckedReceipt, SealedExchange
from client_sdk.transport import Transport
from tests.helpers.guest_room import CHAT, PROMPT, Room, Script, post, room


@pytest.fixture(scope="module")
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


def exchanged(guest: Room, key: bytes | None = None, *, keep: bool = False) -> SealedExchange:
    """A finished exchange."""
    exchange = SealedExchange(
        guest.verified, post(CHAT, key=key), pq="preferred", now=int(time.time()), keep=keep
    )
    headers = wire.sealed_headers(exchange.media_type)
    for piece in Transport().stream(f"{guest.base}ohttp", exchange.body, headers):
        exchange.push(piece)
    exchange.finish()
    return exchange


def disclosed(exchange: SealedExchange) -> DisclosedReceipt:
    return exchange.disclosure(exchange.receipt())


@pytest.fixture(scope="module")
def whole(guest: Room) -> DisclosedReceipt:
    return disclosed(exchanged(guest))


def test_what_is_kept_holds_and_is_read_back(whole: DisclosedReceipt) -> None:
    again = DisclosedReceipt.from_bytes(whole.to_bytes())
    assert again == whole
    assert again.check().tokens == (5, 0, 3, 0)
    request = again.asked()
    assert request is not None and PROMPT.encode() in request.content
    assert again.response is not None and b"Hello, world." in again.response.content


def test_of_a_long_answer_no_more_is_held_than_is_asked_for(guest: Room) -> None:
    """Its receipt is checked all the same, also where it is a repeated answer's."""
    key = wire.new_idempotency_key()
    guest.engine.script = Script(pieces=["x" * (1 << 18)] * 5)
    try:
        for long in (exchanged(guest), exchanged(guest, key), exchanged(guest, key)):
            assert long.receipt().receipt.tokens == (5, 0, 3, 0) and long._content is None
            with pytest.raises(UsageError, match="at most 1048576 bytes, it is longer"):
                disclosed(long)
        kept = disclosed(exchanged(guest, keep=True)).response
        assert kept is not None and kept.content.count(b"x" * 100) > 13_000
    finally:
        guest.engine.script = Script()


def test_a_repeated_answer_is_the_same_receipt(guest: Room) -> None:
    key = wire.new_idempotency_key()
    assert disclosed(exchanged(guest, key)) == disclosed(exchanged(guest, key))


@pytest.mark.parametrize("request_", [True, False])
@pytest.mark.parametrize("response", [True, False])
def test_only_what_is_chosen_is_shown(
    whole: DisclosedReceipt, request_: bool, response: bool
) -> None:
    part = whole.showing(request=request_, response=response)
    data = part.to_bytes()
    assert DisclosedReceipt.from_bytes(data).check() == whole.check()
    assert part.id == whole.id
    assert whole.request is not None and whole.response is not None
    assert (PROMPT.encode() in data) == request_ == (whole.request.salt in data)
    assert (b"Hello" in data) == response == (whole.response.salt in data)
    assert part.showing(request=True, response=True) == part, "nothing comes back"


def test_nothing_of_it_stands_in_a_repr(whole: DisclosedReceipt) -> None:
    assert whole.request is not None
    for secret in (PROMPT, "Hello", whole.request.salt.hex(), repr(whole.request.salt)):
        assert secret not in repr(whole)


def forged(whole: DisclosedReceipt, name: str) -> DisclosedReceipt:
    assert whole.request is not None and whole.response is not None and whole.cose is not None
    other = dataclasses.replace(whole.request, content=whole.request.content[:-1] + b"x")
    salted = dataclasses.replace(whole.response, salt=bytes(32))
    body = whole.signed.body
    return {
        "another request": dataclasses.replace(whole, request=other),
        "another salt": dataclasses.replace(whole, response=salted),
        "parts swapped": dataclasses.replace(whole, request=whole.response, response=None),
        "another key": dataclasses.replace(whole, receipt_key=b"\x07" * 32),
        "another receipt": dataclasses.replace(
            whole, signed=dataclasses.replace(whole.signed, body=body[:-1] + b"\x17")
        ),
        "another COSE signature": dataclasses.replace(whole, cose=bytes(64)),
    }[name]


@pytest.mark.parametrize(("name", "code"), [
    ("another request", "other-request"), ("another salt", "other-response"),
    ("parts swapped", "other-request"), ("another key", "bad-signature"),
    ("another receipt", "bad-signature"), ("another COSE signature", "bad-cose-signature"),
])  # fmt: skip
def test_what_is_forged_is_refused(whole: DisclosedReceipt, name: str, code: str) -> None:
    with pytest.raises(NotAuthentic) as refused:
        forged(whole, name).check()
    assert refused.value.code == code


def changed(whole: DisclosedReceipt, key: int, value: object) -> bytes:
    fields = cbor.decode_map(whole.to_bytes(), required=frozenset(range(6)))
    return cbor.encode({**fields, key: value})


MALFORMED: dict[str, tuple[int, object]] = {
    "another version": (0, 2),
    "a version that is true": (0, True),
    "no receipt": (1, b""),
    "a receipt that is a list": (1, [b"", b""]),
    "a short key": (2, bytes(31)),
    "a request that is text": (3, "x"),
    "a request of three parts": (3, [bytes(32), b"", b""]),
    "a short salt": (3, [bytes(31), b""]),
    "content that is text": (4, [bytes(32), "x"]),
    "a short COSE signature": (5, bytes(63)),
    "no COSE signature": (5, None),
    "an unknown key": (6, b""),
    "a negative key": (-1, b""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_disclosed_receipt_is_refused(whole: DisclosedReceipt, name: str) -> None:
    with pytest.raises(ParseError):
        DisclosedReceipt.from_bytes(changed(whole, *MALFORMED[name]))


@settings(max_examples=100)
@given(st.data())
def test_no_changed_byte_passes(whole: DisclosedReceipt, data: st.DataObject) -> None:
    good = whole.to_bytes()
    at, change = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 255))
    with pytest.raises(UmayError):
        DisclosedReceipt.from_bytes(good[:at] + bytes([good[at] ^ change]) + good[at + 1 :]).check()


# The second signature, as a client takes it


def answered(guest: Room, *trailers: tuple[bytes, bytes]) -> CheckedReceipt:
    """The receipt of an exchange whose other trailers are these."""
    exchange = exchanged(guest)
    kept = tuple(pair for pair in exchange._trailers if pair[0] == wire.RECEIPT_TRAILER)
    exchange._trailers = (*kept, *trailers)
    return exchange.receipt()


def test_an_enclave_gives_both_signatures(guest: Room) -> None:
    assert exchanged(guest).receipt().cose is not None


def test_an_enclave_may_give_one_signature_only(guest: Room) -> None:
    assert answered(guest).cose is None


def test_a_cose_signature_that_does_not_hold_is_refused(guest: Room) -> None:
    with pytest.raises(NotAuthentic, match="bad-cose-signature"):
        answered(guest, (wire.RECEIPT_COSE_TRAILER, base64.b64encode(bytes(64))))
    with pytest.raises(ParseError, match="COSE signature"):
        answered(guest, (wire.RECEIPT_COSE_TRAILER, b"?"))


def test_it_does_not_replace_the_receipt(guest: Room) -> None:
    exchange = exchanged(guest)
    exchange._trailers = tuple(
        pair for pair in exchange._trailers if pair[0] == wire.RECEIPT_COSE_TRAILER
    )
    with pytest.raises(ChannelError, match="expected a receipt"):
        exchange.receipt()
