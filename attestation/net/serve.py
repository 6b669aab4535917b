"""Apps on listeners until SIGTERM: one set-up for guest, agent, relay, log, witness and proxy.

No access log, and nothing of a request on the console. Connections are bounded below what the
process may open, half of that kept for what requests open themselves. When there is room for
none, whoever has waited longest without a whole request makes it: half-sent heads and bodies close
a server to nobody. Where requests are at work on nearly all of them, the next gets 503.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attestation.errors import Unavailable, UsageError
from attestation.net.draining import Drain
from attestation.net.server_connection import AtWork, Connection, Limits, State

MAX_HEAD_BYTES = 16 << 10
BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""

MAX_DESCRIPTORS = 1 << 16
OWN_DESCRIPTORS = 64
"""Of a process: its files, its database, its way to the chain."""

PER_CONNECTION = 2
"""One towards the client, one for what answers it."""

SPARE = 16
"""Connections without a request at work, on which a newcomer is told that all are."""

PAUSE_S = 0.05
END_S = 3.0
"""From the end of the answers to the end of a process that was told to stop: a thread that waits
for somebody else must not hold it."""

_PLAIN = re.compile(rb"[A-Za-z0-9/._~:@!$&'()*+,;=\[\]-]+")
"""Paths that say the same before and after decoding. Routers match decoded ones, and a pattern's
`$` also before a last newline: `/retire%0A` would be `/retire` to them, and to no comparison."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
logger = logging.getLogger(__name__)


def serve(
    apps: Sequence[tuple[ASGIApp, str]],
    *,
    ready: Callable[[Sequence[str]], None],
    limits: Limits | None = None,
) -> None:
    """Each app on its HOST:PORT (port 0 for any); `ready` gets the URLs once all of them serve.

    Returns after SIGTERM or SIGINT. Raises UsageError for another address, Unavailable where
    one is taken or the process may open too few files.
    """
    asyncio.run(serving(apps, ready=ready, limits=limits))


async def serving(
    apps: Sequence[tuple[ASGIApp, str]],
    *,
    ready: Callable[[Sequence[str]], None],
    limits: Limits | None = None,
    drain: Drain | None = None,
) -> None:
    """The same within a running loop. The apps serve on while `drain` lasts, and refuse by
    themselves what they do not begin any more; it ends with the last request of before."""
    limits, drain = limits or Limits(), drain or Drain()
    most = _connections(limits, len(apps))
    waiting = len(apps)

    def up() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            ready([_url(item) for item in bound])

    servers = [Server(app, limits, most=most, up=up) for app, _ in apps]
    with ExitStack() as opened, _until_told(servers, limits, drain):
        bound = [opened.enter_context(_bind(listen)) for _, listen in apps]
        await _run(servers, bound)


