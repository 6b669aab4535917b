"""The one way to ask over HTTP, against servers of raw bytes on loopback."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotThere, Unavailable, UsageError
from attestation.net import timing
from attestation.net.connections import MAX_ADDRESSES, MAX_HEAD
from attestation.net.error_text import answer_summary, is_page, printable, redacted_url
from attestation.net.http import Http
from attestation.net.retry import retry_after, with_retries
from attestation.net.route import Route, is_loopback
from attestation.net.timing import Deadlines
from tests.helpers.places import ROOT
from tests.helpers.raw_server import HANG, ConnectProxy, answer, authority, head_of, serving

LIMIT = 100_000
SHORT = Deadlines(connect=0.3, head=0.3, whole=0.6, idle=HANG)
PATIENT = Deadlines(connect=HANG, head=HANG, whole=HANG, idle=HANG)
STEP = 0.02
"""Seconds between two pieces of what drips: far below every deadline for one piece."""

STRAIGHT = Route()


def get(url: str, deadlines: Deadlines = PATIENT, *, limit: int = LIMIT) -> bytes:
    with Http(deadlines, route=STRAIGHT) as http:
        return http.get(url, limit=limit).body


def sends(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Reads one request, answers with these bytes, and closes."""

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        for piece in pieces:
            connection.sendall(piece)

    return serve


def drips(start: bytes, byte: bytes = b"x") -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        while True:
            connection.sendall(byte)
            time.sleep(STEP)

    return serve


