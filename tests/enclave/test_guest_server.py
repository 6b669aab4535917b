"""The guest's server: constant refusals, counts that return, routes, and silence."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from attestation import wire
from attestation.channel import bhttp, replay
from attestation.channel.client import ClientRequest
from attestation.channel.key_config import parse_key_list
from attestation.errors import ParseError, Truncated, Unavailable
from attestation.formats.keys import bundle_digest
from attestation.formats.retirement import Retirement
from attestation.net.server_connection import Limits
from enclave.guest import server
from enclave.guest.engines.base import EngineFailed, QueueFull
from tests.helpers.guest_room import (
    CHAT,
    HOST,
    PROMPT,
    Room,
    Script,
    ended,
    post,
    room,
    stream,
)
from tests.helpers.waiting import HANG_S, wait_for

CHUNKED, PLAIN = wire.CHUNKED_REQUEST, wire.OHTTP_REQUEST
SECRET = "the engine quotes: " + PROMPT
Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    with room() as opened:
        yield opened


@pytest.fixture
def guest(
    shared: Room,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Room]:
    """Whatever a test does: nothing stays open, nothing is printed or logged."""
    shared.engine.script, shared.engine.slow_close = Script(), 0.0
    shared.engine.asked.clear()
    shared.engine.answers.clear()
    caplog.set_level(logging.DEBUG)
    yield shared
    wait_for(lambda: shared.open_requests == 0)
    ours = [r for r in caplog.records if r.name.partition(".")[0] not in ("urllib3", "asyncio")]
    assert all(re.fullmatch(r"a request failed: \w+ \(told once\)", r.getMessage()) for r in ours)
    assert not [r for r in caplog.records if r not in ours and r.levelno > logging.DEBUG]
    assert tuple(capfd.readouterr()) == ("", "")


def ask(
    guest: Room, method: str, path: str, body: bytes = b"", media: str = "", **more: str
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", guest.port, timeout=HANG_S)
    try:
        headers = {"content-type": media} if media else {}
        connection.request(method, path, body or None, headers | more)
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, named, answer.read()
    finally:
        connection.close()


def get(guest: Room, name: str) -> Reply:
    return ask(guest, "GET", f"/umay/{guest.boot}/{name}")


def seal(guest: Room, body: object = CHAT, *, chunked: bool = True) -> bytes:
    return guest.client(chunked=chunked).seal(bhttp.encode_request(post(body)))


def send(guest: Room, sealed: bytes, media: str = CHUNKED) -> Reply:
    return ask(guest, "POST", f"/umay/{guest.boot}/ohttp", sealed, media)


def flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def lost_epoch(guest: Room) -> bytes:
    """Sealed to keys that the ring holds and no epoch: it ended in this moment."""
    keys = guest.ring.open_epoch()
    client = ClientRequest([config.to_bytes() for config in keys.configs], pq="preferred")
    return client.seal(bhttp.encode_request(post(CHAT)))


def strangers(guest: Room) -> bytes:
    with room() as other:
        return seal(other)


# Refusals


REFUSED: dict[str, tuple[Callable[[Room], bytes], str]] = {
    "empty": (lambda guest: b"", CHUNKED),
    "one byte": (lambda guest: b"\0", CHUNKED),
    "garbage": (lambda guest: bytes(range(256)) * 40, CHUNKED),
    "garbage, not chunked": (lambda guest: bytes(range(256)) * 40, PLAIN),
    "header only": (lambda guest: seal(guest)[:7], CHUNKED),
    "cut in the key": (lambda guest: seal(guest)[:500], CHUNKED),
    "cut in a chunk": (lambda guest: seal(guest)[:-30], CHUNKED),
    "no final chunk": (lambda guest: seal(guest)[:-17], CHUNKED),
    "cut by a byte": (lambda guest: seal(guest)[:-1], CHUNKED),
    "a byte more": (lambda guest: seal(guest) + b"\0", CHUNKED),
    "tampered at the end": (lambda guest: flipped(seal(guest), -1), CHUNKED),
    "tampered in the chunk": (lambda guest: flipped(seal(guest), -40), CHUNKED),
    "tampered in the key": (lambda guest: flipped(seal(guest), 100), CHUNKED),
    "tampered algorithm": (lambda guest: flipped(seal(guest), 6), CHUNKED),
    "unknown key id": (lambda guest: b"\xfe" + seal(guest)[1:], CHUNKED),
    "the other key id": (lambda guest: flipped(seal(guest), 0), CHUNKED),
    "keys of another guest": (strangers, CHUNKED),
    "an epoch that has ended": (lost_epoch, CHUNKED),
    "not chunked, cut": (lambda guest: seal(guest, chunked=False)[:-1], PLAIN),
    "not chunked, tampered": (lambda guest: flipped(seal(guest, chunked=False), -1), PLAIN),
    "not chunked, said to be": (lambda guest: seal(guest, chunked=False), CHUNKED),
    "chunked, said not to be": (seal, PLAIN),
    "no media type": (seal, ""),
    "another media type": (seal, "application/json"),
    "media type in capitals": (seal, CHUNKED.upper()),
    "media type with a parameter": (seal, f"{CHUNKED}; q=1"),
    "media type of an answer": (seal, wire.CHUNKED_RESPONSE),
    "plain json": (lambda guest: json.dumps(CHAT).encode(), "application/json"),
}
SAME = ("content-type", "content-length", "incremental", "cache-control")


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_fails_outside_is_refused_in_the_same_bytes(guest: Room, name: str) -> None:
    make, media = REFUSED[name]
    status, headers, body = send(guest, make(guest), media)
    assert (status, body) == (400, wire.REFUSED)
    assert {key: value for key, value in headers.items() if key != "date"} == {
        "content-type": wire.PROBLEM,
        "content-length": str(len(wire.REFUSED)),
        "cache-control": "no-store",
        "incremental": "?1",
        "access-control-allow-origin": "*",
    }
    assert not guest.engine.asked


def test_an_oversized_request_is_refused(guest: Room) -> None:
    client = guest.client()
    sealed = client.seal(bytes(wire.MAX_REQUEST_BYTES + 1))
    status, _, body = send(guest, sealed)
    assert (status, body) == (400, wire.REFUSED)


def test_an_endless_chunk_of_noise_is_refused_while_it_comes(guest: Room) -> None:
    """Not chunked: nothing can be opened before the end, so the limit counts what arrives."""
    head = seal(guest, chunked=False)[: 7 + 1120]
    with connected(guest) as connection:
        begin(connection, guest, PLAIN, length=1 << 34)
        connection.sendall(head)
        for _ in range(17):
            connection.sendall(bytes(1 << 20))
        reply = read_until(connection, wire.REFUSED)
    assert reply.startswith(b"HTTP/1.1 400 ")


def test_an_unexpected_failure_is_refused_alike(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(server, "open_request", fail)
    assert send(guest, seal(guest))[::2] == (400, wire.REFUSED)


# Replays


@pytest.mark.parametrize("chunked", [True, False])
def test_a_replay_is_named(guest: Room, chunked: bool) -> None:
    sealed, media = seal(guest, chunked=chunked), CHUNKED if chunked else PLAIN
    assert send(guest, sealed, media)[0] == 200
    status, headers, body = send(guest, sealed, media)
    assert (status, body) == (400, wire.REPLAYED)
    assert headers["content-type"] == wire.PROBLEM
    assert len(guest.engine.asked) == 1


def test_a_replay_that_was_cut_or_spoilt_after_its_first_chunk_is_no_answer(guest: Room) -> None:
    sealed = seal(guest)
    assert send(guest, sealed[:-1])[::2] == (400, wire.REFUSED)
    assert send(guest, sealed)[::2] == (400, wire.REPLAYED)
    assert not guest.engine.asked


def test_of_identical_requests_at_once_one_is_answered(guest: Room) -> None:
    for _ in range(5):
        guest.engine.asked.clear()
        sealed = seal(guest)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: send(guest, sealed), range(4)))  # noqa: B023
        assert sorted(reply[0] for reply in replies) == [200, 400, 400, 400]
        assert {reply[2] for reply in replies if reply[0] == 400} == {wire.REPLAYED}
        assert len(guest.engine.asked) == 1


# Bodies that do not arrive, clients that leave


def connected(guest: Room) -> socket.socket:
    return socket.create_connection(("127.0.0.1", guest.port), timeout=HANG_S)


def begin(
    connection: socket.socket, guest: Room, media: str, *, length: int, name: str = "ohttp"
) -> None:
    connection.sendall(
        f"POST /umay/{guest.boot}/{name} HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\n"
        f"content-length: {length}\r\n\r\n".encode()
    )


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        part = connection.recv(1 << 16)
        assert part, received
        received += part
    return received


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(1 << 16):
        received += part
    return received


@pytest.mark.parametrize("sent", [0, 3, 600, -20])
def test_a_slow_body_is_refused(guest: Room, monkeypatch: pytest.MonkeyPatch, sent: int) -> None:
    monkeypatch.setattr(server, "MAX_BODY_SECONDS", 0.2)
    sealed = seal(guest)
    with connected(guest) as connection:
        begin(connection, guest, CHUNKED, length=len(sealed))
        connection.sendall(sealed[:sent])
        reply = read_until(connection, b"\r\n\r\n" + wire.REFUSED)
    assert reply.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [0, 3, 600, -20])
def test_a_client_that_leaves_amid_its_body(guest: Room, sent: int) -> None:
    sealed = seal(guest)
    with connected(guest) as connection:
        begin(connection, guest, CHUNKED, length=len(sealed))
        connection.sendall(sealed[:sent])
        wait_for(lambda: guest.open_requests == 1)
    wait_for(lambda: guest.open_requests == 0)
    assert not guest.engine.asked


@pytest.mark.parametrize("pacing", ["none", "clock", "strict"])
@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
@pytest.mark.parametrize("when", ["at once", "waiting", "reading", "not reading"])
def test_a_client_that_leaves_cancels_its_answer(
    guest: Room, when: str, body: object, pacing: str
) -> None:
    guest.engine.script = Script(pieces=["word " * 500] * 5000, pause=0.001)
    if when == "waiting":
        guest.engine.script.pause = 30
    guest.engine.slow_close = 0.05
    sealed = guest.client().seal(bhttp.encode_request(post(body, pacing=pacing)))
    with connected(guest) as connection:
        begin(connection, guest, CHUNKED, length=len(sealed))
        connection.sendall(sealed)
        if when != "at once":
            wait_for(lambda: guest.engine.answers)
        if when == "reading" and body is not CHAT:
            wait_for(lambda: len(connection.recv(1 << 16)) > 1000)
        if when == "not reading":
            time.sleep(0.3)
    wait_for(lambda: guest.open_requests == 0)
    assert all(answer.cancelled.wait(HANG_S) for answer in guest.engine.answers)


def test_many_clients_that_leave_at_once_leave_nothing_open(guest: Room) -> None:
    guest.engine.script.pause = 5
    for _ in range(30):
        sealed = seal(guest, stream())
        with connected(guest) as connection:
            begin(connection, guest, CHUNKED, length=len(sealed))
            connection.sendall(sealed)
    wait_for(lambda: guest.open_requests == 0)
    assert all(answer.cancelled.wait(HANG_S) for answer in guest.engine.answers)


@pytest.mark.parametrize(("script", "outcome"), [
    (Script(), "answered"), (Script(refuse=RuntimeError(SECRET)), "failed"),
    (Script(refuse=QueueFull("engine: full")), "full"),
    (Script(fail=EngineFailed("engine: it stopped")), "failed"),
    (Script(fail=RuntimeError(SECRET), fail_at=2), "answered"),
])  # fmt: skip
def test_after_every_answer_nothing_is_open(guest: Room, script: Script, outcome: str) -> None:
    guest.engine.script = script
    before = guest.counts
    assert send(guest, seal(guest, stream()))[0] == 200
    after = guest.counts
    assert after["umay_requests_open"] == 0
    assert ended(before, after) == {outcome: 1}


def test_more_than_may_be_open_are_told_to_wait(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_AT_ONCE", 1)
    guest.engine.script.pause = 0.3
    with ThreadPoolExecutor(1) as pool, connected(guest) as late:
        sealed = seal(guest)
        begin(late, guest, CHUNKED, length=len(sealed))
        late.sendall(sealed[:-1])
        wait_for(lambda: guest.open_requests == 1)
        first = pool.submit(send, guest, seal(guest))
        wait_for(lambda: guest.counts["umay_requests_open"] == 2 and guest.engine.asked)
        status, headers, body = send(guest, seal(guest))
        assert (status, body) == (503, b"") and 1 <= int(headers["retry-after"]) <= 60
        late.sendall(sealed[-1:])  # which is whole while the first is open
        assert late.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
        assert first.result()[0] == 200
    assert send(guest, seal(guest))[0] == 200


def test_who_floods_a_guest_is_told_so_inside_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it runs, now or later: its client may ask another machine."""
    monkeypatch.setattr(replay, "BURST", 1)
    monkeypatch.setattr(replay, "RATE", 1e-9)
    with room() as guest:
        assert guest.ask(post(CHAT)).status == 200
        before = guest.counts
        answer = guest.open(post(CHAT))
        assert answer.status == 503 and answer.header(b"retry-after") == b"1"
        assert json.loads(answer.read())["error"]["code"] == "too_many_requests"
        kept = seal(guest)
        assert [send(guest, kept)[0] for _ in range(2)] == [200, 200]
        assert len(guest.engine.asked) == 1
        after = guest.counts
        assert ended(before, after) == {"limited": 3}


