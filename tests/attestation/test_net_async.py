"""Kept connections for asyncio, against servers of raw bytes on loopback."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

import h11
import pytest

from attestation.net.async_connections import (
    FAILURES,
    MAX_HEAD_BYTES,
    MAX_HELD_BYTES,
    AsyncConnections,
    Waits,
)
from tests.helpers.raw_server import HANG, Serve, answer, authority, head_of, serving

WAITS = Waits(turn=HANG, connect=HANG, silence=HANG)
Asked = tuple[int, bytes]


def connections(
    waits: Waits = WAITS,
    *,
    most: int = 4,
    idle_s: float = HANG,
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> AsyncConnections:
    return AsyncConnections(waits, most=most, kept=2, idle_s=idle_s, trust=trust)


async def ask(made: AsyncConnections, url: str, *parts: bytes) -> Asked:
    """GET, or POST of these parts of a body; status and content of the answer."""
    left = list(parts)

    async def body() -> tuple[bytes, bool]:
        return left.pop(0), bool(left)

    method = "POST" if parts else "GET"
    exchange = await made.open(method, url, {"accept": "*/*"}, body if parts else None)
    try:
        content = b""
        while piece := await exchange.piece():
            content += piece
        return exchange.status, content
    finally:
        exchange.close()


def asking(serve: Serve, work: Callable[[str], Coroutine[None, None, object]]) -> int:
    """Runs `work` with the URL of a server; how many connections it took."""
    with serving(serve) as server:
        asyncio.run(work(server.url()))
        return server.connections


def served(*answers: bytes) -> Serve:
    """One answer after the other on one connection, which then ends."""

    def serve(connection: socket.socket) -> None:
        for one in answers:
            head_of(connection)
            connection.sendall(one)

    return serve


def test_a_connection_serves_one_exchange_after_the_other() -> None:
    async def work(url: str) -> None:
        made = connections()
        assert [await ask(made, url) for _ in range(3)] == [(200, b"yes")] * 3

    assert asking(served(*[answer(b"yes")] * 3), work) == 1


def test_a_whole_body_leaves_with_its_head() -> None:
    came: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        came.append(head_of(connection))
        connection.sendall(answer(b"yes"))

    async def work(url: str) -> None:
        assert await ask(connections(), url, b"sealed") == (200, b"yes")

    asking(serve, work)
    head, _, body = came[0].partition(b"\r\n\r\n")
    assert b"content-length: 6" in head.lower() and body == b"sealed"


def test_a_body_in_parts_is_sent_in_chunks_as_they_come() -> None:
    came: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        data = head_of(connection)
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(1 << 16)
        came.append(data)
        connection.sendall(answer(b"yes"))

    async def work(url: str) -> None:
        assert await ask(connections(), url, b"one", b"", b"four") == (200, b"yes")

    asking(serve, work)
    assert came[0].endswith(b"3\r\none\r\n4\r\nfour\r\n0\r\n\r\n")


def closes_on_the_second(connection: socket.socket) -> None:
    """As a server whose patience with an idle connection ends just when a request comes."""
    head_of(connection)
    connection.sendall(answer(b"yes"))
    head_of(connection)
    RAN.append(1)


RAN: list[int] = []


def test_a_request_that_meets_a_closing_connection_is_not_sent_again() -> None:
    RAN.clear()

    async def work(url: str) -> None:
        made = connections()
        assert await ask(made, url, b"first") == (200, b"yes")
        with pytest.raises(h11.RemoteProtocolError):
            await ask(made, url, b"second")
        assert await ask(made, url, b"third") == (200, b"yes")

    assert asking(closes_on_the_second, work) == 2
    assert len(RAN) == 1


def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used() -> None:
    async def work(url: str) -> None:
        made = connections()
        for _ in range(3):
            assert await ask(made, url, b"sealed") == (200, b"yes")
            while made._idle:
                await asyncio.sleep(0.001)

    assert asking(served(answer(b"yes")), work) == 3


def test_what_the_event_loop_has_not_seen_yet_is_asked_of_the_system() -> None:
    """The server's bytes, or its end, are there, and the loop had no turn to read them."""

    async def work(url: str) -> None:
        made = connections()
        assert await ask(made, url) == (200, b"yes")
        (kept,) = made._idle
        assert kept.usable()
        opened = kept._transport.get_extra_info("socket")
        opened_there[0].sendall(b"x")
        select.select([opened.fileno()], [], [], HANG)
        assert not kept.usable()

    def serve(connection: socket.socket) -> None:
        opened_there.append(connection)
        head_of(connection)
        connection.sendall(answer(b"yes"))
        connection.recv(1)

    opened_there: list[socket.socket] = []
    asking(serve, work)