async def _run(servers: Sequence[Server], bound: Sequence[socket.socket]) -> None:
    """When one ends, all do."""
    pairs = zip(servers, bound, strict=True)
    tasks = [asyncio.create_task(server.serve(sockets=[item])) for server, item in pairs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


@contextmanager
def _until_told(servers: Sequence[Server], limits: Limits, drain: Drain) -> Iterator[None]:
    """The first signal stops the servers when what runs has ended, the second one at once; the
    process ends soon after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def stop() -> None:
        if not tasks:
            tasks.append(loop.create_task(_stop(servers, limits, drain)))
            return
        _end_after(limits.shutdown_s + END_S)
        for server in servers:
            server.force_exit = server.should_exit = True

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        for task in tasks:
            task.cancel()


async def _stop(servers: Sequence[Server], limits: Limits, drain: Drain) -> None:
    running = [request for server in servers for request in server.requests()]
    late = _end_after(drain.seconds + limits.shutdown_s + END_S)
    if drain.seconds:
        drain.begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain.seconds):
                while any(request.runs for request in running):
                    await asyncio.sleep(PAUSE_S)
    late.cancel()
    _end_after(limits.shutdown_s + END_S)
    for server in servers:
        server.should_exit = True


def _end_after(seconds: float) -> threading.Timer:
    end = threading.Timer(seconds, os._exit, (0,))
    end.daemon = True
    end.start()
    return end


class Server(uvicorn.Server):
    """One app; `run` and `serve` take the bound sockets. `most` bounds its connections."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits | None = None,
        *,
        most: int | None = None,
        up: Callable[[], None] = lambda: None,
    ) -> None:
        limits = limits or Limits()
        self._most = most or _connections(limits, 1)
        self._state = State(limits)
        super().__init__(_config(_Bounded(app, self._state, self._most - SPARE), limits))
        self.server_state = self._state
        self._up, self._accepting = up, list[asyncio.Task[None]]()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=[])
        except SystemExit:  # uvicorn's, where the app's own start has failed
            raise Unavailable("the service did not start") from None
        for bound in sockets or []:
            bound.setblocking(False)
            bound.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._accept(bound)))
        self._up()

    def requests(self) -> list[AtWork]:
        """Those that are at work now."""
        return [AtWork(connection, connection.cycle) for connection in self._state.working]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for bound in sockets or []:
            bound.close()  # who comes now is not kept waiting, but may go elsewhere
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """`serving` listens for all servers together."""
        yield

    async def _accept(self, bound: socket.socket) -> None:
        """asyncio's own way spins where no descriptor is left; this one waits for one."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room()
            try:
                connection, _ = await loop.sock_accept(bound)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._state.make_room()
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                await loop.connect_accepted_socket(self._connection, connection)
            except OSError:
                connection.close()

    async def _room(self) -> None:
        while len(self._state.connections) >= self._most:
            await asyncio.sleep(0 if self._state.make_room() else PAUSE_S)

    def _connection(self) -> Connection:
        state = self._state
        return Connection(self.config, server_state=state, app_state=self.lifespan.state)


class _Bounded:
    """An app with at most `most` requests at work.

    A request is at work once its body is whole. Until then it holds nothing but a connection,
    which makes room for others.
    """

    def __init__(self, app: ASGIApp, state: State, most: int) -> None:
        self._app, self._state, self._most = app, state, most
        self._open = 0
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if not _PLAIN.fullmatch(scope["raw_path"]):
            return await _empty(send, 404)
        request = _Request(self, receive, send, self._state.limits.body_s)
        if self.full or not (_has_body(scope) or request.begin()):
            return await _busy(send)
        try:
            await self._app(scope, request.receive, request.send)
        except ClientDisconnect:
            pass
        except Exception as error:  # no text of it, which could hold what a request said
            self._tell(type(error).__name__)
            raise
        finally:
            self._open -= request.begun

    @property
    def full(self) -> bool:
        """Also where apps are done with their part and clients are not."""
        return self._open >= self._most or len(self._state.working) > self._most

    def count(self) -> None:
        self._open += 1

    def _tell(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            logger.error("a request failed: %s (told once)", name)


class _Request:
    """One request as its app sees it. Where too many are at work when its body is whole, the
    client is told so, and the app sees a client that has gone."""

    def __init__(self, bounded: _Bounded, receive: Receive, send: Send, body_s: float) -> None:
        self._bounded, self._receive, self._send = bounded, receive, send
        self._until = asyncio.get_running_loop().time() + body_s
        self._answering, self._refused, self.begun = False, False, False

    def begin(self) -> bool:
        """Whether it is at work now."""
        if self._bounded.full and not self._answering:
            return False
        self._bounded.count()
        self.begun = True
        return True

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        if self.begun:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408) from None
        if message["type"] != "http.request" or message.get("more_body", False):
            return message
        if not self.begin():
            self._refused = True
            await _busy(self._send)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if not self._refused:
            self._answering = True
            await self._send(message)


def _has_body(scope: Scope) -> bool:
    fields = dict(scope["headers"])
    return b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"


async def _busy(send: Send) -> None:
    await _empty(send, 503, (b"retry-after", b"1"), (b"connection", b"close"))


async def _empty(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    fields = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _config(app: Any, limits: Limits) -> uvicorn.Config:
    """Logs nothing: tracebacks would hold what a request said."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        access_log=False,
        log_config=None,
        log_level=logging.CRITICAL + 1,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=limits.shutdown_s,  # type: ignore[arg-type]
    )


def _connections(limits: Limits, listeners: int) -> int:
    """How many each listener may have open; the process takes all files that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    found = most if soft == resource.RLIM_INFINITY else soft
    each = (found - OWN_DESCRIPTORS) // (PER_CONNECTION * listeners)
    if each <= SPARE:
        least = OWN_DESCRIPTORS + PER_CONNECTION * listeners * (SPARE + 1)
        raise Unavailable(f"open files: expected a limit of {least} at least, got {found}")
    return min(limits.connections, each)


def read_address(listen: str) -> tuple[str, int]:
    """Host, an IPv6 address without its brackets, and port. Raises UsageError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise UsageError(f"listen: expected HOST:PORT such as 127.0.0.1:8080, got {listen}")
    if int(port) > 65535:
        raise UsageError(f"listen: expected a port of at most 65535, got {listen}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _bind(listen: str) -> socket.socket:
    host, port = read_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = "another program listens at this address; stop it, or give another port"
            raise Unavailable(f"{listen}: {text}") from None
        raise Unavailable(f"{listen}: {error.strerror or error}") from None


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
