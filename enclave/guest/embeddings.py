"""The answer of /v1/embeddings, as OpenAI writes it."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator

from enclave.guest.engines.embedding import Embedded, Encoding

AT_ONCE = 16
"""Vectors that are written before others are served."""


async def written(found: Embedded, encoding: Encoding, model: str) -> AsyncGenerator[bytes]:
    """One JSON body, in pieces. A number has the digits that tell one float32 from all others."""
    write = _base64 if encoding == "base64" else _numbers
    yield b'{"object":"list","data":['
    for at, vector in enumerate(found.vectors):
        comma = "," if at else ""
        shown = f'{comma}{{"object":"embedding","index":{at},"embedding":{write(vector)}}}'
        yield shown.encode()
        if at % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    last = json.dumps({"model": model, "usage": usage}, separators=(",", ":"))
    yield f"],{last[1:]}".encode()


def _numbers(vector: bytes) -> str:
    numbers = struct.unpack(f"<{len(vector) // 4}f", vector)
    return "[" + ",".join([f"{number:.9g}" for number in numbers]) + "]"


def _base64(vector: bytes) -> str:
    return f'"{base64.b64encode(vector).decode()}"'
