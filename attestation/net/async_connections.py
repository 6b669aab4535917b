"""HTTP/1.1 for asyncio on connections that are kept open, one exchange at a time on each.

Only what a forwarder needs, with h11 as the parser. A request leaves in one piece with its head
where it is whole, and is never sent twice. A connection is used again only after an exchange that
ended cleanly on both sides, while its server says nothing and has not closed it.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

import h11

MAX_HEAD_BYTES = 64 << 10
MAX_HELD_BYTES = 256 << 10
"""Of an answer that arrives faster than it is read."""

FAILURES = (OSError, h11.ProtocolError)
"""What an exchange raises; TimeoutError is an OSError."""

Body = Callable[[], Awaitable[tuple[bytes, bool]]]
"""The next part of a body, and whether there is more of it."""


_Place = tuple[bool, str, int]
"""Whether with TLS, host and port."""


@dataclass(frozen=True)
class Waits:
    """Seconds: for one of the connections, for it to stand, and between two signs of the server."""

    turn: float
    connect: float
    silence: float


class AsyncConnections:
    """To any number of servers: at most `most` at a time, of which `kept` stay open while nothing
    is asked, for `idle_s` seconds. `trust` gives the authorities for https."""

    def __init__(
        self,
        waits: Waits,
        *,
        most: int,
        kept: int,
        idle_s: float,
        trust: Callable[[], ssl.SSLContext],
    ) -> None:
        self._waits, self._kept, self._idle_s, self._trust = waits, kept, idle_s, trust
        self._turns = asyncio.Semaphore(most)
        self._idle: dict[_Connection, float] = {}

    async def open(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None
    ) -> AsyncExchange:
        """Returns once the head of the answer is there. Raises what is in FAILURES, and what
        `body` raises. Close what it returns."""
        parts = urlsplit(url)
        part, more = (b"", False) if body is None else await body()
        async with asyncio.timeout(self._waits.turn if self._turns.locked() else None):
            await self._turns.acquire()
        try:
            exchange = AsyncExchange(self, await self._connection(parts))
        except BaseException:
            self._turns.release()
            raise
        try:
            await exchange.ask(_head(method, parts, headers, body, part, more), part, more, body)
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _connection(self, parts: SplitResult) -> _Connection:
        secure = parts.scheme == "https"
        place = secure, parts.hostname or "", parts.port or (443 if secure else 80)
        return self._again(place) or await self._connect(place)

    def _again(self, place: _Place) -> _Connection | None:
        """The one of those that idle which was used last."""
        now = asyncio.get_running_loop().time()
        for connection, until in reversed(list(self._idle.items())):
            if until >= now and connection.place != place:
                continue
            del self._idle[connection]
            if until >= now and connection.usable():
                return connection
            connection.end()
        return None

    async def _connect(self, place: _Place) -> _Connection:
        secure, host, port = place
        trust = await asyncio.to_thread(self._trust) if secure else None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._waits.connect):
            _, connection = await loop.create_connection(
                lambda: _Connection(place, self._waits.silence, self._forget), host, port, ssl=trust
            )
        return connection

    def _over(self, connection: _Connection) -> None:
        """An exchange on it has ended."""
        self._turns.release()
        if len(self._idle) < self._kept and connection.again():
            self._idle[connection] = asyncio.get_running_loop().time() + self._idle_s
        else:
            connection.end()

    def _forget(self, connection: _Connection) -> None:
        self._idle.pop(connection, None)


def _head(
    method: str,
    parts: SplitResult,
    headers: Mapping[str, str],
    body: Body | None,
    part: bytes,
    more: bool,
) -> h11.Request:
    """`part`: the first of the body, which has a length where there is no `more`."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = [("host", parts.netloc.rpartition("@")[2]), *headers.items()]
    if more:
        fields.append(("transfer-encoding", "chunked"))
    elif body is not None:
        fields.append(("content-length", str(len(part))))
    return h11.Request(method=method, target=target, headers=fields)


