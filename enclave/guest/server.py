"""The guest's HTTP server: sealed requests, and what anyone may know about this boot.

What goes wrong gives a constant answer. Bodies are bounded, one by one and together, and so
are the number of requests at a time and how long a client may take over its body and the next
piece of its answer. A request counts once it is open; while it arrives, the oldest makes room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attestation import wire
from attestation.channel.key_config import encode_key_list
from attestation.errors import (
    ParseError,
    Replayed,
    SessionBusy,
    SessionExpired,
    Unavailable,
)
from attestation.formats.session import SessionRequest
from attestation.net.arriving import Arrival, Arriving, Crowded
from attestation.net.cors import shared
from attestation.net.programs import from_browser, names_us
from enclave.guest.epochs import Epoch
from enclave.guest.guest import Guest
from enclave.guest.metrics_page import metrics_page
from enclave.guest.sealed import SealedAnswer, open_request
from enclave.guest.sessions import Sessions

MAX_AT_ONCE = 256
"""Requests that are open."""

MAX_ARRIVING = 1024
MAX_BODY_SECONDS = 60.0
MAX_STALL_SECONDS = 60.0
"""For a client to take the next piece of its answer."""

MAX_ARRIVING_BYTES = 256 << 20
"""Of all the sealed requests that are not whole yet: they are not authentic before."""

SEALED = (wire.SESSION_REQUEST, wire.CHUNKED_REQUEST, wire.OHTTP_REQUEST)
_SEALED_HEADERS = {wire.INCREMENTAL: wire.INCREMENTAL_YES, wire.CACHE_CONTROL: "no-store"}
Endpoint = Callable[[Request], Awaitable[Response]]


class _Service:
    def __init__(self, guest: Guest, listen: str) -> None:
        self._guest, self._listen = guest, listen
        self._sessions = Sessions(guest.epochs, guest.platform)
        self._retiring = asyncio.Lock()
        self._open = 0
        self._arriving = Arriving(most=MAX_ARRIVING, most_bytes=MAX_ARRIVING_BYTES)

    def routes(self) -> list[Route | Mount]:
        boot = self._guest.boot.boot_id.hex()
        inner = [
            Route("/evidence", self.evidence),
            Route("/evidence/{digest}", self.evidence),
            Route("/epochs", self.epochs),
            Route("/ohttp-keys", self.keys),
            Route("/config/{name}", self.config),
            Route("/session", self.session, methods=["POST"]),
            Route("/retire", self.retire, methods=["POST"]),
            Route("/ohttp", self.sealed, methods=["POST"]),
            Route("/healthz", self.health),
            Route("/livez", self.live),
            Route("/metrics", self.metrics),
        ]
        below = Router(inner, redirect_slashes=False)
        return [Route(wire.LISTING, self.boots), Mount(wire.base(boot).rstrip("/"), below)]

    async def boots(self, _: Request) -> Response:
        """None while the guest drains or its engine has stopped: its agent lists it no more, and
        clients go elsewhere."""
        gone = self._guest.drain.begun or self._guest.engine.failure() is not None
        return JSONResponse({"boots": [] if gone else [self._guest.boot.boot_id.hex()]})

    async def evidence(self, request: Request) -> Response:
        """The current epoch's, or where none is yet the pending one: the agent must see it."""
        living = [epoch for epoch, _ in self._guest.epochs.living]
        wanted = request.path_params.get("digest")
        current = self._guest.epochs.current
        if wanted is None:
            found = current or next(iter(living), None)
        else:
            found = next((e for e in living if e.evidence_digest.hex() == wanted), None)
        return _bytes(found.evidence, wire.CBOR) if found else _plain(404)

    async def epochs(self, _: Request) -> Response:
        states = [_described(epoch, state) for epoch, state in self._guest.epochs.living]
        return JSONResponse({"epochs": states})

    async def keys(self, _: Request) -> Response:
        current = self._guest.epochs.current
        if current is None:
            return _plain(503)
        return _bytes(encode_key_list(current.keys.configs), wire.OHTTP_KEYS)

    async def config(self, request: Request) -> Response:
        configs = self._guest.configs
        served = {
            "engine": (configs.engine, wire.JSON),
            "price": (configs.price, wire.JSON),
            "host": (configs.host, wire.TOML),
        }.get(request.path_params["name"])
        return _bytes(*served) if served else _plain(404)

    async def session(self, request: Request) -> Response:
        if self._guest.drain.begun:
            return Response(b"", 503, {wire.RETRY_AFTER: str(self._guest.drain.retry_after())})
        try:
            async with asyncio.timeout(MAX_BODY_SECONDS):
                body = await _bounded(request, wire.SESSION_REQUEST_BYTES)
            answer = await self._sessions.open(SessionRequest.from_bytes(body))
        except SessionBusy:
            headers = {**_SEALED_HEADERS, wire.RETRY_AFTER: "1"}
            return Response(wire.SESSION_BUSY, 429, headers, wire.PROBLEM)
        except (ParseError, ClientDisconnect, TimeoutError):
            return _plain(400)
        return Response(answer, 200, {wire.CACHE_CONTROL: "no-store"}, wire.CBOR)

    async def retire(self, request: Request) -> Response:
        """For the host alone. Whoever asks, the guest reads in its agent's feed whether to end:
        boot ids are public, and who reaches this port is not always the host."""
        if not self._for_host(request):
            return _plain(403)
        async with self._retiring:
            try:
                told = await asyncio.to_thread(self._guest.epochs.to_end, self._guest.boot.boot_id)
            except ParseError:
                return _plain(503)
        return _bytes(self._guest.retire(), wire.CBOR) if told else _plain(403)

    def _for_host(self, request: Request) -> bool:
        return names_us(request.headers, self._listen) and not from_browser(request.headers)

    async def health(self, _: Request) -> Response:
        ready = self._guest.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def live(self, _: Request) -> Response:
        """Whether what runs can be answered: also before it is anchored, and while it drains."""
        live = self._guest.engine.failure() is None
        return JSONResponse({"live": live}, 200 if live else 503)

    async def metrics(self, request: Request) -> Response:
        if not self._for_host(request):
            return _plain(403)
        content = metrics_page(self._guest, open_requests=self._open + len(self._arriving))
        return Response(content, 200, {wire.CACHE_CONTROL: "no-store"}, wire.METRICS)

    async def sealed(self, request: Request) -> Response:
        media_type = request.headers.get(wire.CONTENT_TYPE, "")
        if media_type not in SEALED:
            return self._refuse(wire.REFUSED)
        if self._guest.epochs.current is None:
            return _plain(503)
        if self._full:
            return self._later()
        answer = await self._opened(request, media_type)
        if isinstance(answer, Response):
            return answer
        if self._full:
            return self._later()
        self._open += 1
        if answer.refusal is not None:
            self._guest.metrics.ended("limited")
        return _Streamed(answer.stream(), answer.media_type, self._over)

    async def _opened(self, request: Request, media_type: str) -> SealedAnswer | Response:
        """The open request, or its refusal."""
        try:
            async with (
                self._arriving.one(MAX_BODY_SECONDS) as arrival,
                aclosing(_counted(request, arrival)) as body,
            ):
                return await open_request(
                    self._guest,
                    body,
                    chunked=media_type != wire.OHTTP_REQUEST,
                    to_session=media_type == wire.SESSION_REQUEST,
                )
        except Crowded:
            return self._later()
        except Replayed:
            return self._refuse(wire.REPLAYED, outcome="replayed")
        except SessionExpired as gone:
            return self._refuse_session(gone)
        except Exception:  # whatever it is: one answer to all of it
            return self._refuse(wire.REFUSED)

    def _refuse_session(self, gone: SessionExpired) -> Response:
        """Signed, so that the client may ask again: nobody else can say that nothing ran."""
        epoch = self._guest.epochs.of_key(gone.clear[0])
        if epoch is None:
            return self._refuse(wire.REFUSED)
        word = self._guest.boot.session_gone(epoch.evidence_digest, gone.clear)
        return self._refuse(word, wire.SESSION_GONE, outcome="session_expired")

    @property
    def _full(self) -> bool:
        return self._open >= MAX_AT_ONCE

    def _later(self) -> Response:
        self._guest.metrics.ended("busy")
        return Response(b"", 503, {wire.RETRY_AFTER: str(self._guest.retry_after())})

    def _over(self) -> None:
        self._open -= 1

    def _refuse(
        self, body: bytes, media_type: str = wire.PROBLEM, *, outcome: str = "refused"
    ) -> Response:
        self._guest.metrics.ended(outcome)
        return Response(body, 400, _SEALED_HEADERS, media_type)


