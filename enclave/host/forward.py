"""Moving HTTP from one side to the other without holding or reading it.

Only what was asked for goes on: method, path, body, two headers of the sealed channel.
Nothing that names the client is added. Only known paths go on, compared as they stand on
the wire. A client that leaves ends the request upstream at once; an upstream that breaks
ends the client's answer without its proper end.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from attestation.errors import ParseError, Unavailable

REQUEST_HEADERS = ("content-type", "incremental")
RESPONSE_HEADERS = ("content-type", "incremental", "cache-control")
MAX_SEALED_BYTES = 33 * 1024 * 1024
"""The longest sealed request: 16 MiB of plaintext, sealed in small chunks."""

NONCE_BYTES = 32
BODY_SECONDS = 60.0
GET_SECONDS = 5.0
READ_SECONDS = 120.0
"""Between two pieces of an answer: the first token of a long prompt may take this long."""

MAX_CONNECTIONS = 1024
BOOT = re.compile(r"[0-9a-f]{32}")
SIZE = re.compile(r"size=(0|[1-9][0-9]{0,18})")
_PLACE = re.compile(rb"/umay/([0-9a-f]{32})/([a-z0-9/-]{1,80})")
_GET = re.compile(
    r"evidence|evidence/[0-9a-f]{64}|epochs|ohttp-keys|config/(engine|price|host)|healthz"
    r"|collateral|proof"
)
_POST = {"ohttp": MAX_SEALED_BYTES, "challenge": NONCE_BYTES}
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a client wants of one boot: `path` stands below /umay/<boot>/, `query` is empty
    but for proofs. `limit` is the longest body in bytes."""

    boot: str
    path: str
    query: str
    limit: int

    def below(self, upstream: str) -> str:
        """The same at another address."""
        query = f"?{self.query}" if self.query else ""
        return f"{upstream}/umay/{self.boot}/{self.path}{query}"


def asked(request: Request) -> Asked | None:
    """None for anything but the routes of DESIGN §5, spelt exactly so.

    The raw path is compared: an encoded slash or dot is not one.
    """
    place = _PLACE.fullmatch(request.scope["raw_path"])
    if place is None:
        return None
    boot, path = place[1].decode(), place[2].decode()
    query = request.scope["query_string"].decode("latin-1")
    if not (SIZE.fullmatch(query) if path == "proof" else query == ""):
        return None
    if request.method == "GET" and _GET.fullmatch(path):
        return Asked(boot, path, query, 0)
    if request.method == "POST" and path in _POST:
        return Asked(boot, path, query, _POST[path])
    return None


class _TooLarge(ParseError):
    """The client's body is longer than this route takes."""


class _Broken(Unavailable):
    """No answer from upstream."""


class Forwarder:
    """Requests to any number of upstreams, over kept connections."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            headers={"accept-encoding": "identity", "user-agent": "umay"},
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=64),
            timeout=httpx.Timeout(READ_SECONDS, connect=5, pool=10),
            trust_env=False,
            follow_redirects=False,
        )

    async def get(self, url: str, *, limit: int) -> bytes | None:
        """A 200's body of at most `limit` bytes, None for anything else."""
        try:
            async with asyncio.timeout(GET_SECONDS), self._client.stream("GET", url) as answer:
                body = bytearray()
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > limit:
                        return None
                return bytes(body) if answer.status_code == 200 else None
        except (httpx.HTTPError, TimeoutError):
            return None

    async def forward(self, request: Request, url: str, *, limit: int) -> Response:
        """The upstream's answer as it comes; 502 where there is none, 413 for a body over
        `limit` bytes, 408 for one that does not arrive."""
        headers = _only(REQUEST_HEADERS, request.headers)
        body = _Body(request.receive, limit)
        content = body.parts() if request.method == "POST" else None
        if content is None:
            body.read.set()
        sent = self._client.build_request(request.method, url, headers=headers, content=content)
        try:
            answer = await _unless_gone(self._send(sent), request.receive, after=body.read)
        except _TooLarge:
            return Response(b"", 413)
        except TimeoutError:
            return Response(b"", 408)
        except (_Broken, ClientDisconnect):
            return Response(b"", 502)
        return Response(b"", 502) if answer is None else _Passing(answer)

    async def _send(self, sent: httpx.Request) -> httpx.Response:
        try:
            return await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            raise _Broken from error


class _Body:
    """A client's body on its way. `read` is set once nothing more of it is awaited."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self.read = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        size, until = 0, asyncio.get_running_loop().time() + BODY_SECONDS
        more = True
        while more:
            async with asyncio.timeout_at(until):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self._limit:
                raise _TooLarge
            if part:
                yield part
        self.read.set()


class _Passing(Response):
    """An upstream's answer, piece by piece."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self.status_code, self.background = answer.status_code, None
        self.init_headers(_only(RESPONSE_HEADERS, answer.headers))  # no length: chunked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_gone(self._pass(send), receive)
        finally:
            await self._answer.aclose()

    async def _pass(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        try:
            async for part in self._answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except httpx.HTTPError:
            return  # without the last message: the server then cuts the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _only(names: tuple[str, ...], headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


async def _unless_gone(
    work: Coroutine[object, object, T], receive: Receive, *, after: asyncio.Event | None = None
) -> T | None:
    """The result of `work`; None when the client left first, and `work` is cancelled.

    `receive` is not read before `after`, while the body is read from it.
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