class AsyncExchange:
    """One request and its answer. `status` and `headers`, names in lower case, are there once it
    is given out."""

    def __init__(self, connections: AsyncConnections, connection: _Connection) -> None:
        self._connections, self._connection = connections, connection
        self.status, self.headers = 0, dict[str, str]()
        self._ended = self._closed = False

    async def ask(self, head: h11.Request, part: bytes, more: bool, body: Body | None) -> None:
        """Raises what is in FAILURES, and what `body` raises."""
        connection, first = self._connection, (head, h11.Data(part)) if part else (head,)
        try:
            await connection.send((*first, *_END[more]))
            while more and body is not None:
                part, more = await body()
                await connection.send((h11.Data(part), *_END[more]))
        except ConnectionError:
            pass  # whoever refuses a body before its end closes its side, and may have said why
        while isinstance(event := await connection.event(), h11.InformationalResponse):
            if event.status_code == 101:
                raise h11.RemoteProtocolError("expected an answer, got another protocol")
        if not isinstance(event, h11.Response):
            raise h11.RemoteProtocolError("expected an answer, got the connection's end")
        self.status = event.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}

    async def piece(self) -> bytes:
        """What has come of the answer, b"" at its end. Raises what is in FAILURES."""
        piece = b""
        while not self._ended:
            try:
                event = self._connection.arrived() if piece else await self._connection.event()
            except h11.RemoteProtocolError:
                if piece:
                    break  # it is raised again at the next piece
                raise
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Data):
                piece += event.data
            else:
                self._ended = True
        return piece

    def close(self) -> None:
        """Its connection ends, unless all was asked and answered. Nothing when it is repeated."""
        if not self._closed:
            self._closed = True
            self._connections._over(self._connection)


_END: dict[bool, tuple[h11.EndOfMessage, ...]] = {True: (), False: (h11.EndOfMessage(),)}


@dataclass(eq=False)
class _Connection(asyncio.Protocol):
    place: _Place
    silence_s: float
    on_lost: Callable[[_Connection], None]
    _held: list[bytes] = field(default_factory=list)
    _changed: asyncio.Future[None] | None = None
    _full = _paused = _lost = _eof = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = self._new_parser()

    def data_received(self, data: bytes) -> None:
        self._held.append(data)
        if not self._full and sum(map(len, self._held)) > MAX_HELD_BYTES:
            self._full = True
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        self._eof = True
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._eof = True
        self._paused = False
        self._tell()
        self.on_lost(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._tell()

    async def send(self, events: Iterable[h11.Event]) -> None:
        """Raises ConnectionError once it is lost, TimeoutError where nothing is taken."""
        self._transport.write(b"".join(self._parser.send(event) or b"" for event in events))
        while self._paused:
            await self._change()
        if self._lost:
            raise ConnectionResetError("the server closed the connection")

    def arrived(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event that is there already, else NEED_DATA."""
        event = self._parser.next_event()
        if event is h11.NEED_DATA and self._held:
            held, self._held = b"".join(self._held), []
            self._parser.receive_data(held)
            if self._full:
                self._full = False
                self._transport.resume_reading()
            event = self._parser.next_event()
        return event

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises h11.RemoteProtocolError, TimeoutError."""
        while (event := self.arrived()) is h11.NEED_DATA:
            if not self._held and self._eof:
                if self._parser.their_state is h11.SEND_RESPONSE:
                    raise h11.RemoteProtocolError("expected an answer, got the connection's end")
                self._parser.receive_data(b"")
            elif not self._held:
                await self._change()
        return event

    def again(self) -> bool:
        """Whether another exchange may follow; it is ready for that then."""
        parser = self._parser
        clean = parser.our_state is h11.DONE and parser.their_state is h11.DONE
        if not clean or parser.trailing_data[0] or not self.usable():
            return False
        self._parser = self._new_parser()
        return True

    def usable(self) -> bool:
        """Whether it stands and its server has said nothing: asked of the system too, which may
        know more than the event loop."""
        if self._held or self._eof or self._lost or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def end(self) -> None:
        self._transport.abort()

    def _new_parser(self) -> h11.Connection:
        return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def _change(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.silence_s):
                await self._changed
        finally:
            self._changed = None

    def _tell(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
