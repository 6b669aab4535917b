"""When and in what sizes answers leave: buckets, ticks, frames, and what they do not tell."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.channel import bhttp
from attestation.channel.varint import decode as varint_of
from attestation.channel.varint import size as varint_size
from attestation.formats.receipt import FINISH_REASONS
from attestation.wire import PACINGS
from enclave.guest import pacing
from enclave.guest.engines.base import EngineFailed, Usage
from enclave.guest.pacing import STRICT_FRAME_BYTES, paced_events, padded_body
from enclave.guest.sealed import LAST_BYTES, open_request
from tests.helpers import virtual_time
from tests.helpers.guest_room import CHAT, Room, Script, post, room, stream

PACED = ("clock", "strict")
BUCKET = 512
TICK = 0.001


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "TICK_S", TICK)


def event(data: str) -> bytes:
    return b"data: " + data.encode() + b"\n\n"


def sized(length: int) -> bytes:
    """An event of exactly `length` bytes."""
    return event("x" * (length - len(event(""))))


async def coming(pieces: list[bytes], pause: float | None = 0.0) -> AsyncIterator[bytes]:
    for piece in pieces:
        if pause is not None:
            await asyncio.sleep(pause)
        yield piece


def flushes(pieces: list[bytes], how: str, pause: float | None = None) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [flush async for flush in paced_events(coming(pieces, pause), how)]

    return virtual_time.run(collect())


def parsed(content: bytes) -> list[str]:
    """The data of each event, as the HTML standard reads a stream (§9.2.6)."""
    events: list[str] = []
    lines: list[str] = []
    text = content.decode().replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n")[:-1]:
        if line == "":
            if lines:
                events.append("\n".join(lines))
            lines = []
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            assert name == "data", "expected data or a comment"
            lines.append(value.removeprefix(" "))
    assert not lines, "expected whole events"
    return events


# The same events, whatever the pacing

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=700)
LONG = st.integers(0, 4000).map(lambda length: "x" * length)
EVENTS = st.lists(st.one_of(TEXTS, LONG), max_size=8)


@settings(max_examples=60)
@given(EVENTS, st.sampled_from([None, 0.0, TICK]))
def test_an_sse_parser_reads_the_same_events(texts: list[str], pause: float | None) -> None:
    pieces = [event(json.dumps(text)) for text in texts]
    for how in PACINGS:
        sent = flushes(pieces, how, pause)
        assert [json.loads(data) for data in parsed(b"".join(sent))] == texts
        assert all(flush and len(flush) % BUCKET == 0 for flush in sent)
        if how == "strict":
            assert {len(flush) for flush in sent} <= {STRICT_FRAME_BYTES}


@settings(max_examples=40)
@given(st.lists(LONG, min_size=1, max_size=6))
def test_padding_is_nothing_but_comments_and_empty_lines(texts: list[str]) -> None:
    pieces = [event(text) for text in texts]
    for how in PACINGS:
        content = b"".join(flushes(pieces, how))
        lines = [line for line in content.split(b"\n") if not line.startswith(b": ")]
        left = [line for line in lines if line not in (b"", b":")]
        assert left == [piece.rstrip(b"\n") for piece in pieces]


@pytest.mark.parametrize("how", PACINGS)
@pytest.mark.parametrize("near", [BUCKET, STRICT_FRAME_BYTES, 2 * STRICT_FRAME_BYTES])
@pytest.mark.parametrize("offset", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_events_that_nearly_fill_a_bucket(how: str, near: int, offset: int) -> None:
    pieces = [sized(near + offset), event("next"), sized(near - offset)]
    for group in ([pieces[0]], pieces):
        sent = flushes(group, how)
        assert parsed(b"".join(sent)) == parsed(b"".join(group))
        assert all(len(flush) % BUCKET == 0 for flush in sent)


def test_no_pacing_sends_each_piece_by_itself() -> None:
    pieces = [sized(length) for length in (20, 509, 510, 511, 512, 513, 1200)]
    sent = flushes(pieces, "none")
    assert [len(flush) for flush in sent] == [512, 512, 1024, 1024, 512, 1024, 1536]
    assert all(flush.startswith(piece) for flush, piece in zip(sent, pieces, strict=True))


@pytest.mark.parametrize("how", PACINGS)
def test_no_events(how: str) -> None:
    assert flushes([], how) == []


# Ticks


def timed(
    pieces: list[bytes], how: str, pause: float, tick: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[bytes]]:
    """When each flush came, in ticks since the beginning, and the flushes."""
    monkeypatch.setattr(pacing, "TICK_S", tick)

    async def collect() -> tuple[list[float], list[bytes]]:
        loop, times, sent = asyncio.get_running_loop(), [], []
        async for flush in paced_events(coming(pieces, pause), how):
            times.append(loop.time() / tick)
            sent.append(flush)
        return times, sent

    return virtual_time.run(collect())


def on_ticks(times: list[float]) -> bool:
    """Whether no flush came before the tick of its number."""
    return all(at > number - 0.05 for number, at in enumerate(times, 1))


def test_a_clock_gathers_what_came_since_the_last_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [event(str(number)) for number in range(30)]
    times, sent = timed(pieces, "clock", 0.004, 0.04, monkeypatch)
    assert len(sent) < 20
    assert max(len(parsed(flush)) for flush in sent) > 3
    assert on_ticks(times)


@pytest.mark.parametrize("how", PACED)
def test_nothing_leaves_before_the_first_tick(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times, _ = timed([event("at once")], how, 0, 0.05, monkeypatch)
    assert times[0] >= 0.99


def test_a_silent_engine_makes_a_clock_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sent = timed([event("a"), event("b")], "clock", 0.1, 0.01, monkeypatch)
    assert [parsed(flush) for flush in sent] == [["a"], ["b"]]


def test_strict_frames_leave_at_each_tick_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent engine and a quick one look alike for as long as they last."""
    tick = 0.02
    silent, frames = timed([event("a"), event("b")], "strict", 0.2, tick, monkeypatch)
    assert {len(frame) for frame in frames} == {STRICT_FRAME_BYTES}
    assert [parsed(frame) for frame in frames if parsed(frame)] == [["a"], ["b"]]
    assert len(silent) > 10
    quick, frames = timed([sized(100)] * 80, "strict", 0.005, tick, monkeypatch)
    assert {len(frame) for frame in frames} == {STRICT_FRAME_BYTES}
    assert len(quick) > 10
    assert on_ticks(silent) and on_ticks(quick)


