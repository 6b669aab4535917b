"""The enclave's answer as programs on this machine read it.

Padding ends here: SSE comments and the spaces after a JSON body hide lengths from the network, and
nobody listens on loopback. Streams say their charset, and no character of theirs but the line feed
breaks a line, since many programs read them with a reader of text lines.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse

from attestation import wire
from attestation.errors import UmayError
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.failures import error_body, error_json, told_headers
from client_sdk.proxy.refusal import failure

EVENTS = f"{wire.EVENTS}; charset=utf-8"
INTERNAL = error_body("internal", "the proxy had an internal error")
"""What is told of an error that nobody expected: its text could hold the prompt."""


async def response(answer: Answer) -> Response:
    """Streams as they come, everything else whole."""
    headers = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in told_headers(answer)
    }
    media_type = headers.get(wire.CONTENT_TYPE, "").partition(";")[0].strip()
    if media_type == wire.EVENTS:
        headers[wire.CONTENT_TYPE] = EVENTS
        return StreamingResponse(_events(answer), answer.status, headers)
    try:
        content = await run_in_threadpool(answer.read)
    except UmayError as error:
        return failure(error)
    if media_type == wire.JSON:
        content = content.rstrip(b" ")
    return Response(content, answer.status, headers)


async def _events(answer: Answer) -> AsyncIterator[bytes]:
    """The inner SSE as it comes; when cut, one last event that names the truncation."""
    try:
        async for piece in iterate_in_threadpool(until_cut(answer)):
            yield piece
    finally:
        # The caller may have gone: the enclave must not go on for nobody.
        await asyncio.shield(run_in_threadpool(answer.close))


def until_cut(answer: Answer) -> Iterator[bytes]:
    """The pieces, and after an error the event that tells it."""
    try:
        yield from sse.bare(sse.done_last(answer))
    except UmayError as error:
        yield _last_event(error_json(error))
    except Exception:
        yield _last_event(INTERNAL)


def _last_event(error: dict[str, object]) -> bytes:
    return b"\n\ndata: " + json.dumps(error).encode() + b"\n\n"
