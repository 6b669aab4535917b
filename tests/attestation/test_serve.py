"""The one server set-up, over real sockets: nobody closes it to others by holding connections."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attestation.errors import Unavailable, UsageError
from attestation.net import serve as module
from attestation.net.serve import SPARE, Server, read_address, serve
from attestation.net.server_connection import Limits, Pace
from tests.helpers.places import ROOT
from tests.helpers.respelt import RESPELT, respelt
from tests.helpers.waiting import HANG_S, wait_for

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENT = Limits(head_s=HANG_S, body_s=HANG_S, body_stall_s=HANG_S, stall_s=HANG_S, idle_s=HANG_S)
"""Nothing is closed by time: what room there is, was made."""

HALVES = {
    "nothing at all": b"",
    "one byte": b"G",
    "half a line": b"GET /umay",
    "a head without its end": GET[:-2],
    "a long head without its end": GET[:-2] + b"x: " + b"y" * 8000,
}


class App:
    """`/hold` waits for `release`, `/big` sends 64 MiB, `/body` reads its request."""

    def __init__(self) -> None:
        self.release, self.at_work = threading.Event(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.at_work += 1
        try:
            await self._answer(scope["path"], receive, send)
        finally:
            self.at_work -= 1

    async def _answer(self, path: str, receive: Any, send: Any) -> None:
        while path == "/hold" and not self.release.is_set():
            await asyncio.sleep(0.01)
        while path == "/body" and (await receive()).get("more_body"):
            pass
        body = bytes(64 << 20) if path == "/big" else b"good"
        size = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": size})
        await send({"type": "http.response.body", "body": body})


class Place:
    def __init__(self, app: App, server: Server, port: int, parts: ExitStack) -> None:
        self.app, self.server, self.port, self._parts = app, server, port, parts

    def connect(self, sent: bytes = b"") -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=HANG_S)
        self._parts.enter_context(opened)
        opened.sendall(sent)
        return opened

    def get(self, path: str = "/") -> bytes:
        """The head of an answer to an honest request of its own."""
        with self.connect(GET.replace(b"/", path.encode(), 1)) as opened:
            return head_of(opened)


def head_of(opened: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (part := opened.recv(4096)):
        data += part
    return data


def is_good(opened: socket.socket) -> bool:
    """Whether a whole good answer comes."""
    data = b""
    while not data.endswith(b"good") and (part := opened.recv(4096)):
        data += part
    return data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"good")


def hung_up(opened: socket.socket) -> bool:
    try:
        return opened.recv(4096) == b""
    except ConnectionResetError:
        return True


@contextmanager
def place(limits: Limits = PATIENT, most: int = SPARE + 8, app: Any = None) -> Iterator[Place]:
    app = app or App()
    with ExitStack() as parts:
        bound = parts.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = Server(app, limits, most=most)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Place(app, server, bound.getsockname()[1], parts)
        finally:
            if isinstance(app, App):
                app.release.set()
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_half_sent_heads_close_the_server_to_nobody(sent: bytes) -> None:
    with place() as here:
        held = [here.connect(sent) for _ in range(5 * (SPARE + 8))]
        for _ in range(3):
            assert here.get().startswith(b"HTTP/1.1 200 ")
        assert hung_up(held[0])
        assert len(here.server.server_state.connections) <= SPARE + 8


def test_heads_that_drip_close_the_server_to_nobody() -> None:
    with place() as here:
        held = [here.connect(b"G") for _ in range(SPARE + 8)]
        for opened in held:
            opened.sendall(b"E")
        assert here.get().startswith(b"HTTP/1.1 200 ")


def test_idle_connections_make_room() -> None:
    with place() as here:
        idle = [here.connect(GET) for _ in range(SPARE + 8)]
        for opened in idle:
            assert is_good(opened)
        assert here.get().startswith(b"HTTP/1.1 200 ")


def test_a_request_at_work_is_not_what_makes_room() -> None:
    with place() as here:
        working = here.connect(GET.replace(b"/", b"/hold", 1))
        wait_for(lambda: here.app.at_work == 1)
        for _ in range(3 * (SPARE + 8)):
            here.connect(b"GET")
        assert here.get().startswith(b"HTTP/1.1 200 ")
        here.app.release.set()
        assert is_good(working)


def test_where_all_connections_are_at_work_the_next_is_told_so() -> None:
    with place(most=SPARE + 4) as here:
        working = [here.connect(GET.replace(b"/", b"/hold", 1)) for _ in range(4)]
        wait_for(lambda: here.app.at_work == 4)
        for _ in range(2 * SPARE):
            busy = here.get()
            assert busy.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in busy
        here.app.release.set()
        assert all(is_good(opened) for opened in working)
        assert here.get().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("before", [0, 2])
def test_a_head_that_does_not_come_in_time_is_hung_up_on(sent: bytes, before: int) -> None:
    with place(Limits(head_s=0.2, idle_s=0.2)) as here:
        opened = here.connect()
        for _ in range(before):
            opened.sendall(GET)
            assert is_good(opened)
        opened.sendall(sent)
        assert hung_up(opened)


def test_half_a_head_behind_a_request_is_hung_up_on() -> None:
    with place(Limits(head_s=0.2)) as here:
        opened = here.connect(GET + GET[:-2])
        assert is_good(opened)
        assert hung_up(opened)


def test_requests_may_follow_each_other_at_once() -> None:
    with place() as here:
        opened = here.connect(GET * 3)
        data = b""
        while data.count(b"good") < 3:
            data += opened.recv(4096)


def test_a_body_that_does_not_come_in_time_is_refused() -> None:
    with place(Limits(body_s=0.2)) as here:
        posted = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhalf"
        opened = here.connect(posted)
        assert b" 500 " in head_of(opened).splitlines()[0]  # of an app that knows no better
        assert here.app.at_work == 0


def test_an_app_of_starlette_answers_408_to_it() -> None:
    async def body(request: Request) -> Response:
        return Response(await request.body())

    app = Starlette(routes=[Route("/body", body, methods=["POST"])])
    with place(Limits(body_s=0.2), app=app) as here:
        for sent in (b"", b"half"):
            posted = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
            assert head_of(here.connect(posted + sent)).startswith(b"HTTP/1.1 408 ")
        whole = here.connect(posted + b"whole")
        assert head_of(whole).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 86401])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="idle_s: expected more than 0"):
        Limits(idle_s=seconds)


def test_who_takes_nothing_of_an_answer_is_given_up() -> None:
    with place(Limits(stall_s=0.2)) as here:
        opened = here.connect(GET.replace(b"/", b"/big", 1))
        wait_for(lambda: here.server.server_state.total_requests)
        wait_for(lambda: not here.server.server_state.connections)
        got = 0
        while part := opened.recv(1 << 20):
            got += len(part)
        assert 0 < got < 64 << 20


def test_every_byte_that_is_not_taken_counts() -> None:
    with place() as here:
        assert is_good(here.connect(GET))
        (held,) = here.server.server_state.connections
        assert held.transport.get_write_buffer_limits() == (0, 0)  # type: ignore[union-attr]


def spent(steps: list[tuple[float, int]], *, rate: float = 10, grace: float = 3) -> list[bool]:
    """Whether something is left after each step of so many seconds and bytes."""
    pace, moved, left = Pace(int, print, rate=rate, grace=grace), 0, []
    for seconds, more in steps:
        pace._before, moved = moved, moved + more
        left.append(pace.spend(seconds, moved))
    return left


def test_who_is_as_fast_as_the_least_rate_is_waited_for() -> None:
    assert all(spent([(1, 10)] * 1000))
    assert all(spent([(2.9, 0), (1, 100)] * 100))  # in bursts


def test_who_drips_uses_up_its_time() -> None:
    assert spent([(1, 9)] * 31)[-3:] == [True, False, False]
    assert spent([(60, 1)], grace=60) == [True] and spent([(60, 1)] * 2, grace=60)[-1] is False
    assert spent([(3, 0)]) == [False]


def test_a_fast_start_buys_no_more_than_the_grace() -> None:
    assert spent([(1, 1 << 30), (2.9, 0)]) == [True, True]
    assert spent([(1, 1 << 30), (3, 0)]) == [True, False]


def test_what_we_add_ourselves_is_not_held_against_the_reader() -> None:
    assert spent([(1, -1000)]) == [True]


SLOW = Limits(rate=80_000, stall_s=0.3, body_stall_s=0.3, head_s=HANG_S, body_s=HANG_S)
"""A rate that no reader or writer of the tests below has."""


def test_who_drips_its_reading_is_given_up() -> None:
    with place(SLOW) as here:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with opened:
            opened.settimeout(HANG_S)
            opened.connect(("127.0.0.1", here.port))
            opened.sendall(GET.replace(b"/", b"/big", 1))
            wait_for(lambda: here.server.server_state.total_requests)
            try:
                while opened.recv(16) and here.server.server_state.connections:
                    time.sleep(0.01)
            except ConnectionResetError:
                pass
            wait_for(lambda: not here.server.server_state.connections)


def test_an_answer_that_is_made_slowly_is_not_its_readers_fault() -> None:
    with place(SLOW) as here:
        opened = here.connect(GET.replace(b"/", b"/hold", 1))
        wait_for(lambda: here.app.at_work == 1)
        time.sleep(1)
        here.app.release.set()
        assert is_good(opened)


def post(path: bytes, length: int = 9, sent: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, length)
    return head + sent


HALF_BODIES = {
    "no body": post(b"/body"),
    "all but a byte": post(b"/body", sent=b"x" * 8),
    "to an app that does not read it": post(b"/hold"),
    "after a request for a continuation": post(b"/body").replace(
        b"host", b"expect: 100-continue\r\nhost"
    ),
    "in chunks without an end": b"POST /body HTTP/1.1\r\nhost: x\r\n"
    b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    "behind a whole request": GET + post(b"/body"),
    "of a method that has none": post(b"/body").replace(b"POST", b"GET"),
}


@pytest.mark.parametrize("sent", HALF_BODIES.values(), ids=HALF_BODIES)
def test_half_sent_bodies_close_the_server_to_nobody(sent: bytes) -> None:
    with place() as here:
        held = [here.connect(sent) for _ in range(3 * (SPARE + 8))]
        for _ in range(3):
            assert here.get().startswith(b"HTTP/1.1 200 ")
        whole = here.connect(post(b"/body"))
        whole.sendall(b"x" * 9)
        assert is_good(whole)
        while not hung_up(held[0]):
            pass


def test_the_oldest_half_sent_body_makes_room() -> None:
    """Its time counts from its own head: an old connection may send a new request."""
    with place() as here:
        kept = here.connect(GET)
        assert is_good(kept)
        wait_for(lambda: here.app.at_work == 0)
        first = here.connect(post(b"/body"))
        wait_for(lambda: here.app.at_work == 1)
        kept.sendall(post(b"/body"))
        wait_for(lambda: here.app.at_work == 2)
        for _ in range(SPARE + 8 - 2):
            assert is_good(here.connect(GET))
        assert hung_up(first)
        kept.sendall(b"x" * 9)
        assert is_good(kept)


def test_a_body_that_is_whole_when_all_places_are_taken_is_told_so() -> None:
    with place(most=SPARE + 2) as here:
        halves = [here.connect(post(b"/body")) for _ in range(2)]
        wait_for(lambda: here.app.at_work == 2)
        working = [here.connect(GET.replace(b"/", b"/hold", 1)) for _ in range(2)]
        wait_for(lambda: here.app.at_work == 4)
        for opened in halves:
            opened.sendall(b"x" * 9)
            assert head_of(opened).startswith(b"HTTP/1.1 503 ")
        here.app.release.set()
        assert all(is_good(opened) for opened in working)
        wait_for(lambda: here.app.at_work == 0)
        assert here.get().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 8])
def test_a_body_that_comes_too_slowly_is_hung_up_on(sent: bytes) -> None:
    with place(SLOW) as here:
        opened = here.connect(post(b"/body", sent=sent))
        assert hung_up(opened)
        wait_for(lambda: here.app.at_work == 0)


def test_a_body_that_nobody_takes_is_not_its_senders_fault() -> None:
    """uvicorn stops to read where the app does not."""
    with place(SLOW) as here:
        opened = here.connect(post(b"/hold", 1 << 18, b"x" * (1 << 17)))
        wait_for(lambda: here.app.at_work == 1)
        time.sleep(1)
        here.app.release.set()
        assert is_good(opened)


def test_an_idle_connection_is_kept_for_75_seconds_unless_said() -> None:
    assert Server(App()).config.timeout_keep_alive == Limits().idle_s == 75
    assert Server(App(), Limits(idle_s=7)).config.timeout_keep_alive == 7
    with place(Limits(head_s=0.1)) as here:  # which is for heads, not for pauses between them
        opened = here.connect(GET)
        assert is_good(opened)
        time.sleep(0.3)
        opened.sendall(GET)
        assert is_good(opened)


@pytest.mark.parametrize("spelling", RESPELT)
def test_a_path_that_is_spelt_otherwise_reaches_no_app(spelling: str) -> None:
    """Those without a %: a router takes them for what they are."""

    async def reached(_: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route("/a/{name:path}", reached), Route("/a/name", reached)])
    app.router.redirect_slashes = False
    with place(app=app) as here:
        path = respelt(spelling, "/a/name")
        expected = b"404" if "%" in path or not path.startswith("/a/") else b"200"
        assert here.get(path).split()[1] == expected
        assert here.get("/a/name").split()[1] == b"200"


def test_an_endless_head_is_refused() -> None:
    with place() as here:
        opened = here.connect(GET[:-2] + b"x: " + b"y" * (module.MAX_HEAD_BYTES + 1))
        assert head_of(opened).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "listen",
    [
        "8080",
        ":80",
        "localhost:",
        "localhost:http",
        "x:65536",
        "x:-1",
        "x:٠",
        "x:000080",
        "",
        "x: 1",
    ],
)
def test_listen_is_host_and_port(listen: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        serve([(App(), listen)], ready=print)


def test_addresses() -> None:
    assert read_address("[::1]:8080") == ("::1", 8080)
    assert read_address("127.0.0.1:0") == ("127.0.0.1", 0)


def test_a_taken_address_is_named_and_the_others_are_free_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        first = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        name = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{name}: another program listens at this address"):
            serve([(App(), f"127.0.0.1:{first}"), (App(), name)], ready=print)
    socket.create_server(("127.0.0.1", first)).close()


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid:1"):
        serve([(App(), "no-such-host.invalid:1")], ready=print)


@pytest.mark.parametrize(
    ("limit", "listeners", "each"), [(1 << 16, 1, 2048), (1064, 1, 500), (1064, 2, 250)]
)
def test_connections_stay_below_what_may_be_open(
    monkeypatch: pytest.MonkeyPatch, limit: int, listeners: int, each: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert module._connections(Limits(), listeners) == each


def test_too_few_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (97, 97))
    with pytest.raises(Unavailable, match="open files: expected a limit of 98 at least, got 97"):
        module._connections(Limits(), 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (98, 98))
    assert module._connections(Limits(), 1) == SPARE + 1


CHILD = """
import json, resource, sys, threading
from attestation.net.server_connection import Limits
from attestation.net.serve import serve
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/fail":
        raise ValueError(scope["query_string"])
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"good"})
        if scope["path"] == "/thread":
            import asyncio, time; await asyncio.to_thread(time.sleep, 3600)
