"""Callers of the proxy who leave: the enclave is left at once, and is not blamed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from attestation.net.leaving import LEAVING, Leaving, Left
from client_sdk.transport import Transport
from tests.client_sdk.test_client_session import BODY
from tests.helpers.fake_enclave import PIECES, FakeClient, FakeEnclave
from tests.helpers.proxies import TOKEN, proxy_of
from tests.helpers.raw_server import head_of, pump, serving
from tests.helpers.waiting import HANG_S, wait_for

SILENCE = 20.0
"""Seconds; nobody waits for their end."""

QUESTION = b'{"model":"demo"}'
HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    f"content-length: {len(QUESTION)}\r\n\r\n"
).encode()


class Relay:
    """Before `enclave`. `reached` and `left`: whether the client came, and has gone."""

    def __init__(self, enclave: FakeEnclave | None) -> None:
        self._enclave = enclave
        self.reached, self.left = threading.Event(), threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        if self._enclave is None:
            head_of(connection)
            self.reached.set()
            while connection.recv(1 << 16):
                pass
        else:
            with socket.create_connection(
                ("127.0.0.1", self._enclave.server.server_port)
            ) as onward:
                threading.Thread(target=self._back, args=(onward, connection), daemon=True).start()
                pump(connection, onward)
        self.left.set()

    def _back(self, onward: socket.socket, connection: socket.socket) -> None:
        connection.sendall(onward.recv(1 << 16))
        self.reached.set()
        pump(onward, connection)


@contextmanager
def asked(client: FakeClient) -> Iterator[socket.socket]:
    with proxy_of(client) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as caller:
            caller.sendall(HEAD + QUESTION)
            yield caller


@pytest.mark.parametrize("media_type", ["", "application/json", "text/event-stream"])
def test_a_caller_who_leaves_is_waited_for_no_longer(ada: FakeEnclave, media_type: str) -> None:
    """Before an answer has begun, within a whole one, and within a stream that is silent."""
    ada.script.media_type, ada.script.pause, ada.script.pieces = media_type, SILENCE, PIECES
    relay = Relay(ada if media_type else None)
    client = FakeClient([ada])
    with serving(relay) as server:
        ada.move(server.url("").rstrip("/"))
        with asked(client) as caller:
            assert relay.reached.wait(HANG_S)
            while media_type.startswith("text") and b"data:" not in caller.recv(1 << 16):
                pass
            caller.close()
            assert relay.left.wait(HANG_S)
            wait_for(lambda: all(not machine.busy for machine in client._chooser._warm.values()))
        assert client.machines() and not client._chooser._resting, "it has not failed"


def test_who_has_left_sends_nothing_and_others_go_on(ada: FakeEnclave) -> None:
    leaving = Leaving()
    with FakeClient([ada]) as client:
        client.chat(BODY).read()
        LEAVING.set(leaving)
        ada.script.pause = 0.05
        answer = client.chat(BODY)
        leaving.leave()
        with pytest.raises(Left):
            answer.read()
        with pytest.raises(Left):
            client.chat(BODY)
        LEAVING.set(None)
        ada.script.pause = 0.0
        assert client.chat(BODY).read() and ada.script.opened == 3


def test_a_connection_that_was_given_back_is_not_ended() -> None:
    leaving = Leaving()
    left, right = socket.socketpair()
    with closing(left), closing(right):
        with leaving.waiting(left):
            pass
        leaving.leave()
        left.sendall(b"on")
        assert right.recv(2) == b"on"
        with pytest.raises(Left), leaving.waiting(left):
            pass


def test_the_search_of_all_is_not_given_up_for_one(ada: FakeEnclave) -> None:
    """What one asks in the clear may be for others who wait for it too."""
    leaving, transport = Leaving(), Transport()
    leaving.leave()
    LEAVING.set(leaving)
    try:

        def serve(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        with serving(serve) as server, closing(transport):
            assert transport.get(server.url()) == b"{}"
            with pytest.raises(Left):
                transport.stream(server.url(), b"sealed", {})
            assert server.connections == 1
    finally:
        LEAVING.set(None)
