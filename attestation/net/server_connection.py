"""One HTTP connection that cannot be held for nothing.

It is closed where no whole head comes in time, where it idles too long, and where a body comes or
an answer is taken more slowly than any phone would. Time is counted only while the client is
awaited: an answer that is made slowly is not the reader's fault.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from attestation.errors import UsageError

LONGEST_S = 86400


@dataclass(frozen=True)
class Limits:
    """What a server grants its clients: seconds, bytes per second, and how many connections.

    Raises UsageError for a value that is not above 0 and at most LONGEST_S.
    """

    head_s: float = 10.0
    """For a whole request head, from its first byte or the start of the connection."""

    body_s: float = 60.0
    """For a whole body."""

    rate: float = 512.0
    """Bytes per second that a body brings and an answer's reader takes at least. A telephone on
    the slowest network (GPRS) does six times that."""

    body_stall_s: float = 20.0
    stall_s: float = 60.0
    """For how long a body, an answer's reader may bring or take nothing. Who is slower than `rate`
    uses this up bit by bit, who is faster earns it back."""

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
    """uvicorn's, shared by a server's connections. `waiting` holds those that wait for a whole
    request, longest waiting first; `working` those that have one which is not answered yet."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.waiting: dict[Connection, None] = {}
        self.working: set[Connection] = set()

    def make_room(self) -> bool:
        """Whether a connection was there to close: what it waits for did not come yet."""
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        del self.waiting[oldest]
        oldest.transport.abort()
        return True


@dataclass(frozen=True)
class AtWork:
    """One request of a connection, which may have another one afterwards."""

    _connection: Connection
    _cycle: RequestResponseCycle

    @property
    def runs(self) -> bool:
        """Whether it is not answered yet, and its client is still there."""
        at_work = self._connection in self._connection.server_state.working
        return at_work and self._connection.cycle is self._cycle


class Pace:
    """Calls `late` once what `moved` counts has been slower than `rate` for `grace` seconds.

    Counts between `begin` and `stop` only.
    """

    def __init__(
        self, moved: Callable[[], int], late: Callable[[], None], *, rate: float, grace: float
    ) -> None:
        self._moved, self._late = moved, late
        self._rate, self._most, self._left = rate, rate * grace, rate * grace
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._timer is None:
            self._since, self._before = asyncio.get_running_loop().time(), self._moved()
            self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.spend(asyncio.get_running_loop().time() - self._since, self._moved())

    def spend(self, seconds: float, moved: int) -> bool:
        """Whether there is something left after so many seconds."""
        gained = max(0, moved - self._before)
        self._left = min(self._most, self._left + gained - self._rate * seconds)
        return self._left > 0

    def _wait(self) -> None:
        seconds = max(self._left / self._rate, 0)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        now, moved = asyncio.get_running_loop().time(), self._moved()
        self._timer = None
        if not self.spend(now - self._since, moved):
            return self._late()
        self._since, self._before = now, moved
        self._wait()


class Connection(H11Protocol):
    server_state: State
    _head_due: asyncio.TimerHandle | None = None
    _arriving: RequestResponseCycle | None = None
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that a byte not taken is noticed
        opened = transport.get_extra_info("socket")
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a token waits for no other
        limits = self.server_state.limits
        self._answer = Pace(
            lambda: -self._unsent(), transport.abort, rate=limits.rate, grace=limits.stall_s
        )
        self._body = self._new_body()
        self._look(head=True)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._look(head=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look(head=bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.server_state.waiting.pop(self, None)
        self.server_state.working.discard(self)
        self._unset_keepalive_if_required()
        self._cancel()
        self._body.stop()
        self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer.stop()

    def _look(self, *, head: bool) -> None:
        """What it waits for; `head` says that the next request has begun or is due."""
        cycle, state = self.cycle, self.server_state
        if cycle is None or cycle.response_complete:
            self._body.stop()
            state.working.discard(self)
            self._await_head(due=head)
        elif cycle.more_body:
            self._cancel()
            self._await_body(cycle)
        else:
            self._cancel()
            self._body.stop()
            state.waiting.pop(self, None)
            state.working.add(self)

    def _await_head(self, *, due: bool) -> None:
        if self.transport.is_closing():
            return
        self.server_state.waiting.setdefault(self)
        if due and self._head_due is None:
            seconds = self.server_state.limits.head_s
            self._head_due = self.loop.call_later(seconds, self.transport.abort)

    def _await_body(self, cycle: RequestResponseCycle) -> None:
        """From its head on, however long the connection has been there; not while it is us who
        take nothing of it."""
        if self._arriving is not cycle:
            self._arriving = cycle
            self.server_state.working.discard(self)
            self.server_state.waiting.pop(self, None)
            self.server_state.waiting[self] = None
            self._body.stop()
            self._body = self._new_body()
        if self.flow.read_paused:
            self._body.stop()
        else:
            self._body.begin()

    def _new_body(self) -> Pace:
        limits = self.server_state.limits
        return Pace(
            lambda: self._received,
            self.transport.abort,
            rate=limits.rate,
            grace=limits.body_stall_s,
        )

    def _cancel(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _unsent(self) -> int:
        """Bytes that the other side has not taken: asyncio's and the kernel's, which says when it
        takes more only after a third of its own has gone."""
        kernel = array("i", [0])
        with suppress(OSError, ValueError):  # a closed one, or a system that does not tell
            opened = self.transport.get_extra_info("socket")
            fcntl.ioctl(opened.fileno(), termios.TIOCOUTQ, kernel)
        return self.transport.get_write_buffer_size() + kernel[0]