HALF_SENT = {"nothing": 0, "a few bytes": 3, "the key": 600, "all but the end": -1}


@pytest.mark.parametrize("sent", HALF_SENT.values(), ids=HALF_SENT)
def test_half_sent_requests_close_a_guest_to_nobody(
    guest: Room, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    monkeypatch.setattr(server, "MAX_AT_ONCE", 2)
    sealed = [seal(guest) for _ in range(5)]
    with ExitStack() as opened:
        for one in sealed:
            connection = opened.enter_context(connected(guest))
            begin(connection, guest, CHUNKED, length=len(one))
            connection.sendall(one[:sent])
        wait_for(lambda: guest.open_requests == 5)
        assert send(guest, seal(guest))[0] == 200


def test_of_too_many_that_arrive_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_ARRIVING", 3)
    with room() as guest, ExitStack() as opened:
        held = []
        for number in range(3):
            held.append(opened.enter_context(connected(guest)))
            begin(held[-1], guest, CHUNKED, length=9)
            wait_for(lambda: guest.open_requests == number + 1)  # noqa: B023
        assert send(guest, seal(guest))[0] == 200
        crowded = held[0].recv(1 << 16)
        assert crowded.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in crowded
        held[1].sendall(b"x" * 9)
        assert held[1].recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_of_too_many_bytes_that_arrive_the_oldest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with room() as model:
        size = len(seal(model))
    monkeypatch.setattr(server, "MAX_ARRIVING_BYTES", size + 600)
    with room() as guest, connected(guest) as first:
        sealed = seal(guest)
        begin(first, guest, CHUNKED, length=len(sealed))
        first.sendall(sealed[:1200])
        wait_for(lambda: guest.open_requests == 1)
        time.sleep(0.05)
        assert send(guest, seal(guest))[0] == 200
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
        for _ in range(3):  # nothing of them is still counted
            assert send(guest, seal(guest))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /umay/ HTTP/1.1\r\nhost: x\r\n"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_slow_head_is_hung_up_on(sent: bytes, before: int) -> None:
    with room(limits=Limits(head_s=0.2, idle_s=0.4)) as guest, connected(guest) as connection:
        for _ in range(before):
            connection.sendall(b"GET /umay/ HTTP/1.1\r\nhost: x\r\n\r\n")
            read_until(connection, b'"]}')
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_a_long_answer_outlives_the_time_for_a_head() -> None:
    with room(limits=Limits(head_s=0.1, idle_s=0.1)) as guest:
        guest.engine.script.pause = 0.1
        assert guest.ask(post(stream())).content.count(b"data: ") == 5


@pytest.mark.parametrize("pacing", ["none", "clock"])
def test_a_client_that_reads_nothing_is_given_up(
    guest: Room, monkeypatch: pytest.MonkeyPatch, pacing: str
) -> None:
    monkeypatch.setattr(server, "MAX_STALL_SECONDS", 0.2)
    guest.engine.script = Script(pieces=["word " * 50_000] * 5000)
    sealed = guest.client().seal(bhttp.encode_request(post(stream(), pacing=pacing)))
    with connected(guest) as connection:
        begin(connection, guest, CHUNKED, length=len(sealed))
        connection.sendall(sealed)
        wait_for(lambda: guest.engine.answers)
        wait_for(lambda: guest.open_requests == 0)
        assert guest.engine.answers[-1].cancelled.wait(HANG_S)


def test_it_stops_in_time_whatever_is_open() -> None:
    with room() as guest:
        guest.engine.script = Script(pieces=["word"] * 1_000_000, pause=0.01)
        answers = [guest.open(post(stream(), pacing=how)) for how in ("none", "clock", "strict")]
        with connected(guest) as head, connected(guest) as body:
            head.sendall(b"GET /um")
            begin(body, guest, CHUNKED, length=99)
            wait_for(lambda: guest.open_requests == 4)
            guest.stop()
        assert all(answer.cancelled.is_set() for answer in guest.engine.answers)
        for answer in answers:
            with pytest.raises(Truncated):
                answer.read()


def test_a_guest_whose_engine_has_stopped_is_not_ready() -> None:
    with room() as guest:
        assert get(guest, "healthz")[::2] == (200, b'{"ready":true}')
        guest.engine.failed = EngineFailed("engine: it was stopped by RuntimeError")
        assert get(guest, "healthz")[::2] == (503, b'{"ready":false}')
        assert get(guest, "livez")[::2] == (503, b'{"live":false}')


# The end


def test_a_guest_that_drains_begins_no_answer_and_says_so_inside_the_seal() -> None:
    with room() as guest:
        client = guest.client()
        guest.guest.drain.begin()
        answer = guest.open(post(CHAT))
        assert answer.status == 503 and answer.header(b"retry-after") == b"1"
        assert json.loads(answer.read())["error"]["code"] == "draining"
        assert guest.open(post(b"", path=wire.MODELS, method="GET")).status == 503
        assert not guest.engine.asked
        sealed = client.seal(bhttp.encode_request(post(CHAT)))
        assert [send(guest, sealed)[0] for _ in range(2)] == [200, 400], "it can never run"


def test_a_guest_that_drains_is_alive_and_not_ready() -> None:
    with room() as guest:
        assert get(guest, "livez")[::2] == (200, b'{"live":true}')
        guest.guest.drain.begin()
        assert get(guest, "healthz")[::2] == (503, b'{"ready":false}')
        assert get(guest, "livez")[::2] == (200, b'{"live":true}')
        assert json.loads(ask(guest, "GET", "/umay/")[2]) == {"boots": []}
        status, headers, body = session(guest)
        assert (status, headers["retry-after"], body) == (503, "1", b"")
        assert get(guest, "evidence")[0] == 200


def test_what_runs_when_a_guest_drains_ends_with_its_receipt() -> None:
    with room() as guest:
        guest.engine.script = Script(pieces=["word"] * 20, pause=0.01)
        answer = guest.open(post(stream()))
        guest.guest.drain.begin()
        assert answer.read().count(b"word") == 20 and answer.receipt is not None


def test_a_retry_of_what_runs_when_a_guest_drains_joins_it() -> None:
    """It may not be told that this machine did not take it: another one would run it too."""
    with room() as guest:
        guest.engine.script = Script(pieces=["word"] * 20, pause=0.01)
        first = guest.open(post(stream(), key=b"k" * 16))
        guest.guest.drain.begin()
        again = guest.open(post(stream(), key=b"k" * 16))
        assert again.status == 200 and again.read() == first.read()
        assert guest.open(post(stream(), key=b"k" * 16)).status == 200  # and afterwards
        assert guest.open(post(stream(), key=b"l" * 16)).status == 503
        assert len(guest.engine.asked) == 1


# Epochs


def test_before_its_evidence_is_anchored_nothing_is_served() -> None:
    with room(anchored=False) as guest:
        ((epoch, _),) = guest.epochs.living
        client = ClientRequest(epoch.bundle.key_configs, pq="preferred")
        sealed = client.seal(bhttp.encode_request(post(CHAT)))
        assert send(guest, sealed)[::2] == (503, b"")
        assert get(guest, "healthz")[::2] == (503, b'{"ready":false}')
        assert get(guest, "ohttp-keys")[::2] == (503, b"")
        assert session(guest)[::2] == (503, b"")
        assert get(guest, "evidence")[2] == epoch.evidence
        assert epochs_of(guest) == [(epoch.evidence_digest.hex(), "pending")]
        guest.anchor()
        assert get(guest, "healthz")[::2] == (200, b'{"ready":true}')
        assert send(guest, sealed)[0] == 200


def test_when_its_epoch_has_ended_nothing_is_served() -> None:
    with room() as guest:
        sealed = seal(guest)
        guest.epochs.retire(time.monotonic() + 10_000)
        assert send(guest, sealed)[::2] == (503, b"")
        assert get(guest, "evidence")[0] == 404
        assert epochs_of(guest) == []


def test_a_boot_retires_by_its_word_and_serves_nobody_any_more() -> None:
    with room() as guest:
        sealed, bundle = seal(guest), guest.epochs.current.bundle  # type: ignore[union-attr]
        guest.feed.ended = frozenset({bytes.fromhex(guest.boot)})
        status, _, word = ask(guest, "POST", f"/umay/{guest.boot}/retire")
        assert status == 200
        retirement = Retirement.from_bytes(word)
        retirement.check(bundle.receipt_key)
        assert retirement.boot_id.hex() == guest.boot
        assert retirement.bundle_digest == bundle_digest(bundle.to_bytes())
        assert send(guest, sealed)[::2] == (503, b"")
        assert session(guest)[0] == 503
        assert (get(guest, "evidence")[0], epochs_of(guest)) == (404, [])
        assert ask(guest, "POST", f"/umay/{guest.boot}/retire")[2] == word


@pytest.mark.parametrize("ended", [frozenset(), frozenset({bytes(16)})], ids=["none", "another"])
def test_nobody_ends_a_boot_that_its_host_is_not_ending(
    guest: Room, ended: frozenset[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boot ids are public: any local user who reaches the port could name one."""
    monkeypatch.setattr(guest.feed, "ended", ended)
    for headers in ({}, {"authorization": "Bearer x"}, {"host": "localhost"}):
        path = f"/umay/{guest.boot}/retire"
        assert ask(guest, "POST", path, **headers)[::2] == (403, b"")
    assert guest.epochs.current is not None


@pytest.mark.parametrize("fails", [Unavailable(SECRET), ParseError(SECRET)])
def test_a_boot_whose_agent_does_not_say_so_goes_on(
    guest: Room, fails: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest.feed, "fails", fails)
    assert ask(guest, "POST", f"/umay/{guest.boot}/retire")[::2] == (503, b"")
    assert guest.epochs.current is not None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8402", "localhost.evil.example", "127.0.0.1.evil.example", ""],
)
@pytest.mark.parametrize(("method", "name"), [("POST", "retire"), ("GET", "metrics")])
def test_under_another_name_nothing_of_the_hosts_is_served(
    guest: Room, host: str, method: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that points its own name here reads what is answered."""
    monkeypatch.setattr(guest.feed, "ended", frozenset({bytes.fromhex(guest.boot)}))
    answer = ask(guest, method, f"/umay/{guest.boot}/{name}", host=host)
    assert answer[::2] == (403, b"")
    assert guest.epochs.current is not None


@pytest.mark.parametrize("host", ["localhost", "[::1]:7", "10.0.0.7:80", "Guest.Internal:8402"])
def test_its_host_reads_the_metrics_by_address_or_by_its_name(guest: Room, host: str) -> None:
    assert ask(guest, "GET", f"/umay/{guest.boot}/metrics", host=host)[0] == 200


@pytest.mark.parametrize(("name", "value"), [
    ("origin", "https://evil.example"), ("origin", "null"), ("origin", "http://127.0.0.1"),
    ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site"),
])  # fmt: skip
def test_no_web_page_retires_a_boot_or_reads_what_its_host_may(
    guest: Room, name: str, value: str
) -> None:
    for method, path in (("POST", "retire"), ("GET", "metrics")):
        answer = ask(guest, method, wire.base(guest.boot) + path, **{name: value})
        assert answer[::2] == (403, b"")
    assert guest.epochs.current is not None


def test_a_boot_without_an_anchored_epoch_does_not_retire() -> None:
    with room(anchored=False) as guest:
        guest.feed.ended = frozenset({bytes.fromhex(guest.boot)})
        assert ask(guest, "POST", f"/umay/{guest.boot}/retire")[::2] == (503, b"")


def test_an_answer_under_way_outlives_its_epoch() -> None:
    with room() as guest:
        guest.engine.script.pause = 0.1
        answer = guest.open(post(stream()))
        guest.epochs.retire(time.monotonic() + 10_000)
        assert answer.read().count(b"data: ") == 5
        assert answer.receipt is not None


def epochs_of(guest: Room) -> list[tuple[str, str]]:
    document = json.loads(get(guest, "epochs")[2])
    assert document.keys() == {"epochs"}
    return [(epoch["evidence"], epoch["state"]) for epoch in document["epochs"]]


# What anyone may know


def session(guest: Room) -> Reply:
    return ask(guest, "POST", f"/umay/{guest.boot}/session", bytes(32) + b"\0\x20")


def test_the_boots(guest: Room) -> None:
    assert ask(guest, "GET", "/umay/")[::2] == (200, b'{"boots":["%s"]}' % guest.boot.encode())


def test_the_evidence(guest: Room) -> None:
    epoch = guest.epochs.current
    assert epoch is not None
    for name in ("evidence", f"evidence/{epoch.evidence_digest.hex()}"):
        status, headers, body = get(guest, name)
        assert (status, headers["content-type"]) == (200, "application/cbor")
        assert body == epoch.evidence


@pytest.mark.parametrize("digest", ["00" * 32, "zz", "evidence", "%00", "x" * 5000])
def test_an_unknown_evidence(guest: Room, digest: str) -> None:
    assert get(guest, f"evidence/{digest}")[::2] == (404, b"")


def test_the_epochs(guest: Room) -> None:
    epoch = guest.epochs.current
    assert epoch is not None
    (found,) = json.loads(get(guest, "epochs")[2])["epochs"]
    digest = epoch.evidence_digest.hex()
    assert found == {"evidence": digest, "state": "current", "kind": 1, "previous": None}


def test_the_keys(guest: Room) -> None:
    status, headers, body = get(guest, "ohttp-keys")
    assert (status, headers["content-type"]) == (200, wire.OHTTP_KEYS)
    configs = [config.to_bytes() for config in parse_key_list(body)]
    assert configs == list(guest.verified.bundle.key_configs)


def test_the_configs(guest: Room) -> None:
    configs = guest.guest.configs
    assert get(guest, "config/engine")[2] == configs.engine
    assert get(guest, "config/price")[2] == configs.price == b'{"completion":7,"prompt":3}'
    assert get(guest, "config/host")[2] == HOST
    for name in ("config/other", "config/Engine", "config/__class__"):
        assert get(guest, name)[::2] == (404, b"")


WRONG_METHODS = [
    ("POST", "evidence"),
    ("PUT", "epochs"),
    ("POST", "ohttp-keys"),
    ("DELETE", "config/host"),
    ("GET", "session"),
    ("GET", "ohttp"),
    ("POST", "healthz"),
    ("POST", "livez"),
    ("POST", "metrics"),
]


@pytest.mark.parametrize(("method", "name"), WRONG_METHODS)
def test_a_wrong_method(guest: Room, method: str, name: str) -> None:
    status, _, body = ask(guest, method, f"/umay/{guest.boot}/{name}")
    assert (status, body) == (405, b"Method Not Allowed")


@pytest.mark.parametrize(
    "path",
    ["/", "/umay", "/umay/00", "/umay/{boot}", "/umay/{boot}/other", "/umay/{boot}/ohttp/", "/docs",
     "/umay/{boot}/v1/models", "//umay/", "/v1/chat/completions", "/umay/{boot}/evidence/"],
)  # fmt: skip
def test_an_unknown_path(guest: Room, path: str) -> None:
    status, headers, body = ask(guest, "GET", path.format(boot=guest.boot))
    assert (status, body) == (404, b"Not Found") and "location" not in headers


def test_nothing_is_upgraded(guest: Room) -> None:
    with connected(guest) as connection:
        connection.sendall(
            b"GET /umay/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "raw",
    [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n",
     b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", b"x" * 100_000],
)  # fmt: skip
def test_what_is_no_http_is_refused_in_silence(guest: Room, raw: bytes) -> None:
    with connected(guest) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            reply = read_all(connection)
        except ConnectionResetError:
            reply = b""
    assert not reply or reply.startswith(b"HTTP/1.1 400 ")
    assert threading.active_count() < 50
