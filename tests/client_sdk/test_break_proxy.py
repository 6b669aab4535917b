"""The proxy's door, knocked at with raw bytes: odd hosts, no redirect, no trace in a log."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from attestation.errors import Truncated
from client_sdk.proxy import answers
from tests.client_sdk.test_client_proxy import TOKEN, address, enclave
from tests.helpers.fake_enclave import FakeClient, FakeEnclave, Script
from tests.helpers.waiting import HANG_S

__all__ = ["address", "enclave"]

GOOD = [
    b"127.0.0.1",
    b"127.0.0.1:8080",
    b"localhost",
    b"LOCALHOST",
    b"LocalHost:80",
    b"localhost:1",
    b"[::1]",
    b"[::1]:8080",
]
BAD = {
    "another host": b"evil.example",
    "a name that begins like ours": b"127.0.0.1.evil.example",
    "all addresses": b"0.0.0.0",
    "half an address": b"[::1",
    "a path": b"localhost/evil",
    "a fragment": b"localhost#evil",
    "a query": b"localhost?evil",
    "a user": b"evil.example@localhost",
    "a port in words": b"localhost:http",
    "a future address": b"[v1.x]",
    "not ASCII": b"\xff",
    "nothing": b"",
}


@pytest.fixture(autouse=True)
def whole(enclave: FakeEnclave) -> Iterator[None]:
    enclave.script = Script(pieces=[b"{}"], media_type="application/json")
    yield


ASKED = b'{"model":"demo"}'


def ask(
    address: str, host: bytes, *, path: bytes = b"/v1/chat/completions", token: str = TOKEN
) -> bytes:
    """The head and some of the body of an answer."""
    url = urlsplit(address)
    with socket.create_connection((url.hostname, url.port), timeout=HANG_S) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s"
            % (path, host, token.encode("latin-1"), len(ASKED), ASKED)
        )
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    return answer


@pytest.mark.parametrize("host", GOOD)
def test_this_machine_by_its_names(address: str, host: bytes) -> None:
    assert ask(address, host).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", BAD.values(), ids=BAD)
def test_any_other_host_is_refused(address: str, host: bytes, enclave: FakeEnclave) -> None:
    assert ask(address, host).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))
    assert enclave.script.seen == []


def test_no_redirect_to_the_host_that_was_named(address: str) -> None:
    answer = ask(address, b"evil.example", path=b"/v1/chat/completions/")
    assert answer.startswith(b"HTTP/1.1 404") and b"evil" not in answer


def test_a_token_that_is_no_ascii(address: str) -> None:
    assert ask(address, b"localhost", token="\xff\xfe").startswith(b"HTTP/1.1 401")


def test_what_nobody_expected_is_told_without_its_text(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret prompt")

    monkeypatch.setattr(FakeClient, "request", broken)
    answer = ask(address, b"localhost")
    assert answer.startswith(b"HTTP/1.1 500") and b"internal" in answer and b"secret" not in answer
    assert "secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("error", [Truncated("answer truncated: cut"), RuntimeError("secret")])
def test_a_stream_that_breaks_ends_in_an_error_event(error: Exception) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'data: {"choices":[]}\n\n'
        raise error

    sent = b"".join(answers.until_cut(pieces()))  # type: ignore[arg-type]
    assert b'"error"' in sent and b"secret" not in sent and b"[DONE]" not in sent
