"""Sessions of a guest: one quote for many clients, bounds, and an end that is signed."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.client import ClientRequest
from attestation.channel.sessions import LIFE_SECONDS, MAX_SESSIONS, SessionKeys
from attestation.channel.suite import KEMS
from attestation.errors import NotAuthentic, ParseError, SessionBusy, Unavailable
from attestation.formats.evidence import fresh_session
from attestation.formats.session import (
    MAX_SESSIONS_PER_QUOTE,
    SessionAnswer,
    SessionRequest,
    check_gone,
    session_leaf,
)
from attestation.log.merkle import leaf_hash, root_from_inclusion
from attestation.platforms.tdx import parse_quote
from enclave.guest import server
from enclave.guest.platforms.tsm import QuoteWithLogs
from enclave.guest.sessions import QUOTE_SECONDS, Sessions
from tests.helpers import virtual_time
from tests.helpers.guest_room import CHAT, PROMPT, Quotes, Room, post, room
from tests.helpers.waiting import HANG_S, wait_for

X25519, X_WING = 0x20, 0x647A
Reply = tuple[int, str, bytes]


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    with room() as opened:
        yield opened


@pytest.fixture
def guest(shared: Room) -> Iterator[Room]:
    """A guest that holds no session."""
    shared.ring.sessions = SessionKeys()
    yield shared
    shared.quotes.down = None


def ask(guest: Room, name: str, body: bytes, media: str = wire.OCTETS) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", guest.port, timeout=HANG_S)
    try:
        connection.request("POST", f"/umay/{guest.boot}/{name}", body, {"content-type": media})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("content-type", ""), answer.read()
    finally:
        connection.close()


def request(nonce: bytes = bytes(32), kem_id: int = X25519) -> bytes:
    return SessionRequest(nonce, kem_id).to_bytes()


def open_session(guest: Room, kem_id: int = X_WING) -> SessionAnswer:
    status, media, body = ask(guest, "session", request(kem_id=kem_id))
    assert (status, media) == (200, wire.CBOR)
    return SessionAnswer.from_bytes(body)


def check_quoted(guest: Room, nonce: bytes, answer: SessionAnswer) -> None:
    leaf = leaf_hash(session_leaf(nonce, answer.config))
    root = root_from_inclusion(leaf, index=answer.index, size=answer.size, proof=answer.path)
    epoch = guest.epochs.current
    assert epoch is not None
    half = parse_quote(epoch.quote).report_data[:32]
    assert parse_quote(answer.quote).report_data == half + fresh_session(root)


@pytest.mark.parametrize("kem_id", KEMS)
def test_a_session_is_quoted_with_the_nonce_and_the_logged_keys(guest: Room, kem_id: int) -> None:
    nonce = bytes(range(32))
    status, media, body = ask(guest, "session", request(nonce, kem_id))
    assert (status, media) == (200, wire.CBOR)
    check_quoted(guest, nonce, SessionAnswer.from_bytes(body))


def test_a_request_to_a_session_is_answered_with_a_receipt(guest: Room) -> None:
    answer = guest.ask(post(CHAT), session=open_session(guest).config)
    assert answer.status == 200 and answer.receipt is not None


def test_the_engine_knows_a_session_as_one_client_and_else_each_request_as_its_own(
    guest: Room,
) -> None:
    """By which its queue is fair (fair_queue.py)."""
    sessions = [open_session(guest).config for _ in range(2)]
    for session in (*sessions, *sessions, None, None):
        guest.ask(post(CHAT), session)
    names = [asked.cache_salt for asked in guest.engine.asked[-6:]]
    assert names[:2] == names[2:4] and len(set(names)) == 4
    assert {len(name) for name in names} == {16}


@pytest.mark.parametrize("length", [0, 1, 32, 33, 35, 64, 1 << 20])
def test_a_request_of_another_length(guest: Room, length: int) -> None:
    assert ask(guest, "session", bytes(length)) == (400, "", b"")


def test_another_kem(guest: Room) -> None:
    assert ask(guest, "session", request(kem_id=0x10)) == (400, "", b"")
    assert len(guest.ring.sessions) == 0


def test_a_request_that_does_not_arrive(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", guest.port), timeout=HANG_S) as connection:
        head = f"POST /umay/{guest.boot}/session HTTP/1.1\r\nhost: x\r\ncontent-length: 34\r\n\r\n"
        connection.sendall(head.encode() + bytes(33))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_a_longer_request_is_refused_before_all_of_it_is_there(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_BODY_SECONDS", HANG_S)
    with socket.create_connection(("127.0.0.1", guest.port), timeout=HANG_S) as connection:
        head = f"POST /umay/{guest.boot}/session HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n"
        connection.sendall(head.encode() + b"\r\n" + bytes(wire.SESSION_REQUEST_BYTES + 1))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_without_an_anchored_epoch_there_is_no_session() -> None:
    with room(anchored=False) as opened:
        assert ask(opened, "session", request())[::2] == (503, b"")
        assert len(opened.ring.sessions) == 0


@pytest.mark.parametrize(
    ("down", "status"), [(Unavailable(PROMPT), 503), (RuntimeError(PROMPT), 500)]
)
def test_a_machine_that_gives_no_quote_keeps_no_session(
    guest: Room, down: Exception, status: int
) -> None:
    guest.quotes.down = down
    assert ask(guest, "session", request())[::2] == (status, b"")
    assert len(guest.ring.sessions) == 0


# One quote for many


class Slow(Quotes):
    """A machine whose first quote takes until `go`; counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.asking, self.go = threading.Event(), threading.Event()

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        self.asked += 1
        self.asking.set()
        assert self.go.wait(HANG_S)
        return super().quote(report_data)


