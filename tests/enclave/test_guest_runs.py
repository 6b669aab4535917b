"""One run for a question and its retries: the same answer, one receipt, nothing read by others."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import NotAuthentic, ParseError, Truncated
from client_sdk.session import CheckedReceipt, SealedExchange
from client_sdk.transport import Transport
from enclave.guest.busy import LEAST_S, MOST_S, Busy
from enclave.guest.engines.base import EngineFailed, QueueFull
from enclave.guest.runs import Listener, Runs
from enclave.guest.sealed import SealedAnswer, open_request
from tests.helpers.guest_room import CHAT, Room, Script, Whole, post, room, stream
from tests.helpers.waiting import HANG_S, wait_for


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    with room() as opened:
        yield opened


@pytest.fixture
def guest(shared: Room) -> Iterator[Room]:
    shared.engine.script = Script()
    shared.engine.asked.clear()
    shared.engine.answers.clear()
    yield shared
    wait_for(lambda: shared.open_requests == 0)


@pytest.fixture
def key() -> bytes:
    return wire.new_idempotency_key()


def allow(guest: Room, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> Runs:
    """Runs of their own with other limits."""
    runs = Runs(**limits)
    monkeypatch.setitem(guest.guest.__dict__, "runs", runs)
    return runs


def code(answer: Whole) -> tuple[int, str]:
    return answer.status, answer.error["code"]


# A retry after the answer


@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
@pytest.mark.parametrize("pacing", [None, "none", "strict"])
def test_a_retry_is_given_the_same_answer_and_the_same_receipt(
    guest: Room, key: bytes, body: dict[str, Any], pacing: str | None
) -> None:
    request = post(body, pacing=pacing, key=key)
    first, second = guest.ask(request), guest.ask(request)
    assert len(guest.engine.asked) == 1
    assert first.status == second.status == 200
    assert (first.content, first.media_type) == (second.content, second.media_type)
    assert first.receipt is not None and first.receipt == second.receipt


def test_repeated_answers_are_counted(guest: Room, key: bytes) -> None:
    before = guest.counts
    for request in (post(CHAT, key=key), post(CHAT, key=key), post(CHAT)):
        guest.ask(request)
    after = guest.counts
    names = ("umay_requests_total{answered}", "umay_requests_repeated_total")
    assert [after[name] - before[name] for name in names] == [3, 1]


def test_a_retry_looks_like_an_answer_to_whoever_watches(guest: Room, key: bytes) -> None:
    """But for its time: the trailers that it has more are within the filling."""
    first, second = guest.ask(post(CHAT, key=key)), guest.ask(post(CHAT, key=key))
    assert sum(first.sealed_pieces) == sum(second.sealed_pieces)


def test_without_a_key_each_request_is_a_run_of_its_own(guest: Room) -> None:
    first, second = guest.ask(post(CHAT)), guest.ask(post(CHAT))
    assert len(guest.engine.asked) == 2
    assert first.receipt and second.receipt
    assert first.receipt.receipt.sequence != second.receipt.receipt.sequence


def test_another_key_is_another_run(guest: Room) -> None:
    for _ in range(2):
        guest.ask(post(CHAT, key=wire.new_idempotency_key()))
    assert len(guest.engine.asked) == 2


OTHERS: dict[str, Any] = {
    "another body": lambda key: post({**CHAT, "user": "x"}, key=key),
    "another pacing": lambda key: post(CHAT, pacing="strict", key=key),
    "another path": lambda key: post(CHAT, path=wire.COMPLETIONS, key=key),
    "another method": lambda key: post(b"", path=wire.MODELS, method="GET", key=key),
    "a field more": lambda key: dataclasses.replace(
        post(CHAT, key=key), headers=(*post(CHAT, key=key).headers, (b"x", b"y"))
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_request_under_a_used_key_is_refused(guest: Room, key: bytes, name: str) -> None:
    guest.ask(post(CHAT, key=key))
    answer = guest.ask(OTHERS[name](key))
    assert code(answer) == (422, "idempotency_key_reused")
    assert "Hello" not in answer.content.decode() and len(guest.engine.asked) == 1


def test_it_is_refused_while_the_first_one_runs_too(guest: Room, key: bytes) -> None:
    guest.engine.script = Script(pieces=["word "] * 1000, pause=0.02)
    first = guest.open(post(stream(), key=key))
    assert code(guest.ask(post(CHAT, key=key))) == (422, "idempotency_key_reused")
    first.close()


def test_what_costs_nothing_is_not_remembered(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever asks for lists of models, each under a key of its own, takes the room of all
    who pay: their keys would be refused for ten minutes."""
    runs = allow(guest, monkeypatch, most=1)
    key = wire.new_idempotency_key()
    for _ in range(3):
        answer = guest.ask(post(b"", path=wire.MODELS, method="GET", key=key))
        assert answer.status == 200
        assert answer.receipt is not None and answer.receipt.receipt.amount == 0
    assert not runs._known and not guest.engine.asked
    assert guest.ask(post(CHAT, key=wire.new_idempotency_key())).status == 200


