"""Reads the bodies of requests; the large ones in processes of their own.

Python's JSON parser holds the interpreter's lock, so a body of some megabytes would stop every
other stream for seconds. The processes are started when they are needed, and never forked from the
guest, whose memory has its keys. One that fails, takes too long, or whose caller has left is
killed; the next body gets a new one. At most WORKERS bodies are read at a time; the others wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from attestation.errors import Unavailable
from attestation.formats.json import decode
from enclave.guest.body import ApiError, Asked, read_body, read_embedding
from enclave.guest.engines.base import FieldRefused
from enclave.guest.engines.embedding import EmbedRequest
from enclave.guest.engines.fields import Kind
from enclave.guest.parse_worker import ASKED, LENGTH_BYTES, frame

INLINE_BYTES = 16 << 10
"""A body up to this length is read at once: that takes less than a millisecond."""

WORKERS = 2
READ_S = 30.0
"""For one body. The largest takes about 3 s of processor time."""

MAX_ANSWER = 64 << 20
"""Bytes of an answer: the texts of a body of 16 MiB, and its head."""

COMMAND = (sys.executable, "-P", "-m", "enclave.guest.parse_worker")


class ParserFailed(Unavailable):
    """The process that read the body ended, or took too long (HTTP 503)."""

    code = "parser-failed"


class Worker:
    """One process. `ask` is called by one task at a time."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process, self._connection = process, connection

    @classmethod
    async def start(cls, command: Sequence[str] | None = None) -> Worker:
        """Starts a process with the modules of this one, and with nothing else of its own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            process = await asyncio.to_thread(_started, theirs, command or COMMAND)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, head: bytes, body: bytes) -> bytearray:
        """The answer to one question. Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READ_S):
            for part in (frame(head), len(body).to_bytes(LENGTH_BYTES, "big"), body):
                await loop.sock_sendall(self._connection, part)
            length = int.from_bytes(await self._exactly(LENGTH_BYTES), "big")
            if not 0 < length <= MAX_ANSWER:
                raise ConnectionError
            return await self._exactly(length)

    async def _exactly(self, count: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = await loop.sock_recv_into(self._connection, view)
            if not got:
                raise ConnectionError
            view = view[got:]
        return data

    def kill(self) -> None:
        """Ends the process at once."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Parsers:
    """The processes of one guest. `close` them with it."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(WORKERS)
        self._idle: list[Worker] = []
        self.restarts = 0
        """Processes that ended before their time, each in place of one that will be started."""

    async def read(self, content: bytes, *, kind: Kind, model: str, request_id: str) -> Asked:
        """What the body asks for. Raises ApiError, FieldRefused, ParserFailed."""
        if len(content) <= INLINE_BYTES:
            return read_body(content, kind=kind, model=model, request_id=request_id)
        answer = await self._asked(kind, model, content)
        # It copies long texts, each in one short step.
        return await asyncio.to_thread(Asked.from_bytes, answer, request_id=request_id, begin=1)

    async def read_embedding(self, content: bytes, *, model: str) -> EmbedRequest:
        """The vectors that the body asks for. Raises what `read` raises."""
        if len(content) <= INLINE_BYTES:
            return read_embedding(content, model=model)
        answer = await self._asked("embedding", model, content)
        return await asyncio.to_thread(EmbedRequest.from_bytes, answer, begin=1)

    def close(self) -> None:
        """Ends the processes that are idle. Those that work end with the tasks that wait for
        them."""
        while self._idle:
            self._idle.pop().kill()

    async def _asked(self, kind: Kind, model: str, content: bytes) -> bytearray:
        head = json.dumps({"kind": kind, "model": model}).encode()
        async with self._room:
            answer = await self._answer(head, content)
        if answer[:1] != ASKED:
            raise _refusal(answer[1:])
        return answer

    async def _answer(self, head: bytes, content: bytes) -> bytearray:
        worker = await self._free()
        try:
            answer = await worker.ask(head, content)
        except (OSError, TimeoutError):
            self.restarts += 1
            await asyncio.to_thread(worker.kill)
            raise ParserFailed("body: the process that read it has ended; try again") from None
        except BaseException:
            self.restarts += 1
            worker.kill()
            raise
        self._idle.append(worker)
        return answer

    async def _free(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            self.restarts += 1
            worker.kill()
        return await Worker.start()


def _started(connection: socket.socket, command: Sequence[str]) -> subprocess.Popen[bytes]:
    nowhere = subprocess.DEVNULL
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, stdin=connection.fileno(), stdout=nowhere, stderr=nowhere, env=environment
    )


def _refusal(answer: bytearray) -> Exception:
    told = decode(bytes(answer), what="refused body")
    if told["status"] is None:
        return FieldRefused(told["message"], param=told["param"])
    return ApiError(told["status"], told["code"], told["message"], param=told["param"])
