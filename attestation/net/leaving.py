"""Who asks may leave before the answer is there: from another thread, in the middle of a wait.

A thread that waits on a socket cannot be told anything. So what it waits on is noted here, and
the end of that is the end of the wait.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar


class Left(Exception):
    """Nobody waits for this answer any more. As a cancellation it is no error of anybody's, and
    says nothing about the other end."""


class Leaving:
    """One question, whose exchanges follow each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: socket.socket | None = None
        self._left = False

    def leave(self) -> None:
        """From any thread. What waits ends at once, and nothing is sent afterwards."""
        with self._lock:
            self._left = True
            if self._waiting is not None:
                with contextlib.suppress(OSError):
                    self._waiting.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises Left."""
        if self._left:
            raise Left

    @contextlib.contextmanager
    def waiting(self, sock: socket.socket) -> Iterator[None]:
        """A wait on `sock`. Raises Left where it would begin too late to be ended."""
        with self._lock:
            self.check()
            self._waiting = sock
        try:
            yield
        finally:
            with self._lock:  # somebody else may have the connection next
                self._waiting = None


LEAVING: ContextVar[Leaving | None] = ContextVar("LEAVING", default=None)
"""Of the question that is asked here, where one may leave it."""