def test_strict_frames_carry_over_what_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    times, frames = timed([sized(10_000)], "strict", 0, 0.01, monkeypatch)
    assert len(frames) == 10
    assert parsed(b"".join(frames)) == ["x" * (10_000 - len(event("")))]
    assert times[-1] >= 9.9


# Failures and leaving


@pytest.mark.parametrize("how", PACINGS)
@pytest.mark.parametrize("error", [EngineFailed("x"), RuntimeError("x")])
def test_what_goes_wrong_in_the_engine_goes_wrong_here(how: str, error: Exception) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield event("a")
        await asyncio.sleep(TICK * 10)
        raise error

    async def collect() -> None:
        got = b""
        with pytest.raises(type(error)):
            async for flush in paced_events(breaks(), how):
                got += flush
        assert parsed(got) == ["a"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_time.run(collect())


@pytest.mark.parametrize("how", PACINGS)
def test_closing_leaves_no_task_behind(how: str) -> None:
    async def begin() -> None:
        events = paced_events(coming([event("a")] * 10_000, TICK), how)
        await anext(events)
        await events.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_time.run(begin())


# JSON bodies


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=2000))
def test_a_json_body_is_one_piece_that_fills_its_bucket(text: str) -> None:
    async def collect() -> list[bytes]:
        body = json.dumps({"text": text}).encode()
        return [piece async for piece in padded_body(coming([body], None))]

    (piece,) = virtual_time.run(collect())
    assert len(piece) % BUCKET == 0 and json.loads(piece) == {"text": text}
    assert len(piece) - len(piece.rstrip(b" ")) < BUCKET


