"""Web pages and desktop apps that the user allows by their exact origin, and nobody else's.

An allowed page is told so (CORS), and its preflights are answered; it must bring the token
itself, since no answer allows credentials of the browser's. To every other page nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attestation import wire
from attestation.errors import UsageError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[1-9][0-9]{0,4})?")
_DEFAULT_PORTS = ("http", ":80"), ("https", ":443")
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{1,2000}")
"""Names of header fields, as a preflight lists them."""

METHODS = "GET, HEAD, POST"
EXPOSED = f"{wire.RETRY_AFTER}, x-should-retry"


def read_origins(values: Iterable[str]) -> frozenset[str]:
    """Each as browsers write it: scheme, host, and the port where it is not the scheme's own.

    Raises UsageError for anything else. "*" and "null" are nobody's alone.
    """
    for value in values:
        scheme, _, rest = value.partition("://")
        default = any(scheme == name and rest.endswith(port) for name, port in _DEFAULT_PORTS)
        if not _ORIGIN.fullmatch(value) or default:
            raise UsageError(
                "--allow-origin: expected one exact origin in lower case as browsers send it, such "
                f"as http://localhost:3000 or app://obsidian.md, got {value!r}"
            )
    return frozenset(values)


class Origins:
    """`app`, whose answers tell pages of `allowed` that they may read them."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or origin not in self._allowed:
            return await self._app(scope, receive, send)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                _tell(MutableHeaders(raw=message.setdefault("headers", [])), origin)
            await send(message)

        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return await _preflight(headers)(scope, receive, telling)
        return await self._app(scope, receive, telling)


def _tell(headers: MutableHeaders, origin: str) -> None:
    headers["access-control-allow-origin"] = origin
    headers["access-control-expose-headers"] = EXPOSED
    headers.add_vary_header("Origin")


def _preflight(asked: Headers) -> Response:
    """Any field may be sent: OpenAI's clients have many of their own."""
    answer = {
        "access-control-allow-methods": METHODS,
        "access-control-max-age": str(wire.PREFLIGHT_SECONDS),
    }
    names = asked.get("access-control-request-headers", "")
    if _NAMES.fullmatch(names):
        answer["access-control-allow-headers"] = names
    if asked.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=answer)
