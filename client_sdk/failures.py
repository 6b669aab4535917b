"""Umay's errors as OpenAI clients read them: a status, a body, and whether to try again.

Only what was never sent may be tried again unseen: a cut answer must not be asked for twice.
"""

from __future__ import annotations

import math

from attestation.errors import ParseError, UmayError, Unavailable, UsageError, VerificationError

HIDDEN_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"trailer"})
"""Of the inner answer: they describe a framing that ends here."""

RETRY_HEADER = "x-should-retry"


def status_of(error: UmayError) -> tuple[int, dict[str, str]]:
    """HTTP status and headers: 400 for what was asked wrongly, 503 where every machine is full,
    504 for what took too long, 502 for what else failed beyond."""
    may_retry = isinstance(error, Unavailable) and not error.may_have_run
    headers = {RETRY_HEADER: "true" if may_retry else "false"}
    if isinstance(error, Unavailable) and may_retry and error.retry_after is not None:
        return 503, {**headers, "retry-after": f"{math.ceil(error.retry_after)}"}
    if isinstance(error, UsageError | ParseError):
        return 400, headers
    return 504 if getattr(error, "late", False) else 502, headers


def error_json(error: UmayError) -> dict[str, object]:
    """The body of an OpenAI error; its code names the failed check or the kind of error."""
    return error_body(code_of(error), str(error))


def error_body(code: str, message: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "umay_error", "code": code, "param": None}}


def code_of(error: UmayError) -> str:
    """A stable word: step and code of a verification, else the error's own."""
    if isinstance(error, VerificationError):
        return f"{error.step}/{error.code}"
    return error.code
