"""How a log's server refuses: with JSON {"error": {step, code, message}}, never cached."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from attestation import wire
from attestation.errors import (
    ParseError,
    Refused,
    UmayError,
    Unavailable,
    UsageError,
    VerificationError,
)

Endpoint = Callable[[Request], Awaitable[Response]]


class TooLarge(ParseError):
    """A body over MAX_SUBMISSION_BYTES."""

    code = "too-large"


class Busy(Unavailable):
    """The log already has as many submissions as it accepts at a time."""

    code = "busy"


_STATUS: tuple[tuple[type[UmayError], int], ...] = (
    (TooLarge, 413),
    (Busy, 429),
    (ParseError, 400),
    (UsageError, 404),
    (Refused, 403),
    (VerificationError, 422),
    (Unavailable, 503),
)


def answered(endpoint: Endpoint) -> Endpoint:
    """The endpoint with errors answered as JSON {"error": {step, code, message}}."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except UmayError as error:
            return _refusal(error)

    return answer


def _refusal(error: UmayError) -> Response:
    step, code, message = "log", error.code, str(error)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {"cache-control": "no-store"}
    if isinstance(error, VerificationError):
        step, message = error.step, error.message
    elif isinstance(error, ParseError):
        step = "parse"
    elif isinstance(error, UsageError):
        code = "not-found"
    elif isinstance(error, Unavailable):
        headers["retry-after"] = "5" if isinstance(error, Busy) else "10"
    body = {"error": {"step": step, "code": code, "message": message}}
    return Response(json.dumps(body), status, headers, wire.JSON)
