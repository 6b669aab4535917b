"""When and in what sizes an answer's pieces leave (DESIGN §5).

none: each piece at once. clock: what has come, every 50 ms. strict: one frame of 1024
bytes every 50 ms for as long as the answer lasts. Every flush fills a 512-byte bucket with
an SSE comment, or a JSON body with spaces, inside the ciphertext.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from attestation.channel.padding import RESPONSE_BUCKET_BYTES, SHORTEST_COMMENT, sse_comment

TICK_S = 0.05
STRICT_FRAME_BYTES = 1024


async def paced_events(pieces: AsyncIterator[bytes], pacing: str) -> AsyncGenerator[bytes]:
    """SSE events as they should leave; `pieces` are whole events."""
    if pacing == "none":
        async for piece in pieces:
            yield piece + sse_comment(len(piece))
        return
    async with aclosing(_ticks(pieces)) as ticks:
        async for data, ended in ticks:
            if pacing == "strict":
                for frame in _frames(data, ended):
                    yield frame
            elif data:
                yield bytes(data) + sse_comment(len(data))
                data.clear()


async def padded_body(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """A JSON body as one piece, with spaces up to its bucket."""
    body = b"".join([piece async for piece in pieces])
    yield body + b" " * (-len(body) % RESPONSE_BUCKET_BYTES)


async def _ticks(pieces: AsyncIterator[bytes]) -> AsyncGenerator[tuple[bytearray, bool]]:
    """(buffer, ended) at each tick; the reader takes from the buffer what it sends."""
    buffer, loop = bytearray(), asyncio.get_running_loop()
    reading = asyncio.create_task(_collect(pieces, buffer))
    due = loop.time()
    try:
        while True:
            due = max(due + TICK_S, loop.time())
            await asyncio.wait({reading}, timeout=0)
            await asyncio.sleep(due - loop.time())
            if reading.done():
                reading.result()  # what went wrong in the engine goes wrong here
            yield buffer, reading.done()
            if reading.done() and not buffer:
                return
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _collect(pieces: AsyncIterator[bytes], buffer: bytearray) -> None:
    async for piece in pieces:
        buffer += piece


def _frames(data: bytearray, ended: bool) -> list[bytes]:
    """One frame a tick; the buffer always ends between events, where filling may stand."""
    if not data and ended:
        return []
    frame = bytes(data[:STRICT_FRAME_BYTES])
    del data[:STRICT_FRAME_BYTES]
    missing = STRICT_FRAME_BYTES - len(frame)
    if missing < len(SHORTEST_COMMENT):
        return [frame + b"\n" * missing]
    return [frame + b":" + b" " * (missing - len(SHORTEST_COMMENT)) + b"\n\n"]
