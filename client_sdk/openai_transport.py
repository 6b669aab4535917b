"""Transports of httpx, as the `openai` package uses them: no proxy, sealed in this process.

    with connect() as umay:
        api = umay.openai()                                         # the usual way
        http = httpx.Client(transport=SealedTransport(umay))        # the same by hand
        api = openai.OpenAI(base_url=BASE_URL, api_key="unused", http_client=http)

With asyncio: `umay.async_openai()` of an AsyncClient, or AsyncSealedTransport.

Only method, path, body and the header `Idempotency-Key` are sent, inside the channel; the API key
and every other header stay here. The timeouts of httpx hold: `pool` until a machine is verified,
`connect`, `write` and `read` together until the answer begins, `read` between two pieces of it.

What happened before anything was sent raises as httpx does (ConnectError, ConnectTimeout), and
whoever retries may. What fails afterwards is an HTTP answer, 502 or 504, that says
`x-should-retry: false`: nobody may repeat in silence what may have been executed. A stream that
is cut raises Truncated, which is httpx's RemoteProtocolError or ReadTimeout too. Every answer
has a field `umay-receipt-id`, the key of its receipt in `umay.receipts`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from attestation.process import lacks

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(lacks("httpx", "openai"), name="httpx") from None

from attestation.arguments import expect
from attestation.errors import Truncated, UmayError, Unavailable
from attestation.wire import IDEMPOTENCY_FIELD
from client_sdk import sse
from client_sdk.answer import Answer, AnswerHead
from client_sdk.asking import Patience
from client_sdk.async_client import AsyncAnswer, AsyncClient
from client_sdk.client import Client
from client_sdk.failures import error_json, status_of, told_headers
from client_sdk.reading import NO_LIMIT

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

BASE_URL = "https://umay.invalid/v1"
"""Never looked up: `openai` demands one."""

RECEIPT_ID = b"umay-receipt-id"


class NoConnection(Unavailable, httpx.ConnectError):
    """Nothing was sent: no machine, relay or chain answered."""


class NoConnectionInTime(Unavailable, httpx.ConnectTimeout):
    """Nothing was sent within the time allowed."""


class CutStream(Truncated, httpx.RemoteProtocolError):
    """A stream ended without its final chunk."""


class LateStream(Truncated, httpx.ReadTimeout):
    """A stream did not go on within the time allowed."""


class SealedTransport(httpx.BaseTransport):
    """Sends what OpenAI clients send to an enclave that verifies."""

    def __init__(self, client: Client) -> None:
        """Raises UsageError for anything but a Client."""
        expect("client", client, Client, what="a Client (client_sdk.connect makes one)")
        self._client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.ConnectError or ConnectTimeout; see the module's first lines."""
        content = request.read()
        try:
            answer = self._client.ask(
                request.method, request.url.path, content, patience_of(request), key_of(request)
            )
            if not streams(answer):
                return response(answer, content=answer.read())
        except UmayError as error:
            return failed(error, request)
        return response(answer, stream=_Stream(answer, request))


class _Stream(httpx.SyncByteStream):
    def __init__(self, answer: Answer, request: httpx.Request) -> None:
        self._answer, self._request = answer, request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from sse.done_last(self._answer)
        except Truncated as error:
            cut(error, self._request)

    def close(self) -> None:
        self._answer.close()


class AsyncSealedTransport(httpx.AsyncBaseTransport):
    """The same for httpx.AsyncClient. A request or a stream that is cancelled ends its connection,
    and so the work of the enclave."""

    def __init__(self, client: AsyncClient) -> None:
        """Raises UsageError for anything but an AsyncClient."""
        what = "an AsyncClient (client_sdk.connect_async makes one)"
        expect("client", client, AsyncClient, what=what)
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises as SealedTransport."""
        content = await request.aread()
        patience = patience_of(request)
        try:
            answer = await self._client.ask(
                request.method, request.url.path, content, patience, key_of(request)
            )
            if not streams(answer):
                return response(answer, content=await answer.read())
        except UmayError as error:
            return failed(error, request)
        return response(answer, stream=_AsyncStream(answer, request))


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, answer: AsyncAnswer, request: httpx.Request) -> None:
        self._answer, self._request = answer, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held = sse.DoneLast()
        try:
            async for piece in self._answer:
                if ready := held.push(piece):
                    yield ready
        except Truncated as error:
            cut(error, self._request)
        if rest := held.finish():
            yield rest

    async def aclose(self) -> None:
        await self._answer.aclose()


def async_openai_client(client: AsyncClient, **options: Any) -> AsyncOpenAI:
    """`openai.AsyncOpenAI` over an AsyncSealedTransport."""
    import openai

    http = httpx.AsyncClient(transport=AsyncSealedTransport(client))
    settings = {"base_url": BASE_URL, "api_key": "unused", **options}
    return openai.AsyncOpenAI(http_client=http, **settings)  # type: ignore[arg-type]


def openai_client(client: Client, **options: Any) -> OpenAI:
    """`openai.OpenAI` over a SealedTransport. Raises ModuleNotFoundError without the package."""
    import openai

    http = httpx.Client(transport=SealedTransport(client))
    settings = {"base_url": BASE_URL, "api_key": "unused", **options}
    return openai.OpenAI(http_client=http, **settings)  # type: ignore[arg-type]


# What both transports do alike


def patience_of(request: httpx.Request) -> Patience:
    """The timeouts of one request of httpx; None there is no limit."""
    times = request.extensions.get("timeout", {})
    pool, connect, write, read = (
        NO_LIMIT if times.get(name) is None else min(float(times[name]), NO_LIMIT)
        for name in ("pool", "connect", "write", "read")
    )
    return Patience(NO_LIMIT, pool, connect, connect + write + read, read)


def key_of(request: httpx.Request) -> str | None:
    """The caller's idempotency key: an application that asks again repeats it."""
    key: str | None = request.headers.get(IDEMPOTENCY_FIELD.decode())
    return key


def streams(answer: AnswerHead) -> bool:
    """Whether the answer is a stream of server-sent events."""
    return (answer.header(b"content-type") or b"").startswith(b"text/event-stream")


def response(answer: AnswerHead, **body: Any) -> httpx.Response:
    """`body`: content=… or stream=…."""
    headers = [*told_headers(answer), (RECEIPT_ID, answer.id.encode())]
    return httpx.Response(answer.status, headers=headers, **body)


def failed(error: UmayError, request: httpx.Request) -> httpx.Response:
    """An answer for what was sent or refused; raises for what may be tried again."""
    if isinstance(error, Unavailable) and not error.may_have_run and error.retry_after is None:
        kind = NoConnectionInTime if error.late else NoConnection
        raised = kind(str(error), again=error.again, late=error.late)
        raised.request = request
        raise raised from error
    status, headers = status_of(error)
    return httpx.Response(status, headers=headers, json=error_json(error))


def cut(error: Truncated, request: httpx.Request) -> NoReturn:
    """Raises the same in httpx's tree too."""
    raised = (LateStream if error.late else CutStream)(str(error))
    raised.late, raised.may_have_run, raised.request = error.late, error.may_have_run, request
    raise raised from None