def floods(start: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return serve


def silence(connection: socket.socket) -> None:
    """Reads a request's head and waits."""
    head_of(connection)
    connection.recv(1)


def deaf(connection: socket.socket) -> None:
    """Reads nothing; the connection ends with the process."""
    KEPT.append(connection.dup())


KEPT: list[socket.socket] = []
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

# ---- time

LATE = {
    "a body that drips": (drips(OK + b"content-length: 90000\r\n\r\n"), "no whole answer"),
    "a body without length that drips": (drips(OK + b"\r\n"), "no whole answer"),
    "chunks that drip": (drips(CHUNKED, b"1\r\nx\r\n"), "no whole answer"),
    "a chunk's size that drips": (drips(CHUNKED, b"0"), "no whole answer"),
    "trailers that drip": (drips(CHUNKED + b"0\r\n", b"a: b\r\n"), "no whole answer"),
    "a status line that drips": (drips(b"HTTP/1.1 200 "), "no answer within 0.3 s"),
    "a header that drips": (drips(OK + b"a: "), "no answer within 0.3 s"),
    "headers that drip": (drips(OK, b"a: b\r\n"), "no answer within 0.3 s"),
    "100 Continue without end": (
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "no answer within 0.3 s",
    ),
    "silence": (silence, "no answer within 0.3 s"),
}


@pytest.mark.parametrize(("serve", "words"), LATE.values(), ids=LATE)
def test_whoever_drips_is_left_when_the_time_is_over(
    serve: Callable[[socket.socket], None], words: str
) -> None:
    with serving(serve) as server, pytest.raises(Unavailable, match=words) as told:
        get(server.url(), SHORT)
    assert told.value.again and server.url() in str(told.value)


def test_a_pause_longer_than_idle_ends_a_stream() -> None:
    deadlines = Deadlines(connect=HANG, head=HANG, whole=None, idle=0.2)
    start = CHUNKED + b"1\r\nx\r\n"

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        connection.recv(1)

    with (
        serving(serve) as server,
        Http(deadlines, route=STRAIGHT) as http,
        http.open("GET", server.url()) as incoming,
    ):
        pieces = iter(incoming)
        assert next(pieces) == b"x"
        with pytest.raises(Unavailable, match=r"nothing came for 0\.2 s"):
            next(pieces)


def test_a_stream_may_last_longer_than_any_deadline_but_idle() -> None:
    deadlines = Deadlines(connect=0.2, head=0.2, whole=None, idle=HANG)

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(CHUNKED)
        for _ in range(10):
            time.sleep(0.05)
            connection.sendall(b"1\r\nx\r\n")
        connection.sendall(b"0\r\n\r\n")

    with (
        serving(serve) as server,
        Http(deadlines, route=STRAIGHT) as http,
        http.open("GET", server.url()) as incoming,
    ):
        assert b"".join(incoming) == b"x" * 10


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01"])
def test_a_tls_handshake_that_never_ends_is_left(first: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(first)
        while connection.recv(1 << 16):
            connection.sendall(first[:1])

    with serving(serve) as server, pytest.raises(Unavailable) as told:
        get(server.url(scheme="https"), SHORT)
    assert "no connection within 0.3 s" in str(told.value) or "TLS failed" in str(told.value)


def test_a_peer_that_never_reads_a_long_request_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SLOWEST", 1 << 40)
    body = bytes(32 << 20)  # more than the system's buffers take

    with (
        serving(deaf) as server,
        Http(Deadlines(connect=HANG, head=0.3, whole=HANG), route=STRAIGHT) as http,
        pytest.raises(Unavailable, match=r"no answer within 0\.3 s"),
    ):
        http.post(server.url(), body, limit=LIMIT)


def test_a_long_upload_has_time_of_its_own() -> None:
    clock = timing.Clock(Deadlines(head=1, whole=1), upload=100_000 * timing.SLOWEST)
    assert clock.left() > 1


# ---- bytes

ENDLESS = {
    "a body without length": (OK + b"\r\n", b"x" * 65536),
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "one chunk of 4 GiB": (CHUNKED + b"ffffffff\r\n", b"x" * 65536),
    "a chunk of a negative size": (CHUNKED + b"-5\r\n", b"x" * 65536),
}


@pytest.mark.parametrize(("start", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_body_is_left_at_the_limit(start: bytes, piece: bytes) -> None:
    get_bounded(floods(start, piece), "at most 100000 bytes")


HEADS = {
    "headers": (OK, b"a: b\r\n" * 1000),
    "one header": (OK + b"a: ", b"x" * 65536),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 65536),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "103 Early Hints": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100),
    "headers of 100 Continue": (b"HTTP/1.1 100 Continue\r\n", b"a: b\r\n" * 1000),
}


@pytest.mark.parametrize(("start", "piece"), HEADS.values(), ids=HEADS)
def test_an_endless_head_is_left(start: bytes, piece: bytes) -> None:
    get_bounded(floods(start, piece), "not HTTP as expected")


def get_bounded(serve: Callable[[socket.socket], None], words: str) -> None:
    """The request fails so, and took no memory to speak of."""
    get_nothing_first()
    tracemalloc.start()
    try:
        with serving(serve) as server, pytest.raises(Unavailable, match=words):
            get(server.url())
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def get_nothing_first() -> None:
    """So that the libraries are loaded."""
    with serving(sends(answer(b""))) as server:
        get(server.url())


def test_what_is_said_before_the_answer_is_passed_over() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    with serving(sends(hints, answer(b"its own"))) as server:
        assert get(server.url()) == b"its own"


def test_nobody_asked_for_another_protocol() -> None:
    with (
        serving(sends(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")) as server,
        pytest.raises(Unavailable, match="expected HTTP 200, got 101"),
    ):
        get(server.url())


def test_a_body_may_be_longer_than_a_head() -> None:
    body = bytes(MAX_HEAD + 1)
    with serving(sends(answer(body))) as server:
        assert get(server.url(), limit=len(body)) == body


def test_a_redirects_endless_body_is_not_read() -> None:
    """Where redirects are not followed, libraries read it whole all the same."""
    start = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/x\r\n\r\n"
    get_bounded(floods(start, b"x" * 65536), "302, a redirect to http://127.0.0.1:1;")


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 40, 10**30])
def test_a_length_over_the_limit_is_refused_before_the_body(length: int) -> None:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(OK + f"content-length: {length}\r\n\r\n".encode())
        connection.recv(1)

    with serving(serve) as server, pytest.raises(Unavailable, match="at most 100000 bytes"):
        get(server.url())


BOMB = gzip.compress(bytes(32 << 20), 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP"])
def test_a_compressed_answer_is_refused_and_not_unpacked(encoding: str) -> None:
    def serve(connection: socket.socket) -> None:
        assert b"\r\naccept-encoding: identity\r\n" in head_of(connection)
        connection.sendall(answer(BOMB, f"content-encoding: {encoding}"))

    get_bounded(serve, "expected no content encoding")


CUT = {
    "a body shorter than its length": answer(b"abc", length=10),
    "a connection closed in a chunk": CHUNKED + b"5\r\nabc",
    "a connection closed before a chunk's size": CHUNKED + b"5\r\nabcde\r\n",
    "a connection closed without an answer": b"",
    "a connection closed in the head": OK + b"content-le",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_what_is_cut_is_no_answer(data: bytes) -> None:
    with serving(sends(data)) as server, pytest.raises(Unavailable, match=r"cut|closed|malformed"):
        get(server.url())


STRANGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc",
    "a head with a line that is no header": OK + b"nothing\r\ncontent-length: 2\r\n\r\nok",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a chunk of no size": CHUNKED + b"zz\r\n",
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_what_is_not_http_is_no_answer(data: bytes) -> None:
    with serving(sends(data)) as server, pytest.raises(Unavailable) as told:
        get(server.url())
    assert not told.value.again or "cut" in str(told.value)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_bring_anything_but_a_named_error(data: bytes) -> None:
    with serving(sends(OK + data)) as server:
        try:
            get(server.url())
        except Unavailable:
            pass


# ---- what is sent, and what is not kept


def test_nothing_but_the_needed_is_sent_and_no_cookie_comes_back() -> None:
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        while True:
            heads.append(head_of(connection))
            connection.sendall(answer(b"ok", "set-cookie: id=1; path=/"))

    with serving(serve) as server, Http(route=STRAIGHT) as http:
        for _ in range(3):
            assert http.get(server.url("/x?y=1"), limit=10).body == b"ok"
        assert server.connections == 1  # kept alive
    assert set(heads) == {
        f"GET /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nuser-agent: umay\r\n"
        "accept-encoding: identity\r\naccept: */*\r\n\r\n".encode()
    }


def test_a_redirect_is_not_followed() -> None:
    with serving(sends(answer(b"secret"))) as other:
        there = f"location: {other.url('/path?token=x')}"
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            with (
                serving(sends(answer(b"", there, status=status))) as server,
                pytest.raises(Unavailable, match=f"{status[:3]}, a redirect to") as told,
            ):
                get(server.url())
        assert other.connections == 0 and "token" not in str(told.value)


def test_many_threads_share_one_http() -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            path = head_of(connection).split()[1]
            connection.sendall(answer(path))

    got: list[bytes] = []
    with serving(serve) as server, Http(route=STRAIGHT) as http:
        ask = lambda n: got.append(http.get(server.url(f"/{n}"), limit=9).body)  # noqa: E731
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
    assert sorted(got) == sorted(f"/{n}".encode() for n in range(40))


def test_another_thread_may_close_a_stream() -> None:
    began = threading.Event()

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(CHUNKED + b"1\r\nx\r\n")
        connection.recv(1)

    def close() -> None:
        began.wait(HANG)
        incoming.close()

    with serving(serve) as server, Http(PATIENT, route=STRAIGHT) as http:
        incoming = http.open("GET", server.url())
        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(Unavailable):
            for _ in incoming:
                began.set()
        closer.join(HANG)


# ---- proxies and authorities

SECRETS = "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"


def test_the_environments_proxies_netrc_and_bundles_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password secret\n")
    netrc.chmod(0o600)
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(answer(b"ok"))

    with serving(sends(answer(b"a proxy's"))) as proxy, serving(serve) as server:
        for name in SECRETS:
            monkeypatch.setenv(name, proxy.url())
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
        with Http() as http:
            assert http.get(server.url(), limit=10).body == b"ok"
        assert proxy.connections == 0
    assert b"authorization" not in heads[0].lower()


@pytest.mark.parametrize("url_user", ["ada:won%40der", "ada:"])
def test_the_user_of_a_url_is_sent_to_its_host(url_user: str) -> None:
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(answer(b"ok"))

    with serving(serve) as server:
        url = server.url("/a?b=c#d").replace("//", f"//{url_user}@")
        assert get(url) == b"ok"
    said = base64.b64encode(unquote(url_user).encode())
    assert b"\r\nauthorization: Basic " + said + b"\r\n" in heads[0].replace(b"Auth", b"auth")
    assert heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\n") and b"ada" not in heads[0]


@pytest.mark.parametrize("size", [0, 1, 60_000, 70_000, 300_000])
def test_a_short_request_leaves_in_one_piece_and_a_long_one_whole(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    sent: list[int] = []
    send = socket.socket.sendall
    body = os.urandom(size)

    def serve(connection: socket.socket) -> None:
        data = head_of(connection)
        end = data.index(b"\r\n\r\n") + 4
        while len(data) < end + size:
            data += connection.recv(1 << 16)
        assert b"\r\ncontent-length: %d\r\n" % size in data[:end].lower()
        assert data[end:] == body
        connection.send(answer(b"ok"))

    def noted(self: socket.socket, data: bytes) -> None:
        sent.append(len(data))
        send(self, data)

    monkeypatch.setattr(socket.socket, "sendall", noted)
    with serving(serve) as server, Http(PATIENT, route=STRAIGHT) as http:
        assert http.post(server.url(), body, limit=LIMIT).body == b"ok"
    assert (len(sent) == 1) == (size <= 60_000)


Served = tuple[Path, ssl.SSLContext]
"""A CA bundle, and what a server of it for relay.example presents."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return authority(tmp_path_factory.mktemp("tls"), "relay.example")


def test_the_named_proxy_carries_https_and_sees_the_host_alone(
    monkeypatch: pytest.MonkeyPatch, tls: Served
) -> None:
    bundle, context = tls
    with serving(sends(answer(b"through")), tls=context) as server:
        tunnel = ConnectProxy(server.port)
        with serving(tunnel) as proxy:
            address = f"http://ada:wonder@127.0.0.1:{proxy.port}"
            monkeypatch.setenv("UMAY_HTTPS_PROXY", address)
            monkeypatch.setenv("UMAY_CA_BUNDLE", str(bundle))
            with Http(PATIENT) as http:
                url = "https://relay.example/secret/path"
                assert http.get(url, limit=10).body == b"through"
    head = tunnel.asked[0]
    assert head.startswith(b"CONNECT relay.example:443 ")
    assert b"roxy-Authorization: Basic" in head or b"roxy-authorization: Basic" in head
    assert b"secret/path" not in head + bytes(tunnel.carried)


def test_loopback_and_plain_http_never_go_through_the_proxy(tls: Served) -> None:
    bundle, _ = tls
    route = Route("http://127.0.0.1:1", bundle)
    with serving(sends(answer(b"ok"))) as server, Http(PATIENT, route=route) as http:
        assert http.get(server.url(), limit=10).body == b"ok"
    for url in ("https://localhost/", "https://127.0.0.9/", "https://[::1]/", "http://guest.lan/"):
        assert route.proxy_for(url) is None
    assert route.proxy_for("https://relay.example/") == "http://127.0.0.1:1"


def test_only_the_named_authorities_are_believed(tls: Served) -> None:
    _, context = tls
    with (
        serving(sends(answer(b"x")), tls=context) as server,
        serving(ConnectProxy(server.port)) as proxy,
        Http(PATIENT, route=Route(proxy.url(""))) as http,
        pytest.raises(Unavailable, match="certificate is not accepted") as told,
    ):
        http.get("https://relay.example/", limit=10)
    assert not told.value.again


def test_a_certificate_for_another_host_is_not_accepted(tls: Served) -> None:
    bundle, context = tls
    with (
        serving(sends(answer(b"x")), tls=context) as server,
        serving(ConnectProxy(server.port)) as proxy,
        Http(PATIENT, route=Route(proxy.url(""), bundle)) as http,
        pytest.raises(Unavailable, match=r"certificate is not accepted.*other\.example"),
    ):
        http.get("https://other.example/", limit=10)


PROXY_REFUSES = {
    "wants a password": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", False),
    "forbids the host": (b"HTTP/1.1 403 Forbidden\r\n\r\n", False),
    "has no way there": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", True),
    "is none": (b"220 mail.example ESMTP\r\n\r\n", False),
}


@pytest.mark.parametrize(("data", "again"), PROXY_REFUSES.values(), ids=PROXY_REFUSES)
def test_a_proxy_that_refuses_is_named_without_its_password(data: bytes, again: bool) -> None:
    with serving(ConnectProxy(1, refusal=data)) as proxy:
        route = Route(f"http://ada:wonder@127.0.0.1:{proxy.port}")
        with Http(PATIENT, route=route) as http, pytest.raises(Unavailable) as told:
            http.get("https://relay.example/", limit=10)
    assert f"through the proxy http://127.0.0.1:{proxy.port}" in str(told.value)
    assert "wonder" not in f"{told.value} {route!r}" and told.value.again is again


def test_a_proxy_that_drips_is_left() -> None:
    with (
        serving(drips(b"HTTP/1.1 200 ")) as proxy,
        Http(SHORT, route=Route(proxy.url(""))) as http,
        pytest.raises(Unavailable, match=r"proxy .*no connection within 0\.3 s"),
    ):
        http.get("https://relay.example/", limit=10)


@pytest.mark.parametrize(
    "proxy",
    [
        "proxy.example:3128",
        "socks5://p:1",
        "http://",
        "http://p/path",
        "http://p:x",
        "ftp://p",
        "p",
    ],
)
def test_what_is_no_proxy_is_refused_before_anything_is_asked(proxy: str) -> None:
    with pytest.raises(UsageError, match="UMAY_HTTPS_PROXY"):
        Route.from_environment({"UMAY_HTTPS_PROXY": proxy})


def test_what_is_no_bundle_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("nothing\n")
    for path in (tmp_path / "none.pem", other, tmp_path):
        with pytest.raises(UsageError, match="UMAY_CA_BUNDLE"):
            Route.from_environment({"UMAY_CA_BUNDLE": str(path)})
    assert Route.from_environment({"UMAY_CA_BUNDLE": "", "UMAY_HTTPS_PROXY": ""}) == Route()


# ---- what is said


def test_a_portals_page_is_told_with_the_address_and_what_came() -> None:
    page = b"<!DOCTYPE html>\n<html><head><title>Login \x1b[31m</title></head>" + b"x" * 9999
    with serving(sends(answer(page, "content-type: text/html; charset=utf-8"))) as server:
        with pytest.raises(Unavailable) as told:
            get(server.url("/umay/"))
        assert str(told.value) == (
            f"{server.url('/umay/')}: expected data, got a web page, text/html: 'Login [31m'"
        )
        with Http(route=STRAIGHT) as http, pytest.raises(Unavailable, match="a web page"):
            http.ask("GET", server.url("/umay/"), limit=LIMIT).json()


@pytest.mark.parametrize("body", [b"Please log in", b"", b"[" * 50_000, b"\xff\xfe" * 30])
def test_what_is_no_json_is_told_with_the_address_and_what_came(body: bytes) -> None:
    with (
        serving(sends(answer(body, "content-type: text/plain"))) as server,
        Http(route=STRAIGHT) as http,
        pytest.raises(Unavailable) as told,
    ):
        http.get(server.url("/x"), limit=LIMIT).json()
    text = str(told.value)
    assert text.startswith(f"expected JSON from {server.url('/x')}, got text/plain")
    assert len(text) < 250 and text.isprintable()


@pytest.mark.parametrize(("status", "kind"), [(404, NotThere), (410, NotThere), (500, Unavailable)])
def test_statuses(status: int, kind: type[Unavailable]) -> None:
    with (
        serving(sends(answer(b"", status=f"{status} X"))) as server,
        pytest.raises(Unavailable, match=str(status)) as told,
    ):
        get(server.url())
    assert type(told.value) is kind


SHOWN = {
    "https://a.example/x?size=1": "https://a.example/x?size=1",
    "https://ada:wonder@a.example/": "https://a.example/",
    "https://a.example/?api_key=s3cret&to=1": "https://a.example/?api_key=…&to=1",
    "https://a.example/?access_token=s3cret": "https://a.example/?access_token=…",
    "https://a.example/?X-Amz-Signature=s3cret": "https://a.example/?X-Amz-Signature=…",
    "https://a.example/?apikey=s3cret#frag": "https://a.example/?apikey=…",
    "https://a.example/\x1b[2J": "https://a.example/ [2J",
    "http://[::1": "http://[::1",
}


@pytest.mark.parametrize("url", SHOWN)
def test_urls_are_shown_without_secrets(url: str) -> None:
    assert redacted_url(url) == SHOWN[url]


def test_a_secret_of_the_url_is_in_no_error() -> None:
    with serving(sends(answer(b"", status="500 X"))) as server:
        for url in (server.url("/?api_key=s3cret"), "http://127.0.0.1:1/?token=s3cret"):
            with pytest.raises(Unavailable) as told:
                get(url)
            assert "s3cret" not in f"{told.value!r} {told.value.__cause__!r}"


@settings(max_examples=40)
@given(st.binary(max_size=600), st.text(max_size=20))
def test_what_came_is_short_and_printable(body: bytes, media_type: str) -> None:
    assert printable(answer_summary(printable(media_type, 30), body), 500).isprintable()
    assert len(answer_summary("", body)) < 400
    is_page(body)


def test_an_xml_document_is_no_page_and_xhtml_is() -> None:
    prolog = b'<?xml version="1.0" encoding="utf-8"?>\n'
    assert not is_page(prolog + b"<SoftwareIdentity/>") and not is_page(b'{"a": "<html>"}')
    assert is_page(prolog + b"<!DOCTYPE html><html>") and is_page(b"\n<!-- x --><HTML>")


@pytest.mark.parametrize(
    "url", ["", "ftp://a/", "http://", "http:///x", "http://a:99999/", "http://[::1/", "a.example"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        get(url)


def test_a_refused_connection_and_an_unknown_name_are_said_so() -> None:
    with pytest.raises(Unavailable, match="refused") as told:
        get("http://127.0.0.1:1/")
    assert told.value.again
    with pytest.raises(Unavailable, match="cannot be resolved"):
        get("http://nowhere.invalid/")


HERE = ("localhost", "127.1.2.3", "::1", "[::1]")
ELSEWHERE = ("localhost.example", "127.0.0.1.example", "10.0.0.1", "::", "")


@pytest.mark.parametrize(("host", "here"), [(h, h in HERE) for h in HERE + ELSEWHERE])
def test_loopback(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_of_a_names_many_addresses_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def connect(sock: socket.socket, address: object) -> None:
        tried.append(address)
        raise ConnectionRefusedError("Connection refused")

    one = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [one] * 100)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(Unavailable, match="refused"):
        get("http://many.example/")
    assert len(tried) == MAX_ADDRESSES


# ---- asking again


def failing(*errors: Unavailable) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return ask


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("attestation.net.retry.time.sleep", slept.append)
    return slept


def test_pauses_grow_and_are_never_shorter_than_asked(pauses: list[float]) -> None:
    busy, slow = Unavailable("", again=True), Unavailable("", again=True, retry_after=3)
    assert with_retries(failing(busy, slow, busy), pause=0.5) == "done"
    assert pauses == [0.5, 3, 2.0]


def test_after_the_last_try_its_error_is_raised(pauses: list[float]) -> None:
    errors = [Unavailable(str(n), again=True) for n in range(9)]
    with pytest.raises(Unavailable, match="3"):
        with_retries(failing(*errors), tries=4)
    assert len(pauses) == 3


def test_what_stays_so_and_what_takes_too_long_is_not_asked_again(pauses: list[float]) -> None:
    for error in (Unavailable("no"), Unavailable("later", again=True, retry_after=11)):
        with pytest.raises(Unavailable):
            with_retries(failing(error), longest=10)
    assert not pauses


WAITS = {"3": 3.0, " 120 ": 120.0, "0": 0.0, "Wed, 21 Oct 2015 07:28:00 GMT": 0.0}
NO_WAITS: tuple[str | None, ...] = (None, "", "soon", "-1", "1e3", "9" * 40, "½")


@pytest.mark.parametrize(
    ("value", "seconds"), [*WAITS.items(), *((value, None) for value in NO_WAITS)]
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_nothing_heavy_is_loaded_with_the_module() -> None:
    code = (
        "import sys, attestation.net.http as h, attestation.net.retry, attestation.net.route; "
        "h.Http(); print([m for m in ('requests', 'urllib3', 'ssl', 'http.client') "
        "if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
