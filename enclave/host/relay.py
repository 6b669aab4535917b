"""A relay: one address in front of many agents. It forwards each request by its boot id. Any
reverse proxy can do the same.

It sees what every relay sees: ciphertext, sizes, times and addresses. It forwards nothing outside
/umay/. With `recorded` it writes every byte that passes into a file, so that somebody can look.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attestation import wire
from attestation.errors import ParseError
from attestation.files import open_own
from attestation.net.cors import shared
from enclave.host.forward import Forwarder, target_of

LISTING_SECONDS = 1.0
MAX_ROUTES = 1024
"""Of boots that are listed, or were: a guest that is about to end still answers."""

STATES = ("pending", "ready")


class Relay:
    """Forwards requests to agents. If two agents list the same boot, the agent that was named first
    gets the requests."""

    def __init__(self, upstreams: tuple[str, ...]) -> None:
        self._upstreams = tuple(url.rstrip("/") for url in upstreams)
        self._forwarder = Forwarder()
        self._boots: dict[str, tuple[str, str]] = {}
        self._routes: dict[str, str] = {}
        self._read = float("-inf")
        self._reading = asyncio.Lock()

    async def listing(self, _: Request) -> Response:
        await self._refresh()
        boots = [
            {"boot": boot, "state": state, "base": wire.base(boot)}
            for boot, (_, state) in self._boots.items()
        ]
        return JSONResponse({"boots": boots}, headers={wire.CACHE_CONTROL: "no-cache"})

    async def below(self, request: Request) -> Response:
        wanted = target_of(request)
        if wanted is None:
            return Response(b"", 404)
        if wanted.boot not in self._boots:
            await self._refresh()
        if wanted.boot not in self._routes:
            return Response(b"", 404)
        url = wanted.at(self._routes[wanted.boot])
        return await self._forwarder.forward(request, url, limit=wanted.limit)

    def app(self) -> ASGIApp:
        below = Route(wire.LISTING + "{rest:path}", self.below, methods=["GET", "POST"])
        app = Starlette(routes=[Route(wire.LISTING, self.listing), below])
        app.router.redirect_slashes = False  # a redirect would repeat the Host field of the request
        return shared(app)

    async def _refresh(self) -> None:
        """Asks the agents for their listings, at most once a second."""
        async with self._reading:
            if time.monotonic() - self._read < LISTING_SECONDS:
                return
            found = await asyncio.gather(*(self._list(url) for url in self._upstreams))
            boots: dict[str, tuple[str, str]] = {}
            for upstream, listed in zip(self._upstreams, found, strict=True):
                for boot, state in listed.items():
                    boots.setdefault(boot, (upstream, state))
            self._boots, self._read = boots, time.monotonic()
            self._remember({boot: upstream for boot, (upstream, _) in boots.items()})

    def _remember(self, routes: dict[str, str]) -> None:
        kept = {boot: url for boot, url in self._routes.items() if boot not in routes}
        newest = list((kept | routes).items())[-MAX_ROUTES:]
        self._routes = dict(newest)

    async def _list(self, upstream: str) -> dict[str, str]:
        """The state of each boot by its id, or nothing if the agent does not answer properly."""
        data = await self._forwarder.get(upstream + wire.LISTING, limit=wire.MAX_LISTING_BYTES)
        try:
            items = json.loads(data or b"{}").get("boots", [])[: wire.MAX_LISTED]
            listed = {
                wire.read_boot_id(item["boot"], where=upstream): item["state"] for item in items
            }
            return listed if all(state in STATES for state in listed.values()) else {}
        except (ParseError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def recorded(app: ASGIApp, path: Path) -> ASGIApp:
    """`app`, with everything that it receives and sends appended to a file of mode 0600.

    Raises UsageError if the path is not a file of this user, Unavailable if for example the disk is
    full.
    """
    write = _appender(path)

    async def record(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        line = [scope["method"].encode(), scope["raw_path"], scope["query_string"]]
        write(b" ".join(line) + b"\n" + _lines(scope["headers"]))

        async def receiving() -> Message:
            message = await receive()
            write(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                write(b"%d\n" % message["status"] + _lines(message["headers"]))
            write(message.get("body", b""))
            await send(message)

        return await app(scope, receiving, sending)

    return record


def _appender(path: Path) -> Callable[[bytes], None]:
    file = os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)

    def write(data: bytes) -> None:
        file.write(data)

    return write


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\n" for name, value in headers)