# A retry while the first one runs


def test_a_retry_joins_the_run(guest: Room, key: bytes) -> None:
    guest.engine.script = Script(pieces=["word "] * 30, pause=0.02)
    request = post(stream(), key=key)
    first = guest.open(request)
    pieces = iter(first)
    begin = next(pieces)
    second = guest.ask(request)
    content = begin + b"".join(pieces)
    assert len(guest.engine.asked) == 1 and second.content == content
    assert first.receipt is not None and second.receipt == first.receipt


def test_a_retry_takes_over_when_the_first_client_leaves(guest: Room, key: bytes) -> None:
    guest.engine.script = Script(pieces=["word "] * 60, pause=0.02)
    request = post(stream(), key=key)
    first, second = guest.open(request), guest.open(request)
    first.close()
    assert second.read().count(b"word ") == 60 and second.receipt is not None
    assert len(guest.engine.asked) == 1 and not guest.engine.answers[0].cancelled.is_set()


def test_a_run_ends_when_nobody_listens_and_a_retry_is_a_new_one(guest: Room, key: bytes) -> None:
    guest.engine.script = Script(pieces=["word "] * 1000, pause=0.02)
    request = post(stream(), key=key)
    first, second = guest.open(request), guest.open(request)
    for answer in (first, second):
        assert not guest.engine.answers[0].cancelled.is_set()
        answer.close()
    assert guest.engine.answers[0].cancelled.wait(HANG_S)
    guest.engine.script = Script()
    third = guest.ask(request)
    assert len(guest.engine.asked) == 2
    assert third.receipt and third.receipt.receipt.amount == 3 * 5 + 7 * 3


def test_numbers_are_given_to_whole_runs_only(guest: Room, key: bytes) -> None:
    """A run that was cut is charged nothing: it has no receipt and takes no number."""
    before = guest.ask(post(CHAT)).receipt
    guest.engine.script = Script(pieces=["word "] * 1000, pause=0.02)
    guest.open(post(stream(), key=key)).close()
    assert guest.engine.answers[-1].cancelled.wait(HANG_S)
    guest.engine.script = Script()
    after = guest.ask(post(stream(), key=key)).receipt
    assert before and after and after.receipt.sequence == before.receipt.sequence + 1


def test_a_run_whose_client_left_late_is_kept(guest: Room, key: bytes) -> None:
    """The engine was done; the connection broke before the client had all of it."""
    request, guest.engine.script = post(CHAT, key=key), Script()
    first, retry = guest.exchange(request), guest.exchange(request)

    async def cut() -> bytes:
        pieces = (await opened(guest, first)).stream()
        await anext(pieces)
        while not guest.guest.runs._kept:
            await asyncio.sleep(0)
        await pieces.aclose()
        return b"".join([piece async for piece in (await opened(guest, retry)).stream()])

    retry.push(asyncio.run(cut()))
    retry.finish()
    assert len(guest.engine.asked) == 1 and retry.receipt().receipt.amount > 0


async def opened(guest: Room, exchange: SealedExchange) -> SealedAnswer:
    async def body() -> AsyncIterator[bytes]:
        yield exchange.body

    return await open_request(guest.guest, body(), chunked=True, to_session=False)


# What failed


@pytest.mark.parametrize("error", [QueueFull("wait"), EngineFailed("x"), RuntimeError("x")])
@pytest.mark.parametrize("when", ["at once", "at the first token"])
def test_a_request_that_failed_runs_again(
    guest: Room, key: bytes, when: str, error: Exception
) -> None:
    script = guest.engine.script
    script.refuse, script.fail = (error, None) if when == "at once" else (None, error)
    assert guest.ask(post(CHAT, key=key)).status >= 429
    guest.engine.script = Script()
    assert guest.ask(post(CHAT, key=key)).status == 200
    assert len(guest.engine.asked) == 2


