"""Forwards HTTP from one side to the other without storing it and without reading it.

It forwards only the method, the path, the body, and two headers of the sealed channel. Back come
these two headers, how long the answer may be cached, and when to try again. It adds nothing that
names the client. It forwards only known paths, which are compared as they are on the wire. If the
client leaves, the request to the upstream ends at once. If the upstream breaks, the client's answer
ends without its proper end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping
from typing import TypeVar

import certifi
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from attestation import wire
from attestation.errors import ParseError, Unavailable
from attestation.net.async_connections import FAILURES, AsyncConnections, AsyncExchange, Waits
from attestation.net.server_connection import Limits

REQUEST_HEADERS = (wire.CONTENT_TYPE, wire.INCREMENTAL)
RESPONSE_HEADERS = (*REQUEST_HEADERS, wire.CACHE_CONTROL, wire.RETRY_AFTER)
HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "umay"}
BODY_SECONDS = 60.0
GET_SECONDS = 5.0
CONNECT_SECONDS = 5.0
TURN_SECONDS = 10.0
"""For one of the connections to upstreams, where all are at work."""

READ_SECONDS = 120.0
"""The longest time between two pieces of an answer. The first token of a long prompt may take so
long."""

MAX_CONNECTIONS = Limits.connections + 64
"""The most connections to upstreams: as many as a listener has, and some for questions of our own.
So half-sent bodies fill the listener first, where the oldest one is closed to make room."""

MAX_KEPT = 64
IDLE_SECONDS = 60.0
"""Of a connection that is kept: shorter than servers keep theirs, so that they rarely close one
just as it is used."""

T = TypeVar("T")


def target_of(request: Request) -> wire.Target | None:
    """The route that a client asked for, or None for anything that is not exactly one of the
    routes."""
    scope = request.scope
    return wire.read_target(request.method, scope["raw_path"], scope["query_string"])


class _TooLarge(ParseError):
    """The client's body is longer than this route takes."""


class _TooLate(Unavailable):
    """The client's body did not arrive in time."""


class _UpstreamFailed(Unavailable):
    """The upstream did not answer."""


class Forwarder:
    """Sends requests to any number of upstreams, over connections that are kept open."""

    def __init__(self) -> None:
        self._connections = AsyncConnections(
            Waits(turn=TURN_SECONDS, connect=CONNECT_SECONDS, silence=READ_SECONDS),
            most=MAX_CONNECTIONS,
            kept=MAX_KEPT,
            idle_s=IDLE_SECONDS,
            trust=lambda: ssl.create_default_context(cafile=certifi.where()),
        )

    async def get(self, url: str, *, limit: int) -> bytes | None:
        """The body of an answer with status 200 and at most `limit` bytes, or None for any other
        answer."""
        try:
            async with asyncio.timeout(GET_SECONDS):
                answer = await self._connections.open("GET", url, HEADERS)
                try:
                    body = bytearray()
                    while part := await answer.piece():
                        body += part
                        if len(body) > limit:
                            return None
                finally:
                    answer.close()
            return bytes(body) if answer.status == 200 else None
        except FAILURES:
            return None

    async def forward(self, request: Request, url: str, *, limit: int) -> Response:
        """The upstream's answer, piece by piece. The status is 502 if there is none, 413 if the
        body has more than `limit` bytes, and 408 if the body does not arrive in time."""
        headers = {**HEADERS, **_only(REQUEST_HEADERS, request.headers)}
        body = _Body(request.receive, limit) if request.method == "POST" else None
        asked = self._ask(request.method, url, headers, body)
        read = None if body is None else body.read
        try:
            answer = await _unless_gone(asked, request.receive, after=read)
        except _TooLarge:
            return Response(b"", 413)
        except _TooLate:
            return Response(b"", 408)
        except (_UpstreamFailed, ClientDisconnect):
            return Response(b"", 502)
        return Response(b"", 502) if answer is None else _ForwardedAnswer(answer)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: _Body | None
    ) -> AsyncExchange:
        parts = None if body is None else body.part
        try:
            return await self._connections.open(method, url, headers, parts)
        except FAILURES as error:
            raise _UpstreamFailed from error


class _Body:
    """The body of a client's request while it arrives. `read` is set when nothing more is
    awaited."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._size = receive, limit, 0
        self._until = asyncio.get_running_loop().time() + BODY_SECONDS
        self.read = asyncio.Event()

    async def part(self) -> tuple[bytes, bool]:
        """The next part, and whether there is more."""
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise _TooLate from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        self._size += len(part)
        if self._size > self._limit:
            raise _TooLarge
        if not more:
            self.read.set()
        return part, more


class _ForwardedAnswer(Response):
    """Passes an upstream's answer on, piece by piece."""

    def __init__(self, answer: AsyncExchange) -> None:
        self._answer = answer
        self.status_code, self.background = answer.status, None
        self.init_headers(_only(RESPONSE_HEADERS, answer.headers))  # no length, so it is chunked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_gone(self._pass(send), receive)
        finally:
            self._answer.close()

    async def _pass(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        try:
            while part := await self._answer.piece():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except FAILURES:
            return  # without the last message, so the server cuts the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _only(names: tuple[str, ...], headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


async def _unless_gone(
    work: Coroutine[object, object, T], receive: Receive, *, after: asyncio.Event | None = None
) -> T | None:
    """The result of `work`. If the client leaves first, `work` is cancelled and the result is None.

    `receive` is not read before `after` is set, because until then the body is read from it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive, after))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive, after: asyncio.Event | None) -> None:
    if after is not None:
        await after.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