SPOILT = {
    "bytes after the answer": answer(b"yes") + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    "told to close": answer(b"yes", "connection: close"),
    "an older version": b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes",
    "an answer before the body": b"",
}


@pytest.mark.parametrize("sent", SPOILT.values(), ids=SPOILT)
def test_a_connection_is_not_used_after(sent: bytes) -> None:
    async def work(url: str) -> None:
        made = connections()
        for _ in range(2):
            if sent:
                assert (await ask(made, url))[0] == 200
                continue
            exchange = await made.open("GET", url, {})
            exchange.close()

    assert asking(served(sent or answer(b"a long answer"), answer(b"no")), work) == 2


BROKEN = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a short body": answer(b"yes", length=9),
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (2 * MAX_HEAD_BYTES),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_no_whole_one(sent: bytes) -> None:
    async def work(url: str) -> None:
        made = connections()
        with pytest.raises(FAILURES):
            await ask(made, url, b"sealed")
        assert not made._idle and made._turns._value == 4

    asking(served(sent), work)


def test_what_came_before_a_cut_is_given_first() -> None:
    async def work(url: str) -> None:
        exchange = await connections().open("GET", url, {})
        assert await exchange.piece() == b"ab"
        with pytest.raises(FAILURES):
            await exchange.piece()
        with pytest.raises(FAILURES):
            await exchange.piece()
        exchange.close()

    asking(served(BROKEN["no last chunk"] + b"not a length\r\n"), work)


def test_interim_answers_are_passed_over() -> None:
    async def work(url: str) -> None:
        assert await ask(connections(), url) == (200, b"yes")

    asking(served(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + answer(b"yes")), work)


def test_a_body_refused_before_its_end_brings_the_refusal() -> None:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(b"too long", "connection: close", status="413 Too Large"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    async def work(url: str) -> None:
        assert await ask(connections(), url, *[b"x" * 1000] * 5) == (413, b"too long")

    asking(serve, work)


def test_a_long_answer_waits_in_the_network() -> None:
    body = b"x" * (8 * MAX_HELD_BYTES)

    async def work(url: str) -> None:
        exchange = await connections().open("GET", url, {})
        while not exchange._connection._full:
            await asyncio.sleep(0.001)
        held = sum(map(len, exchange._connection._held))
        await asyncio.sleep(0.01)
        assert held <= 2 * MAX_HELD_BYTES
        assert sum(map(len, exchange._connection._held)) == held
        content = b""
        while piece := await exchange.piece():
            content += piece
        exchange.close()
        assert content == body

    asking(served(answer(body)), work)


def test_no_more_connections_than_allowed_and_each_turn_comes_back() -> None:
    def hangs(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    async def work(url: str) -> None:
        made = connections(Waits(turn=0.01, connect=HANG, silence=HANG), most=1)
        first = asyncio.create_task(ask(made, url))
        while not made._turns.locked():
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await ask(made, url)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not made._turns.locked()

    assert asking(hangs, work) == 1


def test_a_silent_server_is_given_up() -> None:
    def hangs(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    async def work(url: str) -> None:
        made = connections(Waits(turn=HANG, connect=HANG, silence=0.01))
        with pytest.raises(TimeoutError):
            await ask(made, url)
        assert made._turns._value == 4

    asking(hangs, work)


def test_an_old_connection_is_not_used_again() -> None:
    async def work(url: str) -> None:
        made = connections(idle_s=0)
        assert await ask(made, url) == (200, b"yes")
        await asyncio.sleep(0.001)
        assert await ask(made, url) == (200, b"yes")
        assert len(made._idle) == 1

    assert asking(served(answer(b"yes"), answer(b"yes")), work) == 2


def test_only_so_many_are_kept() -> None:
    async def work(url: str) -> None:
        made = connections()
        exchanges = [await made.open("GET", url, {}) for _ in range(4)]
        for exchange in exchanges:
            assert await exchange.piece() == b"yes" and not await exchange.piece()
            exchange.close()
            exchange.close()
        assert len(made._idle) == 2 and made._turns._value == 4

    assert asking(served(answer(b"yes"), b""), work) == 4


def test_https_is_checked(tmp_path: Path) -> None:
    bundle, tls = authority(tmp_path, "localhost")

    async def work(port: int) -> None:
        url = f"https://localhost:{port}/"
        trusting = connections(trust=lambda: ssl.create_default_context(cafile=bundle))
        assert await ask(trusting, url) == (200, b"yes")
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(connections(), url)

    with serving(served(answer(b"yes")), tls=tls) as server:
        asyncio.run(work(server.port))
