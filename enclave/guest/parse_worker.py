"""`python -m enclave.guest.parse_worker`: reads bodies for one guest, until it hangs up.

Standard input is a socket to the guest. A question is a frame of the head (JSON: kind, model) and a
frame of the body; an answer is one frame, which begins with ASKED or REFUSED. A frame is u32 length
‖ bytes. Nothing is written anywhere else, and what is too much for this process ends it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Callable

from attestation.formats.json import decode
from attestation.process import keep_memory_private
from enclave.guest.body import ApiError, Asked, read_body, read_embedding
from enclave.guest.engines.base import FieldRefused
from enclave.guest.engines.embedding import EmbedRequest
from enclave.guest.engines.fields import Kind

ASKED, REFUSED = b"\x01", b"\x00"
LENGTH_BYTES = 4

MAX_MEMORY = 2 << 30
"""Bytes of address space. 16 MiB of JSON become at most some 500 MB of Python's objects."""


def frame(data: bytes | bytearray) -> bytes:
    """The length before the bytes."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def answered(head: bytes, body: bytes | bytearray) -> bytes:
    """The answer to one question, without its length."""
    try:
        asked = _asked(body, **decode(head, what="question"))
    except (ApiError, FieldRefused) as error:
        told = {
            "status": error.status if isinstance(error, ApiError) else None,
            "code": error.code,
            "message": str(error),
            "param": error.param,
        }
        return REFUSED + json.dumps(told).encode()
    return ASKED + asked.to_bytes()


def _asked(body: bytes | bytearray, kind: Kind, model: str) -> Asked | EmbedRequest:
    if kind == "embedding":
        return read_embedding(body, model=model)
    return read_body(body, kind=kind, model=model, request_id="")


def serve(
    connection: socket.socket, answer: Callable[[bytes, bytearray], bytes] = answered
) -> None:
    """Answers until the other side closes the connection."""
    while (head := _received(connection)) is not None:
        body = _received(connection)
        if body is None:
            return
        connection.sendall(frame(answer(bytes(head), body)))


def _received(connection: socket.socket) -> bytearray | None:
    """The next frame; None where the other side has left."""
    length = _exactly(connection, LENGTH_BYTES)
    return None if length is None else _exactly(connection, int.from_bytes(length, "big"))


def _exactly(connection: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return data


def run(answer: Callable[[bytes, bytearray], bytes]) -> None:
    """The life of this process. It ends without a word whatever happens: a traceback could hold a
    prompt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the guest, which then hangs up
    try:
        keep_memory_private()
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        serve(socket.socket(fileno=0), answer)
    except Exception:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    run(answered)
