"""Who may ask an agent's feed: its guest and its host, and no web page. Over real HTTP."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from attestation.errors import Unavailable, UsageError
from attestation.formats import cbor
from enclave.host import feed
from enclave.host.agent import Agent
from enclave.host.cli import host
from tests.helpers.host_parts import Answer, Net, ask
from tests.helpers.places import ROOT
from tests.helpers.raw_server import answer, head_of, serving
from tests.helpers.respelt import RESPELT, respelt

READS = ("/beacon", "/anchored", "/collateral", "/ending")
TOKEN = "t" * 43


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    net = Net(tmp_path_factory.mktemp("feed") / "log")
    net.make_ready()
    yield net
    net.close()


@pytest.fixture
def retired(net: Net, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each retirement that got through."""
    done: list[int] = []

    def retire() -> int:
        done.append(7)
        return 7

    monkeypatch.setattr(net.registrar, "retire", retire)
    return done


def retire(net: Net, **headers: str) -> Answer:
    return ask(net.feed, "/retire", method="POST", **headers)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def test_the_host_retires_its_guest_with_the_token(net: Net, retired: list[int]) -> None:
    answer = retire(net, **net.bearer)
    assert (answer.status, json.loads(answer.body)) == (200, {"entry": 7})
    assert retired == [7]


WRONG_TOKENS = {
    "no token": {},
    "wrong token": {"authorization": "Bearer " + "x" * 43},
    "token and more": {"authorization": f"Bearer {TOKEN}t"},
    "part of the token": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "empty token": {"authorization": "Bearer "},
    "token of another scheme": {"authorization": f"Basic {TOKEN}"},
    "token alone": {"authorization": TOKEN},
    "token beyond ASCII": {"authorization": "Bearer tést"},
}


