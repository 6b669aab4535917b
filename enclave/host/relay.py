"""A relay before many agents: one address, routed by boot id. Any reverse proxy will do.

It sees what every relay sees: ciphertext, sizes, times, addresses. With `record` it writes
down every byte that it handles, so that one can look.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enclave.host.forward import BOOT, Forwarder, Witness

MAX_LISTING_BYTES = 1 << 20
MAX_BOOTS = 1024
LISTING_SECONDS = 1.0


class Relay:
    def __init__(self, upstreams: tuple[str, ...], *, record: Path | None = None) -> None:
        self._upstreams = tuple(url.rstrip("/") for url in upstreams)
        self._forwarder = Forwarder(_recorder(record) if record else lambda data: None)
        self._boots: dict[str, tuple[str, dict[str, Any]]] = {}
        self._read = float("-inf")
        self._reading = asyncio.Lock()

    async def listing(self, _: Request) -> Response:
        await self._refresh()
        return JSONResponse({"boots": [item for _, item in self._boots.values()]})

    async def below(self, request: Request) -> Response:
        boot, path = request.path_params["boot"], request.path_params["path"]
        if boot not in self._boots:
            await self._refresh()
        found = self._boots.get(boot)
        if found is None or ".." in path or "//" in path:
            return Response(b"", 404)
        query = f"?{request.url.query}" if request.url.query else ""
        return await self._forwarder.forward(request, f"{found[0]}/umay/{boot}/{path}{query}")

    def app(self) -> Starlette:
        below = Route("/umay/{boot}/{path:path}", self.below, methods=["GET", "POST"])
        return Starlette(routes=[Route("/umay/", self.listing), below])

    async def _refresh(self) -> None:
        """The agents' listings, asked for once a second at most."""
        async with self._reading:
            if time.monotonic() - self._read < LISTING_SECONDS:
                return
            found = await asyncio.gather(*(self._list(url) for url in self._upstreams))
            self._boots = {boot: at for listing in found for boot, at in listing.items()}
            self._read = time.monotonic()

    async def _list(self, upstream: str) -> dict[str, tuple[str, dict[str, Any]]]:
        data = await self._forwarder.get(f"{upstream}/umay/", limit=MAX_LISTING_BYTES)
        try:
            boots = json.loads(data or b"{}").get("boots", [])[:MAX_BOOTS]
            ids = [(item["boot"], str(item["state"])) for item in boots]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        return {
            boot: (upstream, {"boot": boot, "state": state, "base": f"/umay/{boot}/"})
            for boot, state in ids
            if isinstance(boot, str) and BOOT.fullmatch(boot)
        }


def _recorder(path: Path) -> Witness:
    """Appends to a file of mode 0600."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def record(data: bytes) -> None:
        os.write(handle, data)

    return record