class Desk:
    """Sessions of a guest without a server, on a machine that is slow at first."""

    def __init__(self) -> None:
        self.room, self.machine = Room(served=False), Slow()
        self.sessions = Sessions(self.room.epochs, self.machine)

    async def begin(self, count: int) -> list[asyncio.Task[bytes]]:
        """One client is being served; `count` wait for the next quote."""
        first = asyncio.create_task(self.sessions.open(asked(0)))
        await asyncio.to_thread(self.machine.asking.wait, HANG_S)
        later = [asyncio.create_task(self.sessions.open(asked(n + 1))) for n in range(count)]
        await asyncio.sleep(0)
        return [first, *later]


def running(
    work: Callable[[Desk], Coroutine[Any, Any, None]],
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Whatever happens, no quote is waited for in the end."""

    async def whole() -> None:
        desk = Desk()
        try:
            await work(desk)
        finally:
            desk.machine.go.set()

    run(whole())


def asked(number: int) -> SessionRequest:
    return SessionRequest(number.to_bytes(32, "big"), X25519)


def test_all_who_wait_share_one_quote() -> None:
    async def work(desk: Desk) -> None:
        tasks = await desk.begin(200)
        desk.machine.go.set()
        answers = [SessionAnswer.from_bytes(await task) for task in tasks]
        assert desk.machine.asked == 2
        assert [answer.size for answer in answers] == [1] + [200] * 200
        assert len({answer.config for answer in answers}) == 201
        for number, answer in enumerate(answers):
            check_quoted(desk.room, asked(number).nonce, answer)

    running(work)


def test_where_256_wait_the_next_is_told_so_and_nothing_is_made() -> None:
    async def work(desk: Desk) -> None:
        tasks = await desk.begin(MAX_SESSIONS_PER_QUOTE)
        flood = [asyncio.create_task(desk.sessions.open(asked(999))) for _ in range(1000)]
        await asyncio.sleep(0)
        assert all(isinstance(task.done() and task.exception(), SessionBusy) for task in flood)
        assert len(desk.room.ring.sessions) == 1
        desk.machine.go.set()
        await asyncio.gather(*tasks)
        assert len(desk.room.ring.sessions) == 1 + MAX_SESSIONS_PER_QUOTE

    running(work)


def test_for_clients_that_have_gone_nothing_is_made() -> None:
    async def work(desk: Desk) -> None:
        first, *later = await desk.begin(20)
        for task in later[1:]:
            task.cancel()
        await asyncio.sleep(0)
        desk.machine.go.set()
        await asyncio.gather(first, later[0])
        assert len(desk.room.ring.sessions) == 2

    running(work)


def test_quotes_keep_their_distance_and_a_lone_client_waits_for_none() -> None:
    async def work(desk: Desk) -> None:
        desk.machine.go.set()
        loop = asyncio.get_running_loop()
        await desk.sessions.open(asked(1))
        assert loop.time() == 0
        await desk.sessions.open(asked(2))
        assert loop.time() == pytest.approx(QUOTE_SECONDS)
        await asyncio.sleep(1)
        before = loop.time()
        await desk.sessions.open(asked(3))
        assert loop.time() == before

    running(work, virtual_time.run)


def test_where_every_session_is_in_use_the_answer_is_busy(guest: Room) -> None:
    keys = guest.ring.sessions = SessionKeys(capacity=1)
    session = open_session(guest)
    assert guest.ask(post(CHAT), session=session.config).status == 200
    busy = (429, wire.PROBLEM, wire.SESSION_BUSY)
    assert ask(guest, "session", request()) == ask(guest, "session", request()) == busy
    assert len(keys) == 1


def test_a_flood_puts_out_no_session_in_use() -> None:
    async def work(desk: Desk) -> None:
        desk.machine.go.set()
        keys = desk.room.ring.sessions = SessionKeys(capacity=64)
        kept = SessionAnswer.from_bytes(await desk.sessions.open(asked(1)))
        sealed = sealer(desk.room, kept.config).seal(b"x")
        desk.room.ring.request(chunked=True, to_session=True).open(sealed)
        for _ in range(3):
            flood = (desk.sessions.open(asked(n)) for n in range(200))
            told = await asyncio.gather(*flood, return_exceptions=True)
            assert sum(isinstance(one, SessionBusy) for one in told) == 200 - 63
        assert len(keys) == 64
        sealed = sealer(desk.room, kept.config).seal(b"y")
        assert desk.room.ring.request(chunked=True, to_session=True).open(sealed) == b"y"

    running(work)


def test_who_is_given_a_session_together_does_not_put_the_others_out() -> None:
    """With room for one more, one of three is given a session that lives, and two are told."""

    async def work(desk: Desk) -> None:
        keys = desk.room.ring.sessions = SessionKeys(capacity=2)
        desk.machine.go.set()
        used = SessionAnswer.from_bytes(await desk.sessions.open(asked(0)))
        sealed = sealer(desk.room, used.config).seal(b"x")
        desk.room.ring.request(chunked=True, to_session=True).open(sealed)
        three = (desk.sessions.open(asked(number)) for number in (1, 2, 3))
        answers = await asyncio.gather(*three, return_exceptions=True)
        given = [answer for answer in answers if isinstance(answer, bytes)]
        assert len(given) == 1 and len(keys) == 2
        assert all(isinstance(answer, (bytes, SessionBusy)) for answer in answers)
        (config,) = (SessionAnswer.from_bytes(answer).config for answer in given)
        sealed = sealer(desk.room, config).seal(b"y")
        assert desk.room.ring.request(chunked=True, to_session=True).open(sealed) == b"y"

    running(work)


def test_who_is_told_that_a_guest_is_busy_is_told_until_when(guest: Room) -> None:
    guest.ring.sessions = SessionKeys(capacity=1)
    session = open_session(guest)
    assert guest.ask(post(CHAT), session=session.config).status == 200
    connection = http.client.HTTPConnection("127.0.0.1", guest.port, timeout=HANG_S)
    connection.request("POST", f"/umay/{guest.boot}/session", request())
    answer = connection.getresponse()
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    connection.close()


def test_the_room_for_sessions() -> None:
    assert MAX_SESSIONS == 65_536 and LIFE_SECONDS == 600


# Their end


def sealer(guest: Room, session: bytes) -> ClientRequest:
    configs = guest.verified.bundle.key_configs
    if session[1:3] != b"\x64\x7a":
        configs = tuple(config for config in configs if config[1:3] == session[1:3])
    return ClientRequest(configs, pq="preferred", session=session)


def send(guest: Room, sealed: bytes) -> Reply:
    return ask(guest, "ohttp", sealed, wire.SESSION_REQUEST)


def chat() -> bytes:
    return bhttp.encode_request(post(CHAT))


def test_a_session_that_has_ended_is_signed_away(guest: Room) -> None:
    client = sealer(guest, open_session(guest).config)
    guest.ring.sessions = SessionKeys()
    asked_before = len(guest.engine.asked)
    status, media, word = send(guest, client.seal(chat()))
    assert (status, media, len(word)) == (400, wire.SESSION_GONE, 64)
    verified = guest.verified
    evidence, key = verified.evidence_digest, verified.bundle.receipt_key
    check_gone(key, word, evidence=evidence, clear=client.clear)
    with pytest.raises(NotAuthentic):
        check_gone(key, word, evidence=evidence, clear=client.clear + b"\0")
    assert len(guest.engine.asked) == asked_before


def test_an_executed_request_is_never_signed_away(guest: Room) -> None:
    sealed = sealer(guest, open_session(guest).config).seal(chat())
    assert send(guest, sealed)[0] == 200
    guest.ring.sessions = SessionKeys()
    assert send(guest, sealed) == (400, wire.PROBLEM, wire.REPLAYED)


def test_of_an_epoch_that_has_ended_nothing_is_said(guest: Room) -> None:
    """The ring holds its keys for another moment."""
    keys = guest.ring.open_epoch()
    configs = [config.to_bytes() for config in keys.configs]
    session = guest.ring.sessions.open(X_WING, keys.guard)
    guest.ring.sessions.forget([session])
    sealed = ClientRequest(configs, pq="preferred", session=session).seal(chat())
    assert send(guest, sealed) == (400, wire.PROBLEM, wire.REFUSED)
    guest.ring.retire(keys)


REFUSED = {
    "empty": lambda sealed: b"",
    "garbage": lambda sealed: bytes(range(256)) * 40,
    "header only": lambda sealed: sealed[:7],
    "cut in the session's key": lambda sealed: sealed[:500],
    "cut in the epoch's key": lambda sealed: sealed[:1500],
    "cut in a chunk": lambda sealed: sealed[:-30],
    "no final chunk": lambda sealed: sealed[:-17],
    "a byte more": lambda sealed: sealed + b"\0",
    "unknown key id": lambda sealed: b"\xfe" + sealed[1:],
    "tampered in the session's key": lambda sealed: flipped(sealed, 100),
    "tampered in the epoch's key": lambda sealed: flipped(sealed, 1500),
    "tampered in a chunk": lambda sealed: flipped(sealed, -40),
}


def flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_whatever_is_no_request_gets_the_one_answer(guest: Room, change: Any) -> None:
    sealed = sealer(guest, open_session(guest).config).seal(chat())
    assert send(guest, change(sealed)) == (400, wire.PROBLEM, wire.REFUSED)


@pytest.mark.parametrize("media", [wire.CHUNKED_REQUEST, wire.OHTTP_REQUEST])
def test_a_request_to_a_session_under_another_name(guest: Room, media: str) -> None:
    sealed = sealer(guest, open_session(guest).config).seal(chat())
    assert ask(guest, "ohttp", sealed, media) == (400, wire.PROBLEM, wire.REFUSED)


def test_a_plain_request_under_the_name_of_a_session(guest: Room) -> None:
    sealed = guest.client().seal(chat())
    asked_before = len(guest.engine.asked)
    assert send(guest, sealed)[:2] in ((400, wire.SESSION_GONE), (400, wire.PROBLEM))
    assert len(guest.engine.asked) == asked_before
    assert ask(guest, "ohttp", sealed, wire.CHUNKED_REQUEST)[0] == 200


def test_sessions_end_with_the_boot() -> None:
    with room() as opened:
        open_session(opened)
        assert len(opened.ring.sessions) == 1
        opened.epochs.end()
        assert len(opened.ring.sessions) == 0


def test_the_sweep_of_a_guest_asks_nobody() -> None:
    opened = Room(served=False)
    now = 1000.0
    keys = opened.ring.sessions = SessionKeys(clock=lambda: now)
    keys.open(X25519, opened.epochs.current.keys.guard)  # type: ignore[union-attr]
    now += 120
    opened.epochs.sweep(now)
    assert len(keys) == 0


def test_malformed_is_told_apart_from_busy() -> None:
    async def work(desk: Desk) -> None:
        with pytest.raises(ParseError, match="KEM 0x0020 or 0x647a"):
            await desk.sessions.open(SessionRequest(bytes(32), 7))

    running(work)


def test_a_full_guest_refuses_before_it_reads(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_AT_ONCE", 0)
    assert send(guest, b"x")[::2] == (503, b"")
    wait_for(lambda: guest.open_requests == 0)