def test_an_answer_that_broke_runs_again(guest: Room, key: bytes) -> None:
    guest.engine.script = Script(fail=EngineFailed("x"), fail_at=2, pause=0.01)
    with pytest.raises(Truncated):
        guest.ask(post(stream(), key=key))
    guest.engine.script = Script()
    assert guest.ask(post(stream(), key=key)).receipt is not None


def test_a_refusal_is_not_remembered(guest: Room, key: bytes) -> None:
    assert code(guest.ask(post({"model": "x"}, key=key))) == (404, "model_not_found")
    assert guest.ask(post(CHAT, key=key)).status == 200


# Bounds


def test_a_long_answer_is_not_kept_nor_run_again(
    guest: Room, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(guest, monkeypatch, most_answer_bytes=511)
    assert guest.ask(post(CHAT, key=key)).receipt is not None
    assert code(guest.ask(post(CHAT, key=key))) == (410, "idempotency_answer_gone")
    assert len(guest.engine.asked) == 1


def test_the_oldest_answers_make_room(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(guest, monkeypatch, most_bytes=1024)
    keys = [wire.new_idempotency_key() for _ in range(3)]
    for one in keys:
        guest.ask(post(CHAT, key=one))
    assert [guest.ask(post(CHAT, key=one)).status for one in keys] == [410, 200, 200]
    assert len(guest.engine.asked) == 3


def test_keys_are_bounded_and_none_is_forgotten_for_another(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(guest, monkeypatch, most=2)
    keys = [wire.new_idempotency_key() for _ in range(3)]
    assert [guest.ask(post(CHAT, key=one)).status for one in keys] == [200, 200, 429]
    answer = guest.open(post(CHAT, key=keys[2]))
    assert answer.header(b"retry-after") == b"1"
    assert json.loads(answer.read())["error"]["code"] == "idempotency_full"
    assert guest.ask(post(CHAT, key=keys[0])).status == 200
    assert guest.ask(post(CHAT)).status == 200, "without a key nothing is remembered"


def test_after_its_time_all_of_it_is_forgotten(
    guest: Room, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = allow(guest, monkeypatch, keep_s=0.01, most=1)
    guest.ask(post(CHAT, key=key))
    wait_for(lambda: not runs._known)
    assert not runs._kept and runs._bytes == 0
    assert guest.ask(post({**CHAT, "user": "x"}, key=key)).status == 200


def test_cut_runs_leave_nothing(guest: Room, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = allow(guest, monkeypatch)
    guest.engine.script = Script(pieces=["word "] * 1000, pause=0.02)
    guest.open(post(stream(), key=key)).close()
    assert guest.engine.answers[-1].cancelled.wait(HANG_S)
    assert not runs._known and not runs._kept


def test_a_boot_that_retires_frees_its_answers(key: bytes) -> None:
    with room() as guest:
        guest.ask(post(CHAT, key=key))
        assert guest.guest.runs._bytes == 512
        guest.guest.retire()
        assert guest.guest.runs._bytes == 0


def test_a_run_that_ends_after_its_boot_is_not_kept(key: bytes) -> None:
    with room() as guest:
        guest.engine.script = Script(pieces=["word "] * 30, pause=0.02)
        answer = guest.open(post(stream(), key=key))
        guest.guest.retire()
        assert answer.read().count(b"word ") == 30 and answer.receipt is not None
        assert not guest.guest.runs._known and guest.guest.runs._bytes == 0


# Runs alone


class Slow:
    """A source of one piece, or of none when `late`, that ends, or never does when `reading`;
    closing waits for `close`."""

    status, ran = 200, True
    headers: bhttp.Fields = ()

    def __init__(self, *, reading: bool = False, late: bool = False) -> None:
        self.pieces, self._reading, self._late = self._read(), reading, late
        self.closing, self.close, self.closed = asyncio.Event(), asyncio.Event(), False

    async def ask(self) -> Slow:
        return self

    async def _read(self) -> AsyncGenerator[bytes]:
        if not self._late:
            yield b"piece"
        if self._reading:
            await asyncio.Event().wait()

    def trailers(self, content: bytes) -> bhttp.Fields:
        return ((wire.RECEIPT_TRAILER, b"receipt"),)

    async def aclose(self) -> None:
        self.closing.set()
        await self.close.wait()
        self.closed = True


def test_a_run_that_was_stopped_never_reads_as_whole() -> None:
    """Whatever stops it: without an end of its own, its listeners have no whole answer."""

    async def work(when: str) -> None:
        source = Slow(reading=True, late=when == "before")
        source.close.set()
        listener = Runs().listen(None, b"", source.ask, b"")
        await asyncio.sleep(0)
        if when == "later":
            pieces = (await listener.begin()).pieces()
            assert await anext(pieces) == b"piece"
        listener._run._task.cancel()
        with pytest.raises(Truncated):
            await (listener.begin() if when == "before" else anext(pieces))

    asyncio.run(work("before"))
    asyncio.run(work("later"))


def test_a_whole_run_is_kept_though_its_last_listener_leaves_while_it_closes() -> None:
    """It has a receipt by then: a retry that ran again would have a second one."""

    async def work() -> None:
        runs, source, again = Runs(), Slow(), Slow()
        again.close.set()
        listener = await runs.listen(b"key", b"request", source.ask, b"").begin()
        await source.closing.wait()
        leaving = asyncio.create_task(listener.aclose())
        await asyncio.sleep(0)
        late = await runs.listen(b"key", b"request", again.ask, b"").begin()
        source.close.set()
        await leaving
        assert [piece async for piece in late.pieces()] == [b"piece"]
        assert late.trailers() and source.closed and runs.repeated == 1

    asyncio.run(work())


# Keys


KEYS = {
    "15 characters": b"x" * 15,
    "65 characters": b"x" * 65,
    "a space": b"xxxxxxxx xxxxxxxx",
    "beyond ascii": b"x" * 16 + b"\xff",
    "empty": b"",
}


def keyed(*keys: bytes) -> bhttp.Request:
    headers = tuple((wire.IDEMPOTENCY_FIELD, key) for key in keys)
    return dataclasses.replace(post(CHAT), headers=headers)


BAD_KEYS = {name: keyed(key) for name, key in KEYS.items()} | {"two": keyed(b"x" * 16, b"x" * 16)}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_of_another_form_is_refused(guest: Room, name: str) -> None:
    client = guest.client()
    sealed = client.seal(bhttp.encode_request(BAD_KEYS[name]))
    headers = wire.sealed_headers(client.media_type)
    reply = b"".join(Transport().stream(f"{guest.base}ohttp", sealed, headers))
    answer = bhttp.decode_response(client.response().open(reply))
    assert (answer.status, json.loads(answer.content)["error"]["code"]) == (400, "invalid_value")
    assert not guest.engine.asked


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_client_seals_no_such_key(guest: Room, name: str) -> None:
    with pytest.raises(ParseError, match="16 to 64 visible"):
        guest.exchange(BAD_KEYS[name])


@pytest.mark.parametrize("length", [16, 36, 64])
def test_keys_of_the_right_form_are_taken(length: int) -> None:
    fields = ((wire.IDEMPOTENCY_FIELD, b"!" * length),)
    assert wire.read_idempotency_key(fields) == b"!" * length


@given(st.binary(max_size=80))
def test_a_key_is_read_or_refused(value: bytes) -> None:
    good = 16 <= len(value) <= 64 and all(0x21 <= byte <= 0x7E for byte in value)
    try:
        assert wire.read_idempotency_key(((wire.IDEMPOTENCY_FIELD, value),)) == value
        assert good
    except ParseError:
        assert not good


def test_no_key_is_no_key() -> None:
    assert wire.read_idempotency_key(((b"x", b"y"),)) is None


def test_new_keys_are_good_and_differ() -> None:
    keys = {wire.new_idempotency_key() for _ in range(100)}
    assert len(keys) == 100
    for one in keys:
        assert wire.read_idempotency_key(((wire.IDEMPOTENCY_FIELD, one),)) == one


# What a client makes of it


def renewed(guest: Room) -> None:
    """Another epoch of the same boot is current; the one before still opens requests."""
    guest.epochs._add(guest.epochs._make(time.monotonic(), time.monotonic()))
    guest.anchor()


def test_a_retry_sealed_to_the_next_epoch_has_the_receipt_of_the_first(key: bytes) -> None:
    with room() as guest:
        before, request = guest.verified, post(CHAT, key=key)
        first = guest.ask(request)
        renewed(guest)
        assert guest.verified.evidence_digest != before.evidence_digest
        with pytest.raises(NotAuthentic, match="other-evidence"):
            guest.ask(request)
        assert answered(guest, request, before) == first.receipt
        assert len(guest.engine.asked) == 1


def test_an_earlier_enclave_of_another_boot_is_not_believed(key: bytes) -> None:
    with room() as guest, room(served=False) as other:
        request = post(CHAT, key=key)
        guest.ask(request)
        renewed(guest)
        alien = dataclasses.replace(
            other.verified.bundle, receipt_key=other.verified.bundle.receipt_key
        )
        assert alien.receipt_key != guest.verified.bundle.receipt_key
        with pytest.raises(NotAuthentic, match="other-evidence"):
            answered(guest, request, other.verified)


def answered(guest: Room, request: bhttp.Request, *earlier: Any) -> CheckedReceipt:
    """The receipt, as a client has it that sealed the question to `earlier` enclaves before."""
    exchange = SealedExchange(
        guest.verified, request, pq="preferred", now=int(time.time()), earlier=earlier
    )
    headers = wire.sealed_headers(exchange.media_type)
    for piece in Transport().stream(f"{guest.base}ohttp", exchange.body, headers):
        exchange.push(piece)
    exchange.finish()
    return exchange.receipt()


def salted(monkeypatch: pytest.MonkeyPatch, salts: bytes) -> None:
    """Every answer brings these salts."""
    field = ((wire.RECEIPT_SALTS_FIELD, salts),)
    monkeypatch.setattr(Listener, "headers", property(lambda self: (*self._run.headers, *field)))


@pytest.mark.parametrize("salts", [b"", b"AAAA", b"?", base64.b64encode(bytes(65))])
def test_salts_of_another_form_are_refused(
    guest: Room, key: bytes, salts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    salted(monkeypatch, salts)
    with pytest.raises(ParseError, match="salts"):
        guest.ask(post(CHAT, key=key))


def test_salts_under_which_the_receipt_does_not_hold_are_refused(
    guest: Room, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    salted(monkeypatch, base64.b64encode(bytes(64)))
    with pytest.raises(NotAuthentic, match="other-request"):
        guest.ask(post(CHAT, key=key))


def test_who_gave_no_key_takes_no_salts(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    salted(monkeypatch, base64.b64encode(bytes(64)))
    assert guest.ask(post(CHAT)).receipt is not None


# Retry-After


def test_a_full_queue_says_when_to_come_back(guest: Room) -> None:
    guest.engine.script.refuse, guest.engine.waiting = QueueFull("wait"), 9
    try:
        answer = guest.open(post(CHAT))
        assert answer.status == 429 and answer.read()
        assert LEAST_S <= int(answer.header(b"retry-after") or b"") <= MOST_S
    finally:
        guest.engine.waiting = 0


def test_what_is_not_for_later_has_no_retry_after(guest: Room) -> None:
    for error in (EngineFailed("x"), RuntimeError("x")):
        guest.engine.script.refuse = error
        answer = guest.open(post(CHAT))
        assert answer.read() and answer.header(b"retry-after") is None
    guest.engine.script = Script()
    assert guest.open(post({"model": "x"})).header(b"retry-after") is None


def test_seconds_follow_from_the_queue() -> None:
    busy = Busy()
    assert busy.retry_after(waiting=0) == LEAST_S
    for at in range(200):
        busy.ended(at * 3.0, waiting=5)
    assert busy.retry_after(waiting=10) == 15
    assert busy.retry_after(waiting=1) == 2
    assert busy.retry_after(waiting=10_000) == MOST_S


def test_time_in_which_nobody_waited_does_not_count() -> None:
    busy = Busy()
    for at in range(100):
        busy.ended(at * 2.0, waiting=1)
    busy.ended(200.0, waiting=0)
    busy.ended(9_000.0, waiting=1)
    busy.ended(9_002.0, waiting=1)
    assert busy.retry_after(waiting=10) == 10


def test_ends_are_told(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Busy, "ended", lambda self, now, *, waiting: told.append(waiting))
    guest.engine.waiting = 3
    try:
        guest.ask(post(CHAT))
        guest.ask(post({"model": "x"}))
        guest.ask(post(b"", path=wire.MODELS, method="GET"))
        assert told == [3]
    finally:
        guest.engine.waiting = 0
