"""One HTTP connection that cannot be held for nothing.

It is closed where no whole head comes in time, where it idles too long, and where nothing of
an answer is taken for too long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from attestation.errors import UsageError

LONGEST_S = 86400


@dataclass(frozen=True)
class Limits:
    """What a server grants its clients: seconds, and how many connections at most.

    Raises UsageError for a value that is not a time in seconds.
    """

    head_s: float = 10.0
    """For a whole request head, from its first byte or the start of the connection."""

    body_s: float = 60.0
    stall_s: float = 60.0
    """Without a byte of the answer taken."""

    idle_s: float = 75.0
    """Between an answer and the next request: longer than clients and proxies keep theirs."""

    shutdown_s: float = 2.0
    """For open answers, once the server is told to stop; then they are cut."""

    connections: int = 2048

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= LONGEST_S:
                raise UsageError(f"{name}: expected more than 0, at most {LONGEST_S}, got {value}")


class State(ServerState):
    """uvicorn's, shared by a server's connections. `waiting` holds those that have no request
    at work, longest waiting first."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.waiting: dict[Connection, None] = {}

    def make_room(self) -> bool:
        """Whether a connection was there to close: what it waits for did not come yet."""
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        del self.waiting[oldest]
        oldest.transport.abort()
        return True


class Connection(H11Protocol):
    server_state: State
    _head_due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that a byte not taken is noticed
        self._look(head=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look(head=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look(head=bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server_state.waiting.pop(self, None)
        self._unset_keepalive_if_required()
        self._cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _look(self, *, head: bool) -> None:
        """Whether it waits for a request; `head` says that the next has begun or is due."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.server_state.waiting.pop(self, None)
            self._cancel()
        elif not self.transport.is_closing():
            self.server_state.waiting.setdefault(self)
            if head and self._head_due is None:
                due = self.server_state.limits.head_s
                self._head_due = self.loop.call_later(due, self.transport.abort)

    def _cancel(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _watch(self, unsent: int) -> None:
        due = self.server_state.limits.stall_s
        self._stalled = self.loop.call_later(due, self._stall, unsent)

    def _stall(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < before:
            self._watch(unsent)
        else:
            self.transport.abort()
