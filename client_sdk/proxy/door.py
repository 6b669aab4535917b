"""Who may ask: a program of this machine that has the token, or a web page that the user allows.

A page can have a browser send requests to this machine, and under a name that it points here
(DNS rebinding) it reads the answers too. So the host that is named must be this machine, and a
request that a browser marks must come from an allowed origin. Allowed pages need the token too.
"""

from __future__ import annotations

import hmac

from starlette.requests import Request

from attestation.errors import UsageError
from attestation.net.programs import from_browser, named_host
from attestation.net.route import is_loopback
from attestation.net.serve import read_address
from client_sdk.proxy.refusal import Refusal

CHALLENGE = {"www-authenticate": "Bearer"}
"""RFC 9110 §11.6.1 demands it of each 401."""


class Door:
    """`token` is the API key that callers must bring; `origins` are the allowed pages'."""

    def __init__(self, token: str, origins: frozenset[str]) -> None:
        self._token, self._origins = token.encode(), origins

    def admit(self, request: Request) -> None:
        """Raises Refusal unless a program here asks, or an allowed page, with the token."""
        self.local(request)
        allowed = request.headers.getlist("origin")
        if from_browser(request.headers) and not (
            len(allowed) == 1 and allowed[0] in self._origins
        ):
            raise Refusal(
                403,
                "browser",
                "this proxy does not serve the web page that asks: expected no Origin, or one that "
                "was named with --allow-origin",
            )
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
            text = "expected the proxy's bearer token as API key"
            raise Refusal(401, "invalid_api_key", text, headers=CHALLENGE)

    def local(self, request: Request) -> None:
        """Raises Refusal where the host that the request names is not this machine."""
        host = named_host(request.headers)
        if host is None or not is_loopback(host):
            text = "this proxy serves this machine only: expected localhost or a loopback address"
            raise Refusal(403, "wrong-host", f"{text} as the host")


def check_listen(listen: str) -> None:
    """Raises UsageError beyond loopback."""
    if not is_loopback(read_address(listen)[0]):
        raise UsageError(
            f"--listen: expected a loopback address such as 127.0.0.1:8321, got {listen}; "
            "the proxy serves programs of this machine only"
        )
