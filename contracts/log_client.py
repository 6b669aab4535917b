"""Small requests to a log: submissions and reads. The answers are not verified here."""

from __future__ import annotations

import json

from attestation.errors import Refused, Unavailable
from attestation.log.submission import SubmissionAnswer
from attestation.net.error_text import printable
from attestation.net.http import Http
from attestation.net.retry import MAY_CHANGE
from attestation.net.timing import Deadlines

MAX_ANSWER = 64 * 1024  # bytes from a log
HTTP_SECONDS = 10.0
"""Deadline for one whole answer of a log."""

REFUSAL = ("step", "code", "message")


def fetch_checkpoint(log_url: str) -> bytes:
    """The newest checkpoint of a log, unverified. Raises Unavailable."""
    return fetch(f"{log_url.rstrip('/')}/checkpoint")


def submit(url: str, body: bytes) -> SubmissionAnswer:
    """Submit `body` and return the log's answer. Raises Refused with the log's reason, Unavailable,
    or ParseError for a malformed answer."""
    with _http() as http:
        answer = http.ask("POST", url, body, limit=MAX_ANSWER)
    if answer.status == 200:
        return SubmissionAnswer.from_bytes(answer.good())
    try:
        refusal = json.loads(answer.body)["error"]
        step, code, text = (printable(str(refusal[key]), 300) for key in REFUSAL)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise answer.refusal() from None
    if answer.status in MAY_CHANGE:
        raise Unavailable(f"{answer.url}: {text}", again=True)
    raise Refused(step, code, text)


def fetch(url: str) -> bytes:
    """One small answer of a log. Raises NotThere or Unavailable."""
    with _http() as http:
        return http.get(url, limit=MAX_ANSWER).body


def _http() -> Http:
    return Http(Deadlines(whole=HTTP_SECONDS))
