"""Which web pages may read an answer (CORS): any origin's, never with credentials.

What may be asked so stands in wire. Everything else gives no such header, so that no browser
hands its answer to a page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from attestation import wire

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_ALLOWED = [(b"access-control-allow-origin", b"*")]


def shared(app: App, method_of: Callable[[bytes], str | None] = wire.shared_method) -> App:
    """The ASGI `app`, with `method_of` naming the method by which pages may ask a raw path."""

    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        method = method_of(scope["raw_path"]) if scope["type"] == "http" else None
        if method is None:
            return await app(scope, receive, send)
        if scope["method"] == "OPTIONS" and _asked(scope["headers"]) == method:
            return await _allow(method, send)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_ALLOWED]
            await send(message)

        return await app(scope, receive, sending if scope["method"] == method else send)

    return answer


def _asked(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The method of a preflight; None where a request is none."""
    fields = dict(headers)
    if b"origin" not in fields or b"access-control-request-method" not in fields:
        return None
    return fields[b"access-control-request-method"].decode("latin-1")


async def _allow(method: str, send: Send) -> None:
    headers = [
        *_ALLOWED,
        (b"access-control-allow-methods", method.encode()),
        (b"access-control-allow-headers", wire.SHARED_HEADERS.encode()),
        (b"access-control-max-age", b"%d" % wire.PREFLIGHT_SECONDS),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