class _Streamed(StreamingResponse):
    """Sends `stream` until it ends or the client leaves or takes nothing for too long;
    in any case closes it, then `over`."""

    def __init__(
        self, stream: AsyncGenerator[bytes], media_type: str, over: Callable[[], None]
    ) -> None:
        super().__init__(stream, 200, _SEALED_HEADERS, media_type)
        self._stream, self._over = stream, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(MAX_STALL_SECONDS):
                await send(message)

        # Starlette's own way never closes a stream that had no time to begin.
        sides = (self.stream_response(send_in_time), self.listen_for_disconnect(receive))
        tasks = [asyncio.create_task(side) for side in sides]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await _cancelled(tasks)
                await self._stream.aclose()
            finally:
                self._over()


def create_app(guest: Guest, *, listen: str) -> ASGIApp:
    """The ASGI application of one boot. `retire` and `metrics` are for programs that name this
    guest by an IP address, localhost or the name in `listen` (HOST:PORT)."""
    app = Starlette(
        routes=_Service(guest, listen).routes(),
        exception_handlers={Unavailable: _unavailable, Exception: _failed},
    )
    app.router.redirect_slashes = False  # a path is one of ours or none
    return shared(app)


def _described(epoch: Epoch, state: str) -> dict[str, str | int | None]:
    return {
        "evidence": epoch.evidence_digest.hex(),
        "state": state,
        "kind": epoch.kind,
        "previous": epoch.previous.hex() if epoch.previous else None,
    }


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _counted(request: Request, arrival: Arrival) -> AsyncGenerator[bytes]:
    async for part in request.stream():
        arrival.count(part)
        yield part


async def _bounded(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            break
    return bytes(body)


def _bytes(content: bytes, media_type: str) -> Response:
    return Response(content, 200, {wire.CACHE_CONTROL: "no-cache"}, media_type)


def _plain(status: int) -> Response:
    return Response(b"", status)


async def _unavailable(_: Request, __: Exception) -> Response:
    return _plain(503)


async def _failed(_: Request, __: Exception) -> Response:
    return _plain(500)
