"""A local OpenAI endpoint: any OpenAI client here, sealed requests beyond this machine.

Loopback only, with a bearer token of its own, and no browser page gets in: requests with
an Origin, or with a Host that is not loopback, are refused. The proxy keeps nothing and
logs nothing of what passes. An answer that was cut ends in an error that says so: an SSE
event for streams, HTTP 502 otherwise; never in silence.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from attestation import wire
from attestation.errors import UmayError, UsageError
from attestation.net.programs import from_browser, named_host
from attestation.net.route import is_loopback
from attestation.net.serve import read_address
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.client import Client
from client_sdk.failures import HIDDEN_HEADERS, error_body, error_json, status_of

PATHS = (wire.CHAT, wire.COMPLETIONS, wire.MODELS)

MAX_STREAMS = 256
"""Each stream that waits for its next piece holds a thread."""

_INTERNAL = error_body("internal", "the proxy had an internal error")


class _Refusal(UmayError):
    """An HTTP answer of the proxy itself, in OpenAI's form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = JSONResponse(error_body(code, message), status)


class Proxy:
    """The endpoints; `client` does the verifying and sealing."""

    def __init__(self, client: Client, *, token: str) -> None:
        self._client, self._token = client, token.encode()

    async def forward(self, request: Request) -> Response:
        try:
            self._admit(request)
            content = await _body(request)
            answer = await run_in_threadpool(
                self._client.request, request.method, request.scope["path"], content
            )
            return await _response(answer)
        except _Refusal as refusal:
            return refusal.response
        except UmayError as error:
            return failure(error)
        except Exception:  # its text and its trace could hold the prompt
            return JSONResponse(_INTERNAL, 500)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    def _admit(self, request: Request) -> None:
        """Raises _Refusal unless the caller is a program of this machine with the token."""
        host = named_host(request.headers)
        if host is None or not is_loopback(host):
            raise _Refusal(403, "wrong-host", "this proxy serves this machine only")
        if from_browser(request.headers):
            raise _Refusal(403, "browser", "this proxy does not serve browser pages")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
            raise _Refusal(401, "invalid_api_key", "expected the proxy's bearer token as API key")


def create_app(client: Client, *, token: str) -> Starlette:
    """The ASGI application. `token` is the API key that callers must bring."""
    proxy = Proxy(client, token=token)
    routes = [Route(path, proxy.forward, methods=["GET", "POST"]) for path in PATHS]
    routes.append(Route("/healthz", proxy.health))
    app = Starlette(
        routes=routes,
        lifespan=_lifespan,
        exception_handlers={404: _unknown, 405: _unknown},
    )
    app.router.redirect_slashes = False  # a redirect would name whatever Host the caller sent
    return app


async def _unknown(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    expected = f"expected one of {', '.join(PATHS)}, by GET or POST"
    return JSONResponse(error_body("not_found", expected), status)


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = MAX_STREAMS
    yield


def check_listen(listen: str) -> None:
    """Raises UsageError beyond loopback."""
    if not is_loopback(read_address(listen)[0]):
        raise UsageError(
            f"--listen: expected a loopback address such as 127.0.0.1:8321, got {listen}; "
            "the proxy serves programs of this machine only"
        )


def failure(error: UmayError) -> JSONResponse:
    status, headers = status_of(error)
    return JSONResponse(error_json(error), status, headers)


async def _response(answer: Answer) -> Response:
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in answer.headers
        if name not in HIDDEN_HEADERS
    }
    media_type = headers.get(wire.CONTENT_TYPE, "").partition(";")[0].strip()
    if media_type == wire.EVENTS:
        return StreamingResponse(_events(answer), answer.status, headers)
    try:
        content = await run_in_threadpool(answer.read)
    except UmayError as error:
        return failure(error)
    return Response(content, answer.status, headers)


async def _events(answer: Answer) -> AsyncIterator[bytes]:
    """The inner SSE as it comes; when cut, one last event that names the truncation."""
    try:
        async for piece in iterate_in_threadpool(_until_cut(answer)):
            yield piece
    finally:
        # The caller may have gone: the enclave must not go on for nobody.
        await asyncio.shield(run_in_threadpool(answer.close))


def _until_cut(answer: Answer) -> Iterator[bytes]:
    try:
        yield from sse.done_last(answer)
    except UmayError as error:
        yield _last_event(error_json(error))
    except Exception:
        yield _last_event(_INTERNAL)


def _last_event(error: dict[str, object]) -> bytes:
    return b"\n\ndata: " + json.dumps(error).encode() + b"\n\n"


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > wire.MAX_REQUEST_BYTES:
            raise _Refusal(413, "too_large", f"expected at most {wire.MAX_REQUEST_BYTES} bytes")
    return bytes(body)


__all__ = ["Proxy", "check_listen", "create_app"]
