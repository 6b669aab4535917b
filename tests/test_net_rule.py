"""One rule for whoever asks over HTTP, in every room: bounded in time and bytes, straight
unless a proxy is named, following nothing, unpacking nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attestation.errors import ChannelError, UmayError, Unavailable
from attestation.log.note import COSIGNATURE, VerifierKey
from attestation.net.timing import Deadlines
from attestation.vendors.fetch import HttpFetcher
from client_sdk import async_transport, transport
from client_sdk.async_transport import AsyncTransport
from client_sdk.transport import Transport
from contracts import log_client
from contracts.chain import ToncenterV2
from contracts.localnet import process
from contracts.logservice import witnessing
from enclave.host import peer
from tests.helpers.raw_server import answer, head_of, serving

SECONDS = 0.3
STEP = 0.02


def stream(url: str) -> None:
    opened = Transport(read_seconds=SECONDS).stream(url, b"sealed", {})
    with contextlib.closing(opened):
        if opened.status != 200:
            raise Unavailable(f"{url}: {opened.status}")
        list(opened)


def cosign(url: str) -> None:
    key = VerifierKey("witness.example", bytes(32), COSIGNATURE)
    status, _, _ = witnessing.RemoteWitness(url, key)._post(b"")
    if status != 200:
        raise Unavailable(f"{url}: {status}")


async def read_async(url: str) -> None:
    reader = AsyncTransport()
    try:
        await reader.get(url)
    finally:
        await reader.close()


async def post_async(url: str) -> None:
    poster = AsyncTransport()
    try:
        await poster.post(url, b"nonce")
    finally:
        await poster.close()


async def stream_async(url: str) -> None:
    asker = AsyncTransport(read_seconds=SECONDS)
    try:
        opened = await asker.stream(url, b"sealed", {})
        if opened.status != 200:
            opened.close()
            raise Unavailable(f"{url}: {opened.status}")
        while await opened.piece(time.monotonic() + SECONDS, "nothing came"):
            pass
    finally:
        await asker.close()


ASKERS: dict[str, Callable[[str], object]] = {
    "a client's read": lambda url: Transport().get(url),
    "a client's session": lambda url: Transport().post(url, b"nonce"),
    "a watcher's webhook": lambda url: Transport().notify(url, b"{}"),
    "a client's sealed request": stream,
    "an asynchronous read": lambda url: asyncio.run(read_async(url)),
    "an asynchronous session": lambda url: asyncio.run(post_async(url)),
    "an asynchronous sealed request": lambda url: asyncio.run(stream_async(url)),
    "a vendor's collateral": lambda url: HttpFetcher(Deadlines(whole=SECONDS), tries=1).get(
        url, limit=100
    ),
    "a chain": lambda url: ToncenterV2(url, timeout=SECONDS).send_boc(b""),
    "a log's reader": log_client.fetch,
    "a log's submitter": lambda url: log_client.submit(url, b""),
    "a log and its witness": cosign,
    "the embedded chain's faucet": lambda url: process.faucet(url, f"0:{'0' * 64}", 1),
    "a host and its guest": lambda url: peer.Peer().get(url),
    "a host and its log": lambda url: peer.Peer().submit(url, b""),
}
MAY_LAST = (
    "a watcher's webhook",
    "a client's sealed request",
    "an asynchronous sealed request",
)
"""The first looks at no body; a stream may last, while its pieces come."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_SECONDS", SECONDS)
    monkeypatch.setattr(async_transport, "ANSWER_SECONDS", SECONDS)
    monkeypatch.setattr(log_client, "HTTP_SECONDS", SECONDS)
    monkeypatch.setattr(witnessing, "SECONDS", SECONDS)
    monkeypatch.setattr(process, "LOCAL_TIMEOUT", SECONDS)
    monkeypatch.setattr(peer, "TIMEOUT_S", SECONDS)


def drips(start: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(STEP)

    return serve


def failed(name: str, url: str) -> UmayError:
    with pytest.raises(UmayError) as told:
        ASKERS[name](url)
    assert isinstance(told.value, Unavailable | ChannelError), told.value
    return told.value


@pytest.mark.parametrize("name", ASKERS)
def test_a_head_that_drips_is_left(name: str) -> None:
    with serving(drips(b"HTTP/1.1 200 OK\r\na: ")) as server:
        assert f"within {SECONDS} s" in str(failed(name, server.url()))


@pytest.mark.parametrize("name", [name for name in ASKERS if name not in MAY_LAST])
def test_a_body_that_drips_is_left(name: str) -> None:
    with serving(drips(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")) as server:
        told = str(failed(name, server.url()))
    assert f"no whole answer within {SECONDS} s" in told or "at most" in told


@pytest.mark.parametrize("name", ASKERS)
def test_a_redirect_goes_nowhere(name: str) -> None:
    with serving(lambda connection: connection.sendall(answer(b"there"))) as other:
        moved = answer(b"", f"location: {other.url()}", status="307 Moved")

        def serve(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(moved)

        with serving(serve) as server:
            assert "307" in str(failed(name, server.url()))
        assert other.connections == 0


@pytest.mark.parametrize("name", ASKERS)
def test_a_compressed_answer_is_refused(name: str) -> None:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(gzip.compress(b"x"), "content-encoding: gzip"))

    with serving(serve) as server:
        assert "encoding" in str(failed(name, server.url()))


@pytest.mark.parametrize("name", ASKERS)
def test_the_environments_proxy_sees_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ada password wonder\n")
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        heads.append(head_of(connection))

    with serving(lambda connection: None) as proxy, serving(serve) as server:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url())
            monkeypatch.setenv(variable.lower(), proxy.url())
        monkeypatch.setenv("NETRC", str(netrc))
        failed(name, server.url())
        assert proxy.connections == 0 and heads
    head = heads[0].lower()
    assert b"\r\nuser-agent: umay\r\n" in head and b"\r\naccept-encoding: identity\r\n" in head
    assert b"authorization" not in head and b"cookie" not in head


def test_a_sealed_answer_that_breaks_is_truncated_and_shows_nothing_of_it() -> None:
    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(b"<html>ciphertext", length=99))

    with serving(serve) as server, pytest.raises(ChannelError, match="truncated") as told:
        stream(server.url())
    assert "ciphertext" not in str(told.value)


def test_a_webhooks_address_is_never_shown() -> None:
    with pytest.raises(Unavailable, match=r"webhook at 127\.0\.0\.1: .*refused") as told:
        Transport().notify("http://127.0.0.1:1/services/s3cret", b"{}")
    assert "s3cret" not in f"{told.value!r} {told.value.__cause__!r}"
