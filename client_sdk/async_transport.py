"""The way to the network for asyncio, with the limits of attestation/net/http.py, on `httpx`.

No client of httpx stands here, only its transport: it keeps no cookie, follows no redirect,
unpacks nothing and does not look into the environment. Every wait has an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from attestation.process import lacks

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(lacks("httpx", "openai"), name="httpx") from None

from attestation.errors import Truncated, Unavailable
from attestation.net.causes import cause, is_late
from attestation.net.connections import KEPT
from attestation.net.error_text import LOOKED_AT, printable, redacted_url
from attestation.net.http import AGENT, Answer
from attestation.net.retry import retry_after
from attestation.net.route import Route
from attestation.net.timing import SLOWEST, Deadlines
from client_sdk.transport import ANSWER_SECONDS, MAX_ANSWER, READ_SECONDS, check_url, until_head

IDLE_SECONDS = 60
"""A connection that idled for longer is not used again: servers close theirs after 75 s."""

FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError)


class _Trace:
    """Notes when the body of a request begins to leave; to a proxy goes a CONNECT before it."""

    sent = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_body.started") and info["request"].method != b"CONNECT":
            self.sent = True


@dataclass
class AsyncStream:
    """A sealed answer that is still arriving."""

    url: str
    status: int
    headers: Mapping[str, str]
    _response: httpx.Response
    _pieces: AsyncGenerator[bytes, None]
    _closing: set[asyncio.Task[None]]
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _closed: bool = False

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()[:100]

    @property
    def retry_after(self) -> float | None:
        """Seconds that whoever answered asks to wait."""
        return retry_after(self.headers.get("retry-after"))

    async def piece(self, until: float = float("inf"), told: str = "") -> bytes:
        """The next bytes, b"" at the end. Raises Truncated where the connection breaks, and
        with `told` where they are not there at `until` (monotonic clock)."""
        left = None if until == float("inf") else until - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._next()
        except TimeoutError:
            cut = Truncated(f"answer truncated: {told}")
            cut.late = True
        except FAILURES as error:
            cut = Truncated(f"answer truncated: {self.url}: {cause(error)[0]}")
        except RuntimeError:  # another task closes it
            cut = Truncated(f"answer truncated: {self.url}: closed here before its end")
        self.close()
        raise cut

    def close(self) -> None:
        """Its connection ends soon; `AsyncTransport.settle` waits for that."""
        if self._closed or self._loop.is_closed():
            return
        self._closed = True
        if asyncio._get_running_loop() is self._loop:
            self._begin_end()
        else:
            self._loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        task = self._loop.create_task(_end(self._response, self._pieces))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _next(self) -> bytes:
        if self._closed:
            raise RuntimeError
        async for piece in self._pieces:
            if piece:
                return piece
        return b""


async def _end(response: httpx.Response, pieces: AsyncGenerator[bytes, None]) -> None:
    _spoil_unless_clean(response)
    with contextlib.suppress(*FAILURES, RuntimeError):
        await response.aclose()
    with contextlib.suppress(*FAILURES, RuntimeError):
        await pieces.aclose()


def _spoil_unless_clean(response: Any) -> None:
    """Where bytes came after the answer, its connection is not used again: httpcore would take
    them for the answer to the next request, and has no public way to ask for them."""
    with contextlib.suppress(AttributeError):
        state = response.stream._httpcore_stream._stream._connection._h11_state
        if state.trailing_data[0]:
            state.send_failed()


class AsyncTransport:
    """As `Transport`, for the tasks of one event loop."""

    def __init__(self, *, read_seconds: float = READ_SECONDS, route: Route | None = None) -> None:
        self._sealed = Deadlines(head=read_seconds, whole=None, idle=read_seconds)
        self._route = Route.from_environment() if route is None else route
        self._made: dict[tuple[str | None, bool], httpx.AsyncHTTPTransport] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, url: str, *, limit: int = MAX_ANSWER, within: float | None = None) -> bytes:
        """A 200's body of at most `limit` bytes. Raises NotThere for a 404, Unavailable."""
        return await self._whole("GET", url, None, limit, within)

    async def post(
        self, url: str, body: bytes, *, limit: int = MAX_ANSWER, within: float | None = None
    ) -> bytes:
        """The same for a POST of octets."""
        return await self._whole("POST", url, body, limit, within)

    async def stream(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        within: float | None = None,
        connect: float | None = None,
    ) -> AsyncStream:
        """POST and return as soon as the answer's head is there. Raises Unavailable."""
        times = until_head(self._sealed, within, connect)
        return await self._open("POST", url, body, headers, times)

    async def settle(self) -> None:
        """Until the connections of all answers that were closed have ended."""
        while self._closing:
            await asyncio.wait(self._closing)

    async def close(self) -> None:
        await self.settle()
        made, self._made = self._made, {}
        for transport in made.values():
            await transport.aclose()

    async def _whole(
        self, method: str, url: str, body: bytes | None, limit: int, within: float | None
    ) -> bytes:
        seconds = ANSWER_SECONDS if within is None else min(within, ANSWER_SECONDS)
        until, told = time.monotonic() + seconds, f"no whole answer within {seconds:g} s"
        headers = {"content-type": "application/octet-stream"} if body is not None else {}
        stream = await self._open(method, url, body, headers, Deadlines(head=seconds))
        try:
            content = await _bounded(stream, limit, until, told)
        except Truncated as error:
            text = str(error).removeprefix("answer truncated: ")
            raise Unavailable(f"{stream.url}: {text}", again=True, late=error.late) from None
        finally:
            stream.close()
        return Answer(stream.url, stream.status, stream.headers, content).good()

    async def _open(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        times: Deadlines,
    ) -> AsyncStream:
        check_url(url)
        where, trace = redacted_url(url), _Trace()
        connect = {"connect": times.connect, "read": None, "write": None, "pool": None}
        sent = {"user-agent": AGENT, "accept-encoding": "identity", "accept": "*/*", **headers}
        extensions = {"timeout": connect, "trace": trace}
        transport = await self._transport(url)
        try:
            request = httpx.Request(method, url, headers=sent, content=body, extensions=extensions)
            async with asyncio.timeout(times.head + len(body or b"") / SLOWEST):
                response = await transport.handle_async_request(request)
        except TimeoutError:
            text = f"{where}: no answer within {times.head:g} s"
            raise Unavailable(text, again=True, late=True, sent=trace.sent) from None
        except FAILURES as error:
            raise self._failed(where, url, error, trace, times) from None
        return self._checked(where, response)

    def _failed(
        self, where: str, url: str, error: Exception, trace: _Trace, times: Deadlines
    ) -> Unavailable:
        reason, again = cause(error)
        if isinstance(error, httpx.ConnectTimeout):
            reason, again = f"no connection within {times.connect:g} s", True
        if isinstance(error, httpx.ProxyError):
            reason = f"Tunnel connection failed: {printable(str(error))}"
            again = not str(error).startswith("4")
        through = f" through the proxy {self._route.proxy_name}" if self._proxy(url) else ""
        late = is_late(error) or isinstance(error, httpx.TimeoutException)
        return Unavailable(f"{where}{through}: {reason}", again=again, late=late, sent=trace.sent)

    def _checked(self, where: str, response: httpx.Response) -> AsyncStream:
        pieces: Any = aiter(response.stream)  # type: ignore[arg-type]
        headers = {name.lower(): value for name, value in response.headers.items()}
        answer = AsyncStream(where, response.status_code, headers, response, pieces, self._closing)
        encoding = headers.get("content-encoding", "identity")
        if encoding.strip().lower() not in ("identity", ""):
            answer.close()
            text = f"{where}: expected no content encoding, got {encoding[:40]!r}"
            raise Unavailable(text, sent=True)
        return answer

    def _proxy(self, url: str) -> str | None:
        return self._route.proxy_for(url)

    async def _transport(self, url: str) -> httpx.AsyncHTTPTransport:
        proxy, secure = self._proxy(url), url.lower().startswith("https")
        if (proxy, secure) not in self._made:
            # Reading the authorities takes a tenth of a second.
            trust = await asyncio.to_thread(self._authorities) if secure else NOBODY
            self._made.setdefault((proxy, secure), _transport(proxy, trust))
        return self._made[proxy, secure]

    def _authorities(self) -> ssl.SSLContext:
        bundle = self._route.ca_bundle
        return (
            ssl.create_default_context(cafile=bundle)
            if bundle
            else httpx.create_ssl_context(trust_env=False)
        )


NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain http: it believes no authority."""


def _transport(proxy: str | None, trust: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_keepalive_connections=KEPT, keepalive_expiry=IDLE_SECONDS)
    return httpx.AsyncHTTPTransport(verify=trust, proxy=proxy, trust_env=False, limits=limits)


async def _bounded(stream: AsyncStream, limit: int, until: float, told: str) -> bytes:
    """Of a 200 all, of at most `limit` bytes; of another answer as much as tells what it is."""
    body = bytearray()
    most = limit if stream.status == 200 else LOOKED_AT
    while piece := await stream.piece(until, told):
        body += piece
        if len(body) > most:
            if stream.status != 200:
                break
            raise Unavailable(f"{stream.url}: expected at most {limit} bytes, got more")
    return bytes(body)