@pytest.mark.parametrize("headers", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
@pytest.mark.parametrize(("method", "path"), [("POST", "/retire"), ("GET", "/status")])
def test_what_only_the_host_may_do_needs_its_token(
    net: Net, retired: list[int], headers: dict[str, str], method: str, path: str
) -> None:
    answer = ask(net.feed, path, method=method, **headers)
    assert code(answer) == (401, "wrong-token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not retired


@pytest.mark.parametrize("spelling", RESPELT)
@pytest.mark.parametrize(("method", "name"), [("POST", "retire"), ("GET", "status")])
def test_a_path_that_is_spelt_otherwise_is_none(
    net: Net, retired: list[int], method: str, name: str, spelling: str
) -> None:
    for headers in ({}, net.bearer):
        answer = ask(net.feed, respelt(spelling, f"/{name}"), method=method, **headers)
        assert (answer.status, "location" in answer.headers) == (404, False)
    assert not retired


@pytest.mark.parametrize(("method", "path"), [("POST", "/retire%0A"), ("GET", "/status%0A")])
def test_by_no_path_is_a_route_of_the_host_reached_without_the_token(
    net: Net, retired: list[int], method: str, path: str
) -> None:
    """Also where it is served without the set-up that refuses such a path."""
    agent = Agent(net.registrar, guest="", log="", chain=net.chain)
    client = TestClient(agent.feed(listen="localhost:1", token=TOKEN), "http://localhost")
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "wrong-token")
    assert not retired


@pytest.mark.parametrize("fails", [None, Unavailable("gone")])
def test_the_feed_names_the_boot_that_is_ending_while_the_guest_is_asked(
    net: Net, monkeypatch: pytest.MonkeyPatch, fails: Exception | None
) -> None:
    named: list[object] = []

    def ending() -> object:
        return cbor.decode(ask(net.feed, "/ending").body)

    def submit(url: str, _: bytes) -> bytes:
        assert url.endswith(f"/umay/{net.guest.boot_id}/retire")
        named.append(ending())
        if fails:
            raise fails
        return b"word"

    assert ending() == []
    monkeypatch.setattr(net.registrar._peer, "submit", submit)
    with pytest.raises(Unavailable) if fails else nullcontext():
        assert net.registrar._word_of(net.guest.boot_id) == b"word"
    assert (named, ending()) == ([[bytes.fromhex(net.guest.boot_id)]], [])


BROWSERS = {
    "Origin of a page": {"origin": "https://evil.example"},
    "Origin that is hidden": {"origin": "null"},
    "Origin of the feed itself": {"origin": "http://127.0.0.1"},
    "empty Origin": {"origin": ""},
    "another site's fetch": {"sec_fetch_site": "cross-site"},
    "its own fetch": {"sec_fetch_site": "same-origin"},
    "an address typed in": {"sec_fetch_site": "none"},
}
FOREIGN = {
    "name that is pointed here": "evil.example",
    "name with a port": "evil.example:8401",
    "name that begins well": "localhost.evil.example",
    "name that begins as an address": "127.0.0.1.evil.example",
    "user before a name": "localhost@evil.example",
    "path after a name": "evil.example/127.0.0.1",
    "nothing": "",
    "two names": "localhost, evil.example",
}


@pytest.mark.parametrize("headers", BROWSERS.values(), ids=BROWSERS)
@pytest.mark.parametrize("path", [*READS, "/retire", "/status"])
def test_no_browser_is_served(
    net: Net, retired: list[int], headers: dict[str, str], path: str
) -> None:
    method = "POST" if path == "/retire" else "GET"
    assert code(ask(net.feed, path, method=method, **net.bearer, **headers)) == (403, "browser")
    assert not retired


@pytest.mark.parametrize("host", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", [*READS, "/retire", "/status"])
def test_no_other_name_is_served(net: Net, retired: list[int], host: str, path: str) -> None:
    method = "POST" if path == "/retire" else "GET"
    answer = ask(net.feed, path, method=method, **net.bearer, host=host)
    assert code(answer) == (403, "wrong-host")
    assert not retired


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:1", "127.0.0.1:8401", "[::1]:8401", "10.0.2.2:8401", "[fe80::1]"],
)
@pytest.mark.parametrize("path", READS)
def test_the_guest_reads_by_address_without_a_token(net: Net, host: str, path: str) -> None:
    assert ask(net.feed, path, host=host).status == 200


def test_no_page_learns_anything_of_the_feed(net: Net) -> None:
    asked = {"origin": "https://a.example", "access_control_request_method": "POST"}
    for path in (*READS, "/retire", "/status"):
        for got in (
            ask(net.feed, path, method="OPTIONS", **asked),
            ask(net.feed, path, **net.bearer),
        ):
            assert not [name for name in got.headers if name.startswith("access-control")]


def test_the_name_it_listens_on_is_its_own() -> None:
    from starlette.requests import Request

    def refusal(host: str, listen: str) -> object:
        scope = {"type": "http", "path": "/beacon", "headers": [(b"host", host.encode())]}
        return feed._refusal(Request(scope), listen)

    assert refusal("feed.internal:8401", "feed.Internal:1") is None
    assert refusal("feed.internal:8401", "127.0.0.1:8401") is not None


# The token file


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "feed.token"
    token = feed.make_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert feed.make_token(path) == feed.read_token(path) == token
    assert len(token) >= feed.MIN_TOKEN and feed.make_token(tmp_path / "other") != token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_token_file_with_too_open_a_mode_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "feed.token"
    feed.make_token(path)
    path.chmod(mode)
    for read in (feed.make_token, feed.read_token):
        with pytest.raises(UsageError, match="expected mode 0600"):
            read(path)


BAD_FILES = {
    "short": b"x" * 31 + b"\n",
    "empty": b"",
    "not ASCII": "é".encode() * 40,
    "two lines": b"x" * 40 + b"\n" + b"y" * 40,
    "endless": b"x" * 300,
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "feed.token"
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (feed.make_token, feed.read_token):
        with pytest.raises(UsageError, match=str(path)):
            read(path)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    feed.make_token(tmp_path / "real")
    os.symlink(tmp_path / "real", tmp_path / "link")
    with pytest.raises(UsageError, match="link"):
        feed.make_token(tmp_path / "link")


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file"):
        feed.make_token(tmp_path / "file" / "feed.token")


def command(url: str, token_file: Path) -> subprocess.CompletedProcess[str]:
    words = ["host", "retire", "--feed", url, "--token-file", str(token_file)]
    return subprocess.run(
        [sys.executable, "-m", "client_sdk", *words],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
    )


def test_the_command_reads_the_token(net: Net, retired: list[int], tmp_path: Path) -> None:
    path = tmp_path / "feed.token"
    missing = command(net.feed, path)
    assert missing.returncode == 2 and str(path) in missing.stderr
    feed.make_token(path)
    other = command(net.feed, path)
    assert other.returncode == 4 and "wrong-token" in other.stderr
    assert not retired
    path.write_text(net.token)
    good = command(net.feed, path)
    assert (good.returncode, json.loads(good.stdout)) == (0, {"retired": True, "entry": 7})
    assert retired == [7]


def test_the_feed_still_says_what_it_said(net: Net) -> None:
    assert cbor.decode(ask(net.feed, "/anchored").body)
    status = json.loads(ask(net.feed, "/status", **net.bearer).body)
    assert status["ready"] is True


# What the command makes of an agent's answer


@pytest.mark.parametrize(
    ("body", "came"),
    [
        (b"[]", "got a list"),
        (b"null", "got null"),
        (b"7", "got a number"),
        (b'"done"', "got a text"),
        (b"true", "got true or false"),
        (b"done", "expected JSON, got other bytes"),
        (b"[" * 5000, "expected JSON"),
    ],
)
def test_an_answer_that_is_no_object_retires_nothing(
    tmp_path: Path, body: bytes, came: str
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(body))

    with serving(serve) as agent:
        words = ["retire", "--feed", agent.url(), "--token-file", str(token)]
        done = CliRunner().invoke(host, words)
    assert isinstance(done.exception, Unavailable), done
    assert "retired" not in done.output
    with pytest.raises(Unavailable, match=f"^{agent.url()}retire: .*{came}"):
        raise done.exception


def test_an_agent_cannot_deny_in_its_answer_that_it_retired(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer(b'{"index": 7, "retired": false}'))

    with serving(serve) as agent:
        words = ["retire", "--feed", agent.url(), "--token-file", str(token)]
        done = CliRunner().invoke(host, words)
    assert json.loads(done.output) == {"index": 7, "retired": True}
