"""Between the word to end and the end: what runs is finished, and the second word ends at once."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from attestation.errors import UsageError
from attestation.net.draining import Drain
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S, wait_for

SERVER = """
import asyncio, json, sys, threading
from attestation.net.draining import Drain
from attestation.net.serve import serving
from attestation.net.server_connection import Limits
drain, over, loop = Drain(float(sys.argv[1])), asyncio.Event(), None
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    refused = drain.begun and scope["path"] == "/new"
    status = 503 if refused else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
    if scope["path"] == "/long":
        await over.wait()
    await send({"type": "http.response.body", "body": b"over" if drain.begun else b"early"})
def told():
    for line in sys.stdin:
        loop.call_soon_threadsafe(over.set)
async def main():
    global loop
    loop = asyncio.get_running_loop()
    threading.Thread(target=told, daemon=True).start()
    apps = [(app, "127.0.0.1:0"), (app, "127.0.0.1:0")]
    ready = lambda urls: print(json.dumps(urls), flush=True)
    await serving(apps, ready=ready, limits=Limits(shutdown_s=float(sys.argv[2])), drain=drain)
asyncio.run(main())
"""


class Process:
    """A server of two listeners, whose answer to `/long` ends when it is told so."""

    def __init__(self, seconds: float, shutdown_s: float = 0.1) -> None:
        command = [sys.executable, "-c", SERVER, str(seconds), str(shutdown_s)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT)
        assert self.process.stdout
        urls = json.loads(self.process.stdout.readline())
        self.ports = [int(url.rpartition(":")[2]) for url in urls]

    def tell(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end_answers(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"over\n")
        self.process.stdin.flush()

    def ended(self) -> tuple[int, bytes]:
        _, errors = self.process.communicate(timeout=HANG_S)
        return self.process.returncode, errors

    def open(self, path: str, listener: int = 0) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=HANG_S)
        opened.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return opened

    def get(self, path: str, listener: int = 0) -> bytes:
        with self.open(path, listener) as opened:
            return read_to(opened, b"0\r\n\r\n")


def read_to(opened: socket.socket, end: bytes) -> bytes:
    """All up to `end`, or until nothing more comes."""
    data = b""
    while not data.endswith(end) and (part := opened.recv(1 << 16)):
        data += part
    return data


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Process]:
    times = getattr(request, "param", 3600)
    started = Process(*times) if isinstance(times, tuple) else Process(times)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_answer_under_way_is_finished_and_a_new_one_is_not_begun(
    server: Process, number: int
) -> None:
    with server.open("/long", 1) as long:
        assert read_to(long, b"begun \r\n").startswith(b"HTTP/1.1 200 ")
        server.tell(number)
        wait_for(lambda: server.get("/new").startswith(b"HTTP/1.1 503 "))
        assert server.get("/other").startswith(b"HTTP/1.1 200 ")
        assert server.process.poll() is None
        server.end_answers()
        assert b"over" in read_to(long, b"0\r\n\r\n")
    assert server.ended() == (0, b"")


def test_where_nothing_runs_it_ends_at_once(server: Process) -> None:
    with server.open("/") as idle:
        read_to(idle, b"0\r\n\r\n")
        server.tell()
        assert server.ended() == (0, b"")


def test_a_client_that_has_left_is_not_waited_for(server: Process) -> None:
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        wait_for(lambda: server.get("/new").startswith(b"HTTP/1.1 503 "))
    assert server.ended() == (0, b"")


def test_a_request_that_came_later_is_not_waited_for(server: Process) -> None:
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        wait_for(lambda: server.get("/new").startswith(b"HTTP/1.1 503 "))
        with server.open("/long") as late:
            read_to(late, b"begun \r\n")
            long.close()
            assert server.ended() == (0, b"")


def test_the_second_word_ends_it_at_once(server: Process) -> None:
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        wait_for(lambda: server.get("/new").startswith(b"HTTP/1.1 503 "))
        server.tell()
        assert server.ended() == (0, b"")
        assert b"over" not in read_to(long, b"0\r\n\r\n")


@pytest.mark.parametrize("server", [0.2], indirect=True)
def test_when_its_time_is_over_what_still_runs_is_cut(server: Process) -> None:
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        assert server.ended() == (0, b"")
        assert b"over" not in read_to(long, b"0\r\n\r\n")


@pytest.mark.parametrize("server", [0], indirect=True)
def test_without_a_time_nothing_is_drained(server: Process) -> None:
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        assert server.ended() == (0, b"")


@pytest.mark.parametrize("server", [(0, 3600)], indirect=True)
def test_who_comes_to_a_server_that_ends_is_not_kept_waiting(server: Process) -> None:
    """Without a drain its address is closed at once, so that a client can go elsewhere, and open
    answers have their time."""
    with server.open("/long") as long:
        read_to(long, b"begun \r\n")
        server.tell()
        wait_for(lambda: refuses(server))
        server.end_answers()
        assert b"early" in read_to(long, b"0\r\n\r\n")
    assert server.ended() == (0, b"")


def refuses(server: Process) -> bool:
    try:
        server.open("/new").close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("seconds", [-1, 86401, float("nan"), float("inf")])
def test_a_time_that_is_none(seconds: float) -> None:
    with pytest.raises(UsageError, match="drain: expected 0 to 86400 seconds"):
        Drain(seconds)


def test_it_says_when_it_will_be_over() -> None:
    now = 100.0
    drain = Drain(30, clock=lambda: now)
    assert not drain.begun and drain.retry_after() == 1
    drain.begin()
    assert drain.begun and drain.retry_after() == 30
    now = 110.5
    drain.begin()  # which it has already
    assert drain.retry_after() == 20
    now = 200.0
    assert drain.retry_after() == 1
