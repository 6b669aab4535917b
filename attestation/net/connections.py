"""Connections of urllib3 under `requests`, each wait of which ends by the exchange's Clock.

A read timeout alone bounds one piece, not an answer: whoever drips a byte a second holds a
caller without end. So every receive and every send here asks the Clock first.

No `requests.Session`: even where redirects are not followed it reads a redirect's whole body
into memory, keeps cookies, and looks into the environment.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HeaderParsingError
from urllib3.util.response import assert_header_parsing

from attestation.net.timing import Clock

MAX_HEAD = 256 * 1024
"""Bytes; vendors put certificate chains of some kilobytes into headers."""

MAX_ADDRESSES = 4
"""Tried for one name, within the time for one connection."""

KEPT = 32
"""Idle connections to one host."""

_PIECE = 64 * 1024
_running = threading.local()


@contextlib.contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """What this thread does on connections inside is bounded by `clock`."""
    before, _running.clock = getattr(_running, "clock", None), clock
    try:
        yield
    finally:
        _running.clock = before


class Adapter(HTTPAdapter):
    """Sends one prepared request; call it inside `timed`."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=KEPT)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _Raw(io.RawIOBase):
    """A socket's bytes, each receive within the clock's time."""

    def __init__(self, raw: Any, sock: socket.socket, clock: Clock) -> None:
        self._raw, self._sock, self._clock = raw, sock, clock
        self._received, self.in_head = 0, True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())
        try:
            with self._clock.leaving.waiting(self._sock):
                count: int | None = self._raw.readinto(buffer)
        except TimeoutError:
            raise TimeoutError(self._clock.late) from None
        self._received += count or 0
        if self.in_head and self._received > MAX_HEAD:
            raise http.client.HTTPException(f"a head of more than {MAX_HEAD} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    fp: io.BufferedReader

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._clock: Clock = _running.clock
        self._timed = _Raw(self.fp.detach(), sock, self._clock)
        self.fp = io.BufferedReader(self._timed, _PIECE)

    def _read_status(self) -> tuple[str, int, str]:
        """Of the final answer (RFC 9110 §15.2): http.client passes over 100 alone. Nobody asked
        for 101."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def begin(self) -> None:
        super().begin()
        try:  # Beyond a malformed line the parser drops headers in silence; urllib3 logs the URL.
            assert_header_parsing(self.msg)
        except HeaderParsingError:
            raise http.client.HTTPException("a malformed head") from None
        self._timed.in_head = False
        self._clock.begin_body()


class _Timed(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        clock: Clock = _running.clock
        clock.begin_connection()
        try:
            super().connect()
        except TimeoutError as error:
            raise TimeoutError(clock.late if error.errno is None else str(error)) from None
        clock.begin_head()

    def _new_conn(self) -> socket.socket:
        """As urllib3's, but all addresses of a name share the time for one connection."""
        clock: Clock = _running.clock
        failed: OSError = OSError("its name has no address")
        found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found[:MAX_ADDRESSES]:
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(clock.left())
                sock.connect(address)
                sock.settimeout(clock.left())  # of which TLS takes the rest
                return sock
            except OSError as error:
                sock.close()
                failed = TimeoutError(clock.late) if isinstance(error, TimeoutError) else error
        raise failed

    def send(self, data: Any) -> None:
        _running.clock.leaving.check()
        if self.sock is None:
            self.connect()
        clock, view = _running.clock, memoryview(data)
        for start in range(0, len(view), _PIECE):
            self.sock.settimeout(clock.left())
            piece = view[start : start + _PIECE]
            clock.sending(len(piece))
            try:
                super().send(piece)
            except TimeoutError:
                raise TimeoutError(clock.late) from None


class _TimedTls(_Timed, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


_POOLS = {"http": _Pool, "https": _TlsPool}


def prepared(
    method: str, url: str, body: bytes | None, headers: dict[str, str]
) -> requests.PreparedRequest:
    """Raises requests.RequestException or ValueError for what cannot be sent."""
    return requests.Request(method, url, headers=headers, data=body).prepare()
