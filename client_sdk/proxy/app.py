"""The routes, and one request from its head to its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from attestation import wire
from attestation.errors import UmayError
from client_sdk.answer import Answer
from client_sdk.client import Client
from client_sdk.failures import error_body
from client_sdk.proxy import answers, page
from client_sdk.proxy.door import Door
from client_sdk.proxy.models import Models
from client_sdk.proxy.origins import Origins
from client_sdk.proxy.prices import cap_of
from client_sdk.proxy.refusal import Refusal, failure
from client_sdk.proxy.targets import OneForm

ASKED = (wire.CHAT, wire.COMPLETIONS, wire.EMBEDDINGS)
PATHS = (*ASKED, wire.MODELS)

OTHERS = {
    "/v1/messages": "Anthropic's Messages API",
    "/v1/messages/count_tokens": "Anthropic's Messages API",
    "/v1/responses": "OpenAI's Responses API",
}
"""APIs that programs look for and that no engine has."""

MAX_STREAMS = 256
"""Each stream that waits for its next piece holds a thread."""


class Proxy:
    """The endpoints; `client` does the verifying and sealing."""

    def __init__(self, client: Client, door: Door, models: Models) -> None:
        self._client, self._door, self._models = client, door, models

    async def ask(self, request: Request) -> Response:
        """One question to an enclave."""
        try:
            self._door.admit(request)
            cap = cap_of(request.headers)
            content = await _body(request)
            with answers.while_there(request.receive) as there:
                answer = await run_in_threadpool(self._ask, request, content, cap)
                return await answers.response(answer, there)
        except UmayError as error:
            return failure(error)
        except Exception:  # its text and its trace could hold the prompt
            return JSONResponse(answers.INTERNAL, 500)

    async def models(self, request: Request) -> Response:
        """The list."""
        try:
            self._door.admit(request)
        except Refusal as refusal:
            return refusal.response
        return JSONResponse(self._models.listed())

    async def model(self, request: Request) -> Response:
        """One of it; a name may have slashes, but does not begin with one."""
        name = request.path_params["begin"] + request.path_params["rest"]
        try:
            self._door.admit(request)
            return JSONResponse(self._models.retrieved(name))
        except Refusal as refusal:
            return refusal.response

    async def usage(self, request: Request) -> Response:
        """For people who open the address in a browser. It needs no token and asks nobody."""
        try:
            self._door.local(request)
        except Refusal as refusal:
            return refusal.response
        text = page.page(
            base=f"http://{request.headers['host']}/v1",
            models=self._models,
            machines=self._client.machines(),
            simulated=self._client.policy.roots.simulated,
        )
        return HTMLResponse(text, headers=page.HEADERS)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    def _ask(self, request: Request, content: bytes, cap: tuple[float, float] | None) -> Answer:
        return self._client.request(
            request.method,
            request.scope["path"],
            self._models.sealed(content),
            idempotency_key=request.headers.get(wire.IDEMPOTENCY_FIELD.decode()),
            max_price=cap,
        )


def create_app(
    client: Client,
    *,
    token: str,
    aliases: Mapping[str, str] | None = None,
    origins: frozenset[str] = frozenset(),
) -> ASGIApp:
    """The ASGI application. `token` is the API key that callers must bring, `aliases` are names
    for models of the policy, `origins` the web pages that may ask."""
    proxy = Proxy(client, Door(token, origins), Models(client.models(), aliases or {}))
    app = Starlette(
        routes=[
            *(Route(path, proxy.ask, methods=["POST"]) for path in ASKED),
            Route(wire.MODELS, proxy.models),
            Route(wire.MODELS + "/{begin}{rest:path}", proxy.model),
            Route("/", proxy.usage),
            Route("/healthz", proxy.health),
            *(Route(path, _absent, methods=["GET", "POST"]) for path in OTHERS),
        ],
        lifespan=_lifespan,
        exception_handlers={404: _unknown, 405: _unknown},
    )
    app.router.redirect_slashes = False  # a redirect would name whatever Host the caller sent
    return OneForm(Origins(app, origins))


async def _absent(request: Request) -> Response:
    """Before any token is looked at: such programs send theirs otherwise."""
    what = OTHERS[request.scope["path"]]
    text = f"the engine does not have {what}; use {wire.CHAT} or {wire.COMPLETIONS}"
    body = error_body("unsupported_api", text)
    if "messages" in request.scope["path"]:
        body = {"type": "error", "error": {"type": "not_found_error", "message": text}}
    return JSONResponse(body, 404)


async def _unknown(_: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status_code", 404), getattr(error, "headers", None)
    allowed = ", ".join(sorted((headers or {}).get("Allow", "").split(", ")))
    if status == 405:
        body = error_body("method_not_allowed", f"expected the method {allowed}")
        return JSONResponse(body, status, {"allow": allowed})
    body = error_body("not_found", f"expected one of {', '.join(PATHS)}")
    return JSONResponse(body, status)


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = MAX_STREAMS
    yield


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > wire.MAX_REQUEST_BYTES:
            raise Refusal(413, "too_large", f"expected at most {wire.MAX_REQUEST_BYTES} bytes")
    return bytes(body)
