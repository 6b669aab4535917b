"""Connections of urllib3, each wait of which ends by the exchange's Clock.

A read timeout alone bounds one piece, not an answer: whoever drips a byte a second holds a
caller without end. So every receive and every send here asks the Clock first.

No redirect is followed, no cookie kept, and the environment is not looked into.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import certifi
from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    Retry,
    make_headers,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HeaderParsingError
from urllib3.util import parse_url
from urllib3.util.response import assert_header_parsing
from urllib3.util.ssl_ import create_urllib3_context

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


class Pools:
    """Of connections that are kept. `ca_bundle` is a PEM file of the authorities for https, where
    they are not certifi's."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        self._ca_bundle = ca_bundle
        self._managers: dict[tuple[str | None, bool], PoolManager] = {}

    def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        proxy: str | None,
    ) -> BaseHTTPResponse:
        """The answer, once its head is there; call it inside `timed`. Raises what causes.FAILURES
        names."""
        to = parse_url(url)
        pool = self._manager(proxy, to.scheme == "https").connection_from_host(
            to.host, to.port, to.scheme
        )
        return pool.urlopen(
            method,
            to.request_uri,
            body=body,
            headers={**headers, **_authorization(to.auth)},
            retries=_NO_RETRY,
            redirect=False,
            assert_same_host=False,
            timeout=None,  # the clock's
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        managers, self._managers = self._managers, {}
        for manager in managers.values():
            manager.clear()

    def _manager(self, proxy: str | None, secure: bool) -> PoolManager:
        found = self._managers.get((proxy, secure))
        return found or self._managers.setdefault((proxy, secure), self._new(proxy, secure))

    def _new(self, proxy: str | None, secure: bool) -> PoolManager:
        options: dict[str, Any] = {"maxsize": KEPT}
        if secure:  # reading the authorities takes a while
            trust = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
            trust.load_verify_locations(self._ca_bundle or certifi.where())
            options["ssl_context"] = trust
        manager: PoolManager = PoolManager(**options)
        if proxy is not None:
            manager = ProxyManager(
                proxy,
                proxy_headers=_authorization(parse_url(proxy).auth, "proxy_basic_auth"),
                proxy_ssl_context=options.get("ssl_context"),
                **options,
            )
        manager.pool_classes_by_scheme = _POOLS
        return manager


_NO_RETRY = Retry(0, read=False)


def _authorization(auth: str | None, kind: str = "basic_auth") -> dict[str, str]:
    """The header for the user and password of a URL."""
    return make_headers(**{kind: unquote(auth)}) if auth else {}  # type: ignore[arg-type]


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
    _held: bytearray | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Head and body leave in one piece where they are short, so that the server wakes once."""
        self._held = bytearray()
        try:
            super().request(*args, **kwargs)
            self._flush()
        finally:
            self._held = None

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
        if self._held is not None:
            if len(self._held) + len(data) <= _PIECE:
                self._held += data
                return
            self._flush()
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

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held:
            self.send(held)


class _TimedTls(_Timed, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


_POOLS = {"http": _Pool, "https": _TlsPool}