# What sealed sizes tell


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    with room(served=False) as opened:
        yield opened


@pytest.fixture
def guest(shared: Room) -> Room:
    shared.engine.script = Script()
    return shared


def sealed_sizes(guest: Room, request: bhttp.Request) -> list[int]:
    """The length of each sealed chunk, the empty one at the end included."""

    async def exchange() -> bytes:
        sealed = guest.client().seal(bhttp.encode_request(request))
        answer = await open_request(guest.guest, coming([sealed]), chunked=True, to_session=False)
        return b"".join([piece async for piece in answer.stream()])

    data, sizes = virtual_time.run(exchange())[32:], []  # after the nonce
    while True:
        start = varint_size(data[0])
        length = varint_of(data[:start])
        if not length:
            return [*sizes, len(data)]
        sizes.append(start + length)
        data = data[start + length :]


FEW, MANY = Usage(0, 0, 0), Usage(2**55, 2**54, 2**55, 2**53)


@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
def test_the_last_piece_tells_neither_counts_nor_reason(guest: Room, body: Any) -> None:
    last = set()
    for usage, reason in itertools.product((FEW, Usage(5, 0, 3), MANY), FINISH_REASONS):
        guest.engine.script = Script(usage=usage, reason=reason)
        last.add(tuple(sealed_sizes(guest, post(body))[-2:]))
    assert last == {(LAST_BYTES + 16 + 2, 17)}


def test_errors_end_as_answers_do(guest: Room) -> None:
    assert sealed_sizes(guest, post({"model": "x"}))[-2:] == sealed_sizes(guest, post(CHAT))[-2:]


@pytest.mark.parametrize("how", PACINGS)
def test_answers_of_the_same_buckets_have_the_same_sizes(guest: Room, how: str) -> None:
    sizes = []
    for pieces in (["a", "b", "c"], ["xyzzy" * 9, "", "\u00e9" * 20], ["a", "bb", "ccc" * 15]):
        guest.engine.script = Script(pieces=pieces, reason="length" if sizes else "stop")
        sizes.append(sealed_sizes(guest, post(stream(), pacing=how)))
    assert sizes[0] == sizes[2]
    assert sizes[0] == sizes[1] or how == "none"  # an empty piece is no event


@settings(max_examples=30)
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=100), min_size=3, max_size=3))
def test_short_events_all_look_alike(shared: Room, pieces: list[str]) -> None:
    shared.engine.script = Script(pieces=pieces)
    *body, last, final = sealed_sizes(shared, post(stream()))
    shared.engine.script = Script()
    assert [*body, last, final] == sealed_sizes(shared, post(stream()))
    assert set(body[1:]) == {512 + 2 + 16 + 2}


@pytest.mark.parametrize("length", [0, 1, 90])
def test_whole_answers_of_one_bucket_look_alike(guest: Room, length: int) -> None:
    guest.engine.script = Script(pieces=["x" * length])
    expected = sealed_sizes(guest, post(CHAT))
    guest.engine.script = Script(pieces=["word"] * 3, usage=Usage(1234, 0, 567), reason="length")
    assert sealed_sizes(guest, post(CHAT)) == expected


def test_strict_chunks_are_all_of_one_size_but_the_first(guest: Room) -> None:
    """The first holds the head too, which is the same for every stream."""
    firsts = set()
    for script in (Script(pieces=["a"]), Script(pieces=["word " * 40] * 40, pause=TICK / 2)):
        guest.engine.script = script
        first, *rest = sealed_sizes(guest, post(stream(), pacing="strict"))[:-2]
        assert set(rest) <= {STRICT_FRAME_BYTES + 2 + 16 + 2}
        firsts.add(first)
    assert len(firsts) == 1


def test_the_head_leaves_with_the_first_flush(guest: Room) -> None:
    """Alone it would tell when the first token was there, between two ticks."""
    streamed = sealed_sizes(guest, post(stream(), pacing="clock"))
    guest.engine.script = Script(pieces=[])
    assert len(streamed) == len(sealed_sizes(guest, post(stream(), pacing="clock"))) == 3
