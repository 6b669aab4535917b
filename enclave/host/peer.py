"""Small answers of the guest and the log to the registrar: bounded in bytes and time.

Nothing here is about clients. What a peer says is told to the host only in printable,
bounded form.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import requests

from attestation.errors import ParseError, Refused, Unavailable

TIMEOUT_S = 15.0
MAX_ANSWER = 256 * 1024
REFUSALS = (400, 403, 404, 413, 422)
"""Asking again with the same bytes does not help soon."""

_WORD = re.compile(r"[a-z0-9-]{1,40}")


class Peer:
    """HTTP without the environment's proxies; one per thread."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False

    def get(self, url: str, *, limit: int = MAX_ANSWER) -> bytes:
        """A 200's body. Raises Unavailable, or ParseError over `limit` bytes."""
        return self._fetch("GET", url, None, limit)

    def json(self, url: str) -> dict[str, Any]:
        """A JSON object. Raises Unavailable or ParseError."""
        try:
            value = json.loads(self.get(url))
        except (ValueError, RecursionError):
            raise ParseError(f"{url}: expected JSON") from None
        if not isinstance(value, dict):
            raise ParseError(f"{url}: expected a JSON object")
        return value

    def submit(self, url: str, body: bytes) -> bytes:
        """POST to a log. Raises Refused with the log's reason, Unavailable or ParseError."""
        return self._fetch("POST", url, body, MAX_ANSWER)

    def _fetch(self, method: str, url: str, body: bytes | None, limit: int) -> bytes:
        try:
            with self._session.request(
                method, url, data=body, timeout=TIMEOUT_S, stream=True, allow_redirects=False
            ) as answer:
                data = _bounded(answer, limit)
        except (requests.RequestException, OSError) as error:
            raise Unavailable(f"{url}: no answer ({type(error).__name__})") from None
        if answer.status_code == 200:
            return data
        if method == "POST" and answer.status_code in REFUSALS:
            raise _refusal(data)
        raise Unavailable(f"{url}: expected HTTP 200, got {answer.status_code} {_reason(data)}")


def _bounded(answer: requests.Response, limit: int) -> bytes:
    body, until = bytearray(), time.monotonic() + TIMEOUT_S
    for part in answer.iter_content(1 << 16):
        body += part
        if len(body) > limit:
            raise ParseError(f"{answer.url}: expected at most {limit} bytes")
        if time.monotonic() > until:
            raise Unavailable(f"{answer.url}: no whole answer in {TIMEOUT_S:.0f} s")
    return bytes(body)


def _refusal(data: bytes) -> Refused:
    error = _error(data)
    step, code = (str(error.get(name, "")) for name in ("step", "code"))
    good = _WORD.fullmatch(step) and _WORD.fullmatch(code)
    return Refused(step if good else "log", code if good else "refused", _reason(data))


def _reason(data: bytes) -> str:
    message = str(_error(data).get("message", ""))[:300]
    return "".join(c if c.isprintable() else "?" for c in message)


def _error(data: bytes) -> dict[str, Any]:
    try:
        error = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}
