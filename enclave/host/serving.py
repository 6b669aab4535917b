"""Apps on listeners until SIGTERM: no access log, nothing of a request on the console."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

import uvicorn
from starlette.types import ASGIApp

from attestation.errors import Unavailable, UsageError

SHUTDOWN_S = 1
"""Then open streams are cut."""

MAX_CONNECTIONS = 2048


def serve(apps: Sequence[tuple[ASGIApp, str]], *, ready: Callable[[Sequence[str]], None]) -> None:
    """Each app on its HOST:PORT; `ready` gets the URLs. Raises UsageError or Unavailable."""
    logging.disable(logging.CRITICAL)
    bound = [_bind(listen) for _, listen in apps]
    servers = [uvicorn.Server(_config(app)) for app, _ in apps]
    ready([_url(item) for item in bound])
    asyncio.run(_run(servers, bound))


async def _run(servers: Sequence[uvicorn.Server], bound: Sequence[socket.socket]) -> None:
    """uvicorn passes signals to one server only: when one ends, all do."""
    pairs = zip(servers, bound, strict=True)
    tasks = [asyncio.create_task(server.serve(sockets=[item])) for server, item in pairs]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        http="h11",  # whose way of cutting an unfinished answer the forwarder relies on
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"listen: expected HOST:PORT, got {listen}")
    try:
        return socket.create_server((host.strip("[]"), int(port)))
    except OSError as error:
        raise Unavailable(f"{listen}: {error.strerror}") from None


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{host}:{port}"