opened = []
def told():
    for line in sys.stdin:
        if line == "exhaust\\n":
            try:
                while True: opened.append(open("/dev/null"))
            except OSError: pass
        else:
            while opened: opened.pop().close()
        print(line.strip(), flush=True)
threading.Thread(target=told, daemon=True).start()
def ready(urls):
    print(json.dumps([urls, resource.getrlimit(resource.RLIMIT_NOFILE)]), flush=True)
serve([(app, "127.0.0.1:0"), (app, "127.0.0.1:0")], ready=ready, limits=Limits(head_s=3600))
"""


class Child:
    """A process with few descriptors that serves two listeners."""

    def __init__(self, soft: int, hard: int) -> None:
        command = [sys.executable, "-c", CHILD, str(soft), str(hard)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT)
        urls, self.limit = json.loads(self.process.stdout.readline())  # type: ignore[union-attr]
        self.ports = [int(url.rpartition(":")[2]) for url in urls]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def tell(self, word: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == word.encode() + b"\n"

    def connect(self, sent: bytes, listener: int = 0) -> socket.socket:
        address = ("127.0.0.1", self.ports[listener])
        opened = socket.create_connection(address, timeout=HANG_S)
        opened.sendall(sent)
        return opened

    def get(self, listener: int = 0, path: bytes = b"/") -> bytes:
        with self.connect(GET.replace(b"/", path, 1), listener) as opened:
            return head_of(opened)

    @property
    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_few_descriptors_and_many_half_sent_heads() -> None:
    with Child(192, 192) as child, ExitStack() as opened:
        for _ in range(600):
            opened.enter_context(child.connect(b"GET"))
        assert child.get(0).startswith(b"HTTP/1.1 200 ")
        assert child.get(1).startswith(b"HTTP/1.1 200 ")
        before = child.cpu_seconds
        time.sleep(1)
        assert child.cpu_seconds - before < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_descriptor_left_costs_no_cpu_and_passes() -> None:
    with Child(192, 192) as child, ExitStack() as opened:
        child.tell("exhaust")
        waiting = opened.enter_context(child.connect(GET))
        for _ in range(100):
            opened.enter_context(child.connect(b"GET"))
        before = child.cpu_seconds
        time.sleep(2)
        assert child.cpu_seconds - before < 0.7
        child.tell("close")
        assert head_of(waiting).startswith(b"HTTP/1.1 200 ")
        assert child.get().startswith(b"HTTP/1.1 200 ")


def test_no_descriptor_left_is_made_room_for() -> None:
    with Child(192, 192) as child, ExitStack() as opened:
        for _ in range(8):
            opened.enter_context(child.connect(b"GET"))
        kept = opened.enter_context(child.connect(GET))
        assert head_of(kept).startswith(b"HTTP/1.1 200 ")  # so all before it have been accepted
        child.tell("exhaust")
        assert child.get().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EINVAL])
def test_what_cannot_be_accepted_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However often: asyncio's own way asks again at once."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise asyncio.CancelledError

    async def accept(loop: asyncio.AbstractEventLoop, bound: socket.socket) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_accept", accept)
    with pytest.raises(asyncio.CancelledError), socket.socket() as bound:
        asyncio.run(Server(App())._accept(bound))
    assert waited == [module.PAUSE_S] * 3


def test_a_process_takes_all_the_descriptors_that_it_may() -> None:
    with Child(100, 512) as child:
        assert child.limit == [512, 512]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_told_and_says_nothing_of_requests(number: int) -> None:
    with Child(1024, 1024) as child:
        for name in (b"/fail?secret1", b"/fail?secret2"):
            assert child.get(path=name).startswith(b"HTTP/1.1 500 ")
        waits = GET.replace(b"/", b"/thread", 1)
        with child.connect(b"GET /hal"), child.connect(GET), child.connect(waits, 1) as waiting:
            assert head_of(waiting)
            child.process.send_signal(number)
            out, errors = child.process.communicate(timeout=HANG_S)
        assert (child.process.returncode, out) == (0, b"")
        assert errors == b"a request failed: ValueError (told once)\n"


def test_importing_the_room_loads_no_server() -> None:
    code = "import sys, attestation.net, attestation.net.cors; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert not {"uvicorn", "starlette", "h11"} & set(done.stdout.split())
