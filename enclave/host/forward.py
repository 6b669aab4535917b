"""Moving HTTP from one side to the other without holding or reading it.

Only what was asked for goes on: method, path, body, content type. Nothing that names the
client is added. A client that leaves ends the request upstream; an upstream that breaks
ends the client's answer without its proper end.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

REQUEST_HEADERS = ("content-type", "incremental", "accept")
RESPONSE_HEADERS = ("content-type", "incremental", "cache-control")
MAX_BODY_BYTES = 33 * 1024 * 1024
"""The longest sealed request: 16 MiB of plaintext, sealed in small chunks."""

BOOT = re.compile(r"[0-9a-f]{32}")
GET = re.compile(
    r"(evidence|evidence/[0-9a-f]{64}|epochs|ohttp-keys|config/(engine|price|host)|healthz)"
)
POST = re.compile(r"(ohttp|challenge)")
Witness = Callable[[bytes], None]


class TooLarge(Exception):
    """The client's body is longer than any sealed request."""


class Forwarder:
    """Requests to any number of upstreams. `witness` is handed every byte that passes."""

    def __init__(self, witness: Witness = lambda data: None) -> None:
        limits = httpx.Limits(max_connections=1024, max_keepalive_connections=64)
        timeout = httpx.Timeout(120, connect=5)
        self._client = httpx.AsyncClient(
            limits=limits, timeout=timeout, trust_env=False, follow_redirects=False
        )
        self._witness = witness

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, url: str, *, limit: int) -> bytes | None:
        """A 200's body of at most `limit` bytes, None for anything else."""
        try:
            async with self._client.stream("GET", url) as answer:
                body = bytearray()
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > limit:
                        return None
                return bytes(body) if answer.status_code == 200 else None
        except httpx.HTTPError:
            return None

    async def forward(self, request: Request, url: str) -> Response:
        """The upstream's answer, as it comes; 502 where there is none, 413 for a long body."""
        headers = {
            name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers
        }
        self._witness(f"{request.method} {url}\n{headers}\n".encode())
        body = self._body(request) if request.method == "POST" else None
        sent = self._client.build_request(request.method, url, headers=headers, content=body)
        try:
            answer = await self._client.send(sent, stream=True)
        except TooLarge:
            return Response(b"", 413)
        except (httpx.HTTPError, ClientDisconnect):
            return Response(b"", 502)
        kept = {name: answer.headers[name] for name in RESPONSE_HEADERS if name in answer.headers}
        self._witness(f"{answer.status_code}\n{kept}\n".encode())
        return StreamingResponse(self._answer(answer), answer.status_code, kept)

    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise TooLarge
            self._witness(part)
            yield part

    async def _answer(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_raw():
                self._witness(part)
                yield part
        finally:
            await answer.aclose()


def allowed(method: str, path: str) -> bool:
    """Whether a guest serves this below /umay/<boot id>/."""
    return bool({"GET": GET, "POST": POST}.get(method, BOOT).fullmatch(path))
