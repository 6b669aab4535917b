"""Answers read again, left early or asked for wrongly: none looks whole, none escapes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attestation.channel import bhttp
from attestation.errors import ChannelError, Truncated, UmayError, UsageError
from client_sdk.session import SealedExchange
from tests.client_sdk.test_client_session import BODY
from tests.helpers.fake_enclave import FakeClient, FakeEnclave, Script

FAULTS = ("connection cut", "final chunk missing", "no receipt", "other response", "other key")


@pytest.fixture(scope="module")
def enclave() -> Iterator[FakeEnclave]:
    fake = FakeEnclave()
    yield fake
    fake.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_answer_read_again_is_not_an_empty_whole_one(
    enclave: FakeEnclave, fault: str
) -> None:
    enclave.script = Script(fault=fault)
    answer = FakeClient([enclave]).chat(BODY)
    with pytest.raises(UmayError):
        answer.read()
    with pytest.raises(Truncated):
        answer.read()
    assert answer.receipt is None


def test_a_whole_answer_read_again_has_no_more(enclave: FakeEnclave) -> None:
    enclave.script = Script()
    answer = FakeClient([enclave]).chat(BODY)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    assert answer.read() == b"" and answer.receipt is not None


def test_an_answer_closed_early_is_truncated(enclave: FakeEnclave) -> None:
    enclave.script = Script(pause=0.05)
    answer = FakeClient([enclave]).chat(BODY)
    next(iter(answer))
    answer.close()
    for _ in range(2):
        with pytest.raises(Truncated):
            answer.read()


def test_an_answer_closed_by_another_thread_is_truncated(enclave: FakeEnclave) -> None:
    enclave.script = Script(pause=0.2)
    answer = FakeClient([enclave]).chat(BODY)
    threading.Timer(0.3, answer.close).start()
    with pytest.raises(Truncated):
        answer.read()


LOOP: dict[str, Any] = {}
LOOP["loop"] = LOOP
NOT_JSON = {
    "a surrogate": {"content": "secret \ud800"},
    "not a number": {"temperature": float("nan")},
    "a set": {"stop": {"secret"}},
    "a cycle": LOOP,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_that_is_no_json_is_refused_without_quoting_it(body: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        FakeClient([]).chat(body)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


def begun(enclave: FakeEnclave) -> tuple[SealedExchange, list[bytes]]:
    """A sealed exchange and the parts of its answer."""
    request = bhttp.Request("POST", "/v1/chat/completions", (), b"{}")
    now = enclave.verified.valid_until - 10
    exchange = SealedExchange(enclave.verified, request, pq="required", now=now)
    opened = enclave.ring.request(chunked=True)
    inner = bhttp.encode_request(bhttp.decode_request(opened.open(exchange.body)))
    return exchange, enclave.sealed(opened, inner)


def read(enclave: FakeEnclave, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    exchange, parts = begun(enclave)
    events = exchange.push(b"".join(change(parts))) + exchange.finish()
    exchange.receipt()
    return b"".join(event.data for event in events if isinstance(event, bhttp.Content))


def test_a_changed_answer_is_an_error_wherever_it_changes(enclave: FakeEnclave) -> None:
    """A flipped byte, a cut; two chunks exchanged, one left out, one repeated."""
    enclave.script = Script()
    assert read(enclave, lambda parts: parts).endswith(b"data: [DONE]\n\n")
    parts = begun(enclave)[1]
    for at in range(0, len(b"".join(parts)) - 2, 7):
        for change in (cut, flipped):
            with pytest.raises(ChannelError):
                read(enclave, lambda parts, at=at, change=change: change(parts, at))
    for at in range(1, len(parts) - 1):
        for change in (swapped, left_out, repeated):
            with pytest.raises(ChannelError):
                read(enclave, lambda parts, at=at, change=change: change(parts, at))


def cut(parts: list[bytes], at: int) -> list[bytes]:
    return [b"".join(parts)[:at]]


def flipped(parts: list[bytes], at: int) -> list[bytes]:
    data = b"".join(parts)
    return [data[:at], bytes([data[at] ^ 1]), data[at + 1 :]]


def swapped(parts: list[bytes], at: int) -> list[bytes]:
    return [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]


def left_out(parts: list[bytes], at: int) -> list[bytes]:
    return parts[:at] + parts[at + 1 :]


def repeated(parts: list[bytes], at: int) -> list[bytes]:
    return parts[: at + 1] + parts[at:]
