"""The enclave's answer as programs on this machine read it.

Padding ends here: SSE comments and the spaces after a JSON body hide lengths from the network, and
nobody listens on loopback. Streams say their charset, and no character of theirs but the line feed
breaks a line, since many programs read them with a reader of text lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from attestation import wire
from attestation.errors import UmayError
from attestation.net.leaving import LEAVING, Leaving
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.failures import error_body, error_json, told_headers
from client_sdk.proxy.refusal import failure

EVENTS = f"{wire.EVENTS}; charset=utf-8"
INTERNAL = error_body("internal", "the proxy had an internal error")
"""What is told of an error that nobody expected: its text could hold the prompt."""


class There:
    """The caller, while they wait for what `leaving` is about."""

    def __init__(self, receive: Receive, leaving: Leaving) -> None:
        self._receive, self._leaving = receive, leaving
        self._task = asyncio.create_task(self._watch())
        self.kept = False

    def over(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leaving.leave()


@contextlib.contextmanager
def while_there(receive: Receive) -> Iterator[There]:
    """What is asked inside, in threads too, ends at once where the caller leaves: the enclave must
    not go on for nobody. A stream that is `kept` ends the watch itself."""
    leaving = Leaving()
    LEAVING.set(leaving)  # of this request's task alone
    there = There(receive, leaving)
    try:
        yield there
    finally:
        if not there.kept:
            there.over()


async def response(answer: Answer, there: There) -> Response:
    """Streams as they come, everything else whole."""
    headers = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in told_headers(answer)
    }
    media_type = headers.get(wire.CONTENT_TYPE, "").partition(";")[0].strip()
    if media_type == wire.EVENTS:
        headers[wire.CONTENT_TYPE] = EVENTS
        there.kept = True
        return StreamingResponse(_events(answer, there), answer.status, headers)
    try:
        content = await run_in_threadpool(answer.read)
    except UmayError as error:
        return failure(error)
    if media_type == wire.JSON:
        content = content.rstrip(b" ")
    return Response(content, answer.status, headers)


async def _events(answer: Answer, there: There) -> AsyncIterator[bytes]:
    """The inner SSE as it comes; when cut, one last event that names the truncation."""
    try:
        async for piece in iterate_in_threadpool(until_cut(answer)):
            yield piece
    finally:
        there.over()
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
