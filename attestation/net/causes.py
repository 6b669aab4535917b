"""Why there is no answer, in words, from the errors of Python and of the libraries below."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

from urllib3.exceptions import HTTPError

from attestation.net.error_text import printable

FAILURES = (OSError, http.client.HTTPException, HTTPError, ValueError)
"""What a request may raise."""


def _system_words(error: OSError) -> str:
    """The system's own words: asyncio puts others in their place, with an address."""
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return printable(error.strerror or "") or _words(error)


def _words(error: BaseException) -> str:
    return printable(str(error)) or type(error).__name__


_TOLD: tuple[tuple[type[BaseException], Callable[[Any], str], Callable[[Any], bool]], ...] = (
    (
        ssl.SSLCertVerificationError,
        lambda e: f"its certificate is not accepted: {printable(e.verify_message)}",
        lambda e: False,
    ),
    (
        ssl.SSLError,
        lambda e: f"TLS failed ({printable(e.reason or type(e).__name__)})",
        lambda e: False,
    ),
    (
        socket.gaierror,
        lambda e: f"its name cannot be resolved ({printable(e.strerror or '')})",
        lambda e: bool(e.errno == socket.EAI_AGAIN),
    ),
    (
        http.client.RemoteDisconnected,
        lambda e: "it closed the connection without an answer",
        lambda e: True,
    ),
    (http.client.IncompleteRead, lambda e: "the answer was cut before its end", lambda e: True),
    (
        http.client.HTTPException,
        lambda e: f"its answer is not HTTP as expected ({_words(e)})",
        lambda e: False,
    ),
    (
        OSError,
        _system_words,
        lambda e: "Tunnel connection failed: 4" not in str(e),
    ),
)


def cause(error: BaseException) -> tuple[str, bool]:
    """In words, and whether the same may go well later."""
    found = _root(error)
    for kind, words, again in _TOLD:
        if isinstance(found, kind):
            return words(found), again(found)
    return f"no answer that can be read ({type(error).__name__})", False


def is_late(error: BaseException) -> bool:
    """Whether the time that was allowed is over."""
    return isinstance(_root(error), TimeoutError)


def _root(error: BaseException) -> BaseException | None:
    found: BaseException | None = error
    while found is not None and not _plain(found):
        found = _below(found)
    return found


def _below(error: BaseException) -> BaseException | None:
    """What it wraps: urllib3 keeps some in its arguments alone."""
    held = (item for item in error.args if isinstance(item, BaseException))
    return error.__cause__ or next(held, None) or error.__context__


def _plain(error: BaseException) -> bool:
    """Of Python, not of a library that wraps it: those name no reason."""
    wraps = type(error).__module__.partition(".")[0] == "urllib3"
    wraps |= isinstance(error.__cause__, OSError) and not getattr(error, "errno", None)  # anyio
    cut = isinstance(error, http.client.IncompleteRead)
    return cut or (not wraps and isinstance(error, OSError | http.client.HTTPException))
