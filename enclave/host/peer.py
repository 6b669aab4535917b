"""Small answers of the guest and the log to the registrar: bounded in bytes and time.

Nothing here is about clients. What a peer says is told to the host only in printable,
bounded form.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attestation.errors import ParseError, Refused, Unavailable
from attestation.formats.json import decode, object_of
from attestation.net.error_text import printable, redacted_url
from attestation.net.http import Http
from attestation.net.retry import MAY_CHANGE
from attestation.net.timing import Deadlines

TIMEOUT_S = 15.0
MAX_ANSWER = 256 * 1024
REFUSALS = (400, 401, 403, 404, 413, 422)
"""Asking again with the same bytes does not help soon."""

_WORD = re.compile(r"[a-z0-9-]{1,40}")


class Peer:
    """HTTP to the guest and the log."""

    def __init__(self) -> None:
        self._http = Http(Deadlines(whole=TIMEOUT_S))

    def get(self, url: str, *, limit: int = MAX_ANSWER) -> bytes:
        """A 200's body. Raises NotThere or Unavailable."""
        return self._http.get(url, limit=limit).body

    def json(self, url: str) -> dict[str, Any]:
        """A JSON object. Raises Unavailable or ParseError."""
        value = self._http.get(url, limit=MAX_ANSWER).json()
        return object_of(value, what=redacted_url(url))

    def submit(self, url: str, body: bytes, *, token: str | None = None) -> bytes:
        """POST, with a bearer token where one is asked for. Raises Refused with the peer's
        reason, or Unavailable."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = self._http.ask("POST", url, body, limit=MAX_ANSWER, headers=headers)
        if answer.status in REFUSALS:
            raise _refusal(answer.body)
        reason = _reason(answer.body)
        if answer.status != 200 and reason:
            text = f"{answer.url}: expected HTTP 200, got {answer.status}: {reason}"
            raise Unavailable(text, again=answer.status in MAY_CHANGE)
        return answer.good()

    def metrics(self, feed: str, *, token: str) -> bytes:
        """The page of an agent's feed. Raises Refused where the agent has another token, and
        Unavailable."""
        headers = {"authorization": f"Bearer {token}"}
        answer = self._http.ask("GET", f"{feed}/metrics", None, limit=MAX_ANSWER, headers=headers)
        if answer.status in REFUSALS:
            raise _refusal(answer.body)
        return answer.good()

    def retire(self, feed: str, *, token: str) -> dict[str, Any]:
        """What the agent's feed says of the boot that it ended, a JSON object.

        Raises as `submit`, and Unavailable for anything else.
        """
        url = f"{feed}/retire"
        answer, what = self.submit(url, b"", token=token), redacted_url(url)
        try:
            return object_of(decode(answer, what=what), what=what)
        except ParseError as error:
            raise Unavailable(str(error)) from None


def _refusal(data: bytes) -> Refused:
    error = _error(data)
    step, code = (str(error.get(name, "")) for name in ("step", "code"))
    good = _WORD.fullmatch(step) and _WORD.fullmatch(code)
    return Refused(step if good else "log", code if good else "refused", _reason(data))


def _reason(data: bytes) -> str:
    return printable(str(_error(data).get("message", "")), 300)


def _error(data: bytes) -> dict[str, Any]:
    try:
        error = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}
