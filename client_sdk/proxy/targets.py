"""Request targets in absolute form (RFC 9112 §3.2.2), which some programs send to every server.

The host that such a target names stands for the Host field, which is then not looked at. So the
rest of the proxy sees one host and one path, however they were spelt.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE = re.compile(rb"(?i:http)://([^/]*)(/.*)?", re.S)


class OneForm:
    """`app` with targets in origin form only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _ABSOLUTE.fullmatch(scope["raw_path"]) if scope["type"] == "http" else None
        await self._app(_in_origin_form(scope, found) if found else scope, receive, send)


def _in_origin_form(scope: Scope, found: re.Match[bytes]) -> Scope:
    path = found[2] or b"/"
    others = [pair for pair in scope["headers"] if pair[0] != b"host"]
    return {
        **scope,
        "raw_path": path,
        "path": path.decode("ascii", "replace"),
        "headers": [(b"host", found[1]), *others],
    }
