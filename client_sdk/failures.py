"""Umay's errors as OpenAI clients read them: a status, a body, and whether to try again.

Only what was never sent may be tried again unseen: a cut answer must not be asked for twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attestation.errors import (
    ParseError,
    TooDear,
    UmayError,
    Unavailable,
    UsageError,
    VerificationError,
)
from client_sdk.asking import NOT_TAKEN

if TYPE_CHECKING:
    from attestation.channel import bhttp
    from client_sdk.answer import AnswerHead

HIDDEN_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"trailer"})
"""Of the inner answer: they describe a framing that ends here."""

RETRY_HEADER = "x-should-retry"


def told_headers(answer: AnswerHead) -> bhttp.Fields:
    """The inner header fields for whoever asked, and that nobody asks again where the machine took
    the question and failed."""
    kept = tuple(pair for pair in answer.headers if pair[0] not in HIDDEN_HEADERS)
    if answer.status < 500 or answer.status in NOT_TAKEN:
        return kept
    return (*kept, (RETRY_HEADER.encode(), b"false"))


def status_of(error: UmayError) -> tuple[int, dict[str, str]]:
    """HTTP status and headers: 400 for what was asked wrongly, 402 where every machine is too dear,
    503 where every machine is full, 504 for what took too long, 502 for what else failed beyond."""
    if isinstance(error, TooDear):
        return 402, {RETRY_HEADER: "false"}
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


def error_body(code: str, message: str, *, param: str | None = None) -> dict[str, object]:
    """`param` names the field of the request that is wrong."""
    return {"error": {"message": message, "type": "umay_error", "code": code, "param": param}}


def code_of(error: UmayError) -> str:
    """A stable word: step and code of a verification, else the error's own."""
    if isinstance(error, VerificationError):
        return f"{error.step}/{error.code}"
    return error.code
