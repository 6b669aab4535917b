"""Who may ask the feed: the guest reads it, and its host alone sees and ends what stands there.

No web page gets in (attestation/net/programs.py). What only the host may do needs the token in a
file that only the host can read: whoever retires a guest ends it for good.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from attestation.errors import UsageError
from attestation.files import create, read_secret, unusable
from attestation.net.programs import from_browser, names_us

Endpoint = Callable[[Request], Awaitable[Response]]
MIN_TOKEN, MAX_TOKEN = 32, 256
"""Characters."""


def guarded(app: ASGIApp, *, listen: str) -> ASGIApp:
    """The feed's `app`, for programs only: Host must be an address, localhost or the name in
    `listen`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(Request(scope), listen) if scope["type"] == "http" else None
        await (refusal or app)(scope, receive, send)

    return answer


def for_host(endpoint: Endpoint, *, token: str) -> Endpoint:
    """`endpoint` for whoever brings `token` as bearer, by whatever path it was reached."""
    expected = token.encode()

    async def answer(request: Request) -> Response:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), expected):
            return await endpoint(request)
        wanted = "expected the token in the agent's --token-file as bearer"
        return refused(401, "wrong-token", wanted)

    return answer


def _refusal(request: Request, listen: str) -> Response | None:
    if from_browser(request.headers):
        return refused(403, "browser", "the feed does not serve browser pages")
    if not names_us(request.headers, listen):
        wanted = "an IP address, localhost or the name in --feed-listen"
        return refused(403, "wrong-host", f"expected {wanted} in Host")
    return None


def refused(status: int, code: str, message: str) -> Response:
    """In the form that the log refuses in."""
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    error = {"step": "feed", "code": code, "message": message}
    return JSONResponse({"error": error}, status, headers)


def make_token(path: Path) -> str:
    """The token in `path`, a new one with mode 0600 where there is no file.

    Raises UsageError where others can read it or it is none, Unavailable as for a full disk.
    """
    if read_secret(path, limit=MAX_TOKEN) is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise unusable(path, error) from None
        create(path, secrets.token_urlsafe(32).encode() + b"\n")
    return read_token(path)


def read_token(path: Path) -> str:
    """Raises UsageError where there is none, and where others can read it."""
    data = read_secret(path, limit=MAX_TOKEN)
    if data is None:
        raise UsageError(f"{path}: the token file does not exist; give the agent's --token-file")
    token = data.decode("ascii", "replace").strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise UsageError(
            f"{path}: expected a token of at least {MIN_TOKEN} printable characters; "
            "give the file that the agent made"
        )
    return token
