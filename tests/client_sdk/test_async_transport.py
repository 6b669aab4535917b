"""The asynchronous way to the network, where it differs from the other: TLS, proxies, tasks."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from attestation.errors import NotThere, Truncated, Unavailable, UsageError
from attestation.net.route import Route
from client_sdk.async_transport import AsyncTransport
from tests.helpers.fake_enclave import PIECES, FakeAsyncClient, FakeEnclave
from tests.helpers.raw_server import ConnectProxy, answer, authority, head_of, serving
from tests.helpers.waiting import wait_for

T = TypeVar("T")
HOST = "relay.example"


def run(ask: Callable[[AsyncTransport], Awaitable[T]], route: Route | None = None) -> T:
    async def whole() -> T:
        transport = AsyncTransport(route=route)
        try:
            return await ask(transport)
        finally:
            await transport.close()

    return asyncio.run(whole())


def says(body: bytes, **options: Any) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(body, **options))

    return serve


def test_a_certificate_of_nobody_is_not_accepted_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, tls = authority(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with serving(says(b"data"), tls=tls) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(Unavailable, match="its certificate is not accepted") as caught:
            run(lambda transport: transport.get(url), Route())
        assert not caught.value.sent and not caught.value.again
        assert run(lambda t: t.get(url), Route(ca_bundle=bundle)) == b"data"


def test_a_proxy_that_was_named_leads_to_https_alone(tmp_path: Path) -> None:
    bundle, tls = authority(tmp_path, HOST)
    with serving(says(b"data"), tls=tls) as server:
        proxy = ConnectProxy(server.port)
        with serving(proxy) as through:
            route = Route(https_proxy=through.url().rstrip("/"), ca_bundle=bundle)
            assert run(lambda t: t.get(f"https://{HOST}/x"), route) == b"data"
            assert proxy.asked[0].startswith(f"CONNECT {HOST}:443".encode())
            assert b"umay" not in proxy.asked[0].lower() or b"user-agent: umay" in proxy.asked[0]
            with serving(says(b"plain")) as plain:
                assert run(lambda t: t.get(plain.url()), route) == b"plain"
            assert len(proxy.asked) == 1


def test_an_answer_too_long_is_left_as_it_comes() -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))
            sent += 1 << 16

    with serving(endless) as server, pytest.raises(Unavailable, match="at most 1000 bytes"):
        run(lambda t: t.get(server.url(), limit=1000))
    assert sent < 64 << 20


def test_what_is_not_there_is_said_to_be_so() -> None:
    with serving(says(b"", status="404 Not Found")) as server, pytest.raises(NotThere):
        run(lambda t: t.get(server.url()))
    page = b"<!doctype html><title>Login</title>" + b" " * (1 << 20)
    login = pytest.raises(Unavailable, match=r"got 502 with a web page, .*'Login'")
    with serving(says(page, status="502 Bad")) as server, login:
        run(lambda t: t.get(server.url()))
    with pytest.raises(UsageError, match="expected https beyond this machine"):
        run(lambda t: t.get("http://relay.example/"))


def test_nothing_was_sent_where_nobody_listens_and_all_may_have_been_where_it_was_cut() -> None:
    with pytest.raises(Unavailable, match="refused") as caught:
        run(lambda t: t.stream("http://127.0.0.1:1/", b"sealed", {}))
    assert not caught.value.sent
    cuts = serving(lambda connection: (head_of(connection), None)[1])
    with cuts as server, pytest.raises(Unavailable) as cut:
        run(lambda t: t.stream(server.url(), b"sealed", {}))
    assert cut.value.sent


def test_another_task_may_close_an_answer_that_is_being_read() -> None:
    def quiet(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx")
        time.sleep(30)

    async def closes(transport: AsyncTransport) -> None:
        stream = await transport.stream(server.url(), b"sealed", {})
        assert await stream.piece() == b"x"
        reading = asyncio.create_task(stream.piece())
        await asyncio.sleep(0.05)
        stream.close()
        with pytest.raises(Truncated):
            await reading
        with pytest.raises(Truncated):
            await stream.piece()

    with serving(quiet) as server:
        run(closes)


# Tasks that are cancelled


def test_a_task_that_is_cancelled_at_any_moment_leaves_nothing(ada: FakeEnclave) -> None:
    """Not a task, not a count, not a search that others wait for; the next question is answered."""

    async def cancels() -> None:
        client = FakeAsyncClient([ada])
        client._chooser.finder.pause = 0.02
        ada.script.pieces, ada.script.pause = PIECES, 0.01
        async with client:
            for steps in range(40):
                client._chooser._warm.clear()
                task = asyncio.create_task(whole(client))
                for _ in range(steps):
                    await asyncio.sleep(0.002)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert await whole(client)
            machines = client._chooser._warm.values()
            assert {machine.busy for machine in machines} == {0} and client._chooser._search is None
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cancels())


async def whole(client: FakeAsyncClient) -> bytes:
    async with await client.chat({"model": "demo", "stream": True}) as got:
        return await got.read()


def test_those_who_wait_for_a_search_that_is_cancelled_do_it_themselves(ada: FakeEnclave) -> None:
    async def cancels() -> None:
        client = FakeAsyncClient([ada])
        client._chooser.finder.pause = 0.1
        async with client:
            first = asyncio.create_task(whole(client))
            await asyncio.sleep(0.03)
            others = [asyncio.create_task(whole(client)) for _ in range(5)]
            await asyncio.sleep(0.03)
            others[0].cancel()
            first.cancel()
            done = await asyncio.gather(first, *others, return_exceptions=True)
            assert [isinstance(one, bytes) for one in done] == [
                False,
                False,
                True,
                True,
                True,
                True,
            ]

    asyncio.run(cancels())


def test_closing_ends_the_upkeep(ada: FakeEnclave) -> None:
    async def closes() -> None:
        client = FakeAsyncClient([ada])
        await whole(client)
        client._chooser.finder.pause = 0.5
        await whole(client)
        assert len(client._driver._tasks) == 1
        await asyncio.sleep(0.02)
        await client.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(closes())


def test_no_thread_and_no_socket_stays(ada: FakeEnclave) -> None:
    import psutil

    async def many() -> None:
        async with FakeAsyncClient([ada]) as client:
            await asyncio.gather(*(whole(client) for _ in range(20)))

    asyncio.run(many())
    process = psutil.Process()
    before = len(process.net_connections()), threading.active_count()
    for _ in range(3):
        asyncio.run(many())
    wait_for(lambda: len(process.net_connections()) <= before[0])
    wait_for(lambda: threading.active_count() <= before[1])


@pytest.mark.parametrize("rest", [b"\r\n", b"more", answer(b"another's")])
def test_what_comes_after_an_answer_is_no_answer_to_the_next_request(rest: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        for _ in range(2):
            head_of(connection)
            connection.sendall(answer(b"its own") + rest)

    async def ask(transport: AsyncTransport) -> list[bytes]:
        answers = []
        for _ in range(3):
            answers.append(await transport.get(server.url()))
            await transport.settle()
        return answers

    with serving(serve) as server:
        assert run(ask) == [b"its own"] * 3
        assert server.connections == 3, "none of them is used again"


def test_a_connection_is_used_again_where_nothing_came_after_the_answer() -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            head_of(connection)
            connection.sendall(answer(b"its own"))

    async def ask(transport: AsyncTransport) -> None:
        for _ in range(3):
            await transport.get(server.url())
            await transport.settle()

    with serving(serve) as server:
        run(ask)
        assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "again"), [(b"407 Proxy Authentication Required", False), (b"502 Bad Gateway", True)]
)
def test_nothing_was_sent_where_the_proxy_leads_nowhere(status: bytes, again: bool) -> None:
    """Its CONNECT was, which is no question."""
    refusal = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n"
    with serving(ConnectProxy(0, refusal=refusal)) as proxy:
        route = Route(proxy.url().rstrip("/"))
        with pytest.raises(
            Unavailable, match=f"Tunnel connection failed: {status.decode()}"
        ) as got:
            run(lambda transport: transport.post(f"https://{HOST}/ohttp", b"sealed"), route)
    assert not got.value.sent and got.value.again is again


def test_a_name_that_cannot_be_one_is_an_error_in_the_tree() -> None:
    with pytest.raises(Unavailable, match="no answer") as got:
        run(lambda transport: transport.get("https://xn--a.example/"))
    assert not got.value.sent
