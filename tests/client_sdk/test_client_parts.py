"""The client's small parts: events, leak_search, listings, configs, ports, child processes."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotThere, ParseError, UmayError, Unavailable, UsageError
from attestation.trust.policy import Policy
from client_sdk import config, pricing, sse
from client_sdk.localnet import leak_search, netfiles
from client_sdk.localnet.netfiles import GuestSpec, NetworkFiles, PolicyFacts
from client_sdk.localnet.supervisor import Supervisor
from client_sdk.presented import fetch_places
from client_sdk.transport import log_url
from tests.helpers.waiting import HANG_S

SECRET = "Why does the moon change its shape, Grandmother?"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n: xxxx\n\n'
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n'
    b'data: {"choices":[{"delta":{}}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n: xx\n\n'
)


@given(st.lists(st.integers(0, 400)))
def test_events_come_out_however_they_were_cut(cuts: list[int]) -> None:
    assert "".join(sse.deltas(split(STREAM, cuts))) == "ab"
    assert b"".join(sse.done_last(split(STREAM, cuts))) == STREAM


@given(st.lists(st.integers(0, 400)))
def test_the_end_mark_is_kept_back_until_all_is_well(cuts: list[int]) -> None:
    def broken():
        yield from split(STREAM, cuts)
        raise ParseError("broken")

    seen = b""
    with pytest.raises(ParseError):
        for piece in sse.done_last(broken()):
            seen += piece
    assert b"[DONE]" not in seen
    assert seen.endswith(b'data: {"choices":[]}\n\n')


@given(st.binary(max_size=200))
def test_arbitrary_events_raise_nothing_else(data: bytes) -> None:
    try:
        list(sse.deltas([data, b"\n"]))
    except UmayError:
        pass


@pytest.mark.parametrize(
    "form",
    [
        lambda t: t.encode(),
        lambda t: t.upper().encode(),
        lambda t: json.dumps({"content": t}).encode(),
        lambda t: t.encode().hex().encode(),
        lambda t: t.encode().hex().upper().encode(),
        lambda t: base64.b64encode(t.encode()),
        lambda t: base64.b64encode(b"x" + t.encode()),
        lambda t: base64.urlsafe_b64encode(b"xy" + t.encode() + b"tail"),
        lambda t: t[7:40].encode(),
    ],
    ids=["plain", "upper", "json", "hex", "HEX", "base64", "base64+1", "base64+2", "a part"],
)
def test_plaintext_is_found_in_every_form(form) -> None:
    record = os.urandom(5000) + form(SECRET) + os.urandom(5000)
    assert leak_search.contains_secret(record, (SECRET,))


def test_ciphertext_is_no_plaintext() -> None:
    assert not leak_search.contains_secret(
        os.urandom(200_000), (SECRET, "Another secret that is long enough.")
    )


def test_json_escapes_are_searched() -> None:
    text = "Çok güzel bir gün, değil mi?"
    assert leak_search.contains_secret(json.dumps(text).encode(), (text,))


def test_offers_without_prices_come_last() -> None:
    tables = [b"{}", b'{"prompt":5,"completion":9}', b"[", b'{"prompt":1,"completion":2}', b"[1]"]
    ordered = sorted(tables, key=pricing.claimed_offer)
    assert ordered[:2] == [tables[3], tables[1]]


def test_a_log_is_reached_by_https_beyond_this_machine() -> None:
    assert log_url("127.0.0.1:80/log") == "http://127.0.0.1:80/log"
    assert log_url("[::1]:80/log") == "http://[::1]:80/log"
    assert log_url("log.example/a") == "https://log.example/a"
    assert log_url("127.0.0.1.example/log") == "https://127.0.0.1.example/log"


class Listing:
    def __init__(self, body: bytes) -> None:
        self.body = body

    def get(self, url: str, *, limit: int) -> bytes:
        return self.body


def test_a_listing_cannot_send_the_client_elsewhere() -> None:
    item = {"boot": "ab" * 16, "state": "ready", "base": "https://evil.example/"}
    places = fetch_places(Listing(json.dumps({"boots": [item]}).encode()), "http://127.0.0.1:9/")
    assert [place.base for place in places] == [f"http://127.0.0.1:9/umay/{'ab' * 16}/"]


def test_a_guests_own_url_lists_it_alone() -> None:
    places = fetch_places(Listing(b""), f"http://127.0.0.1:9/umay/{'cd' * 16}/")
    assert [place.boot for place in places] == ["cd" * 16]


@pytest.mark.parametrize("boot", ["CD" * 16, "cd" * 15, "cd" * 17, "x", f"{'cd' * 16}/evidence"])
def test_a_url_that_names_no_boot_is_refused(boot: str) -> None:
    with pytest.raises(UsageError, match="32 lower-case hex digits"):
        fetch_places(Listing(b""), f"http://127.0.0.1:9/umay/{boot}")


@pytest.mark.parametrize("before", ["", "/relay", "/umay-relay"])
def test_a_relay_may_stand_below_a_path(before: str) -> None:
    body = json.dumps({"boots": [{"boot": "ab" * 16, "state": "ready"}]}).encode()
    for after in ("", "/", "/umay", "/umay/"):
        (place,) = fetch_places(Listing(body), f"http://127.0.0.1:9{before}{after}")
        assert place.base == f"http://127.0.0.1:9{before}/umay/{'ab' * 16}/"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"boots":[{"boot":"../../x","state":""}]}', b'{"boots":[1]}', b"{}"]
)
def test_bad_listings_are_refused(body: bytes) -> None:
    with pytest.raises(ParseError):
        fetch_places(Listing(body), "http://127.0.0.1:9")


def test_saved_settings_fill_what_was_not_given(tmp_path: Path) -> None:
    saved = config.Config("http://127.0.0.1:1", "http://127.0.0.1:2", tmp_path / "policy.toml")
    (tmp_path / config.NAME).write_text(saved.to_toml())
    assert config.load(url=None, chain=None, policy=None, directory=tmp_path) == replace(
        saved, network=tmp_path
    )
    given_one = config.load(url="http://x", chain=None, policy=None, directory=tmp_path)
    assert given_one.url == "http://x" and given_one.chain == saved.chain


def test_without_settings_the_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--chain"):
        config.load(url="http://x", chain=None, policy=None, directory=tmp_path)


FACTS = PolicyFacts(
    contract="0:" + "ab" * 32,
    code_hash="11" * 32,
    origin="127.0.0.1:1/log",
    log_key="22" * 32,
    roots=dict.fromkeys(("intel", "nvidia_device", "nvidia_rim"), "33" * 32),
    model_name="umay-demo",
    model_digest="44" * 32,
    releases=(("local-1", "55" * 32, ()), ("local-2", "66" * 32, ("77" * 32,))),
)


def test_the_written_policy_is_one_and_says_simulated() -> None:
    policy = Policy.from_toml(netfiles.policy_toml(FACTS).encode())
    assert policy.roots.simulated
    assert policy.releases[0].engine_configs is None
    assert policy.releases[1].engine_configs == {b"\x77" * 32}


def test_the_model_digest_is_over_names_sizes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    first = netfiles.digest_of(tmp_path)
    (tmp_path / "a.json").write_bytes(b"[]")
    second = netfiles.digest_of(tmp_path)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    assert len({first, second, netfiles.digest_of(tmp_path)}) == 3


def test_ports_stay_and_a_taken_one_is_named(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    ports = files.ports(("chain", "log"))
    assert NetworkFiles(tmp_path).ports(("chain", "log", "relay")).items() >= ports.items()
    named = pytest.raises(Unavailable, match=f"log: port {ports['log']} is in use")
    with socket.create_server(("127.0.0.1", ports["log"])), named:
        files.ports(("chain", "log"))


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    token = files.api_token()
    assert token == NetworkFiles(tmp_path).api_token() and len(token) > 24
    assert files.token.stat().st_mode & 0o077 == 0


def test_a_deep_directory_gets_a_short_socket(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path / ("deep" * 30))
    assert len(os.fsencode(files.socket())) <= netfiles.MAX_SOCKET_PATH
    assert files.socket() == files.socket()


def test_host_configs_differ_by_price(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    paths = [files.host_config(GuestSpec(name, price, 2)) for name, price in (("a", 1), ("b", 2))]
    assert paths[0].read_bytes() != paths[1].read_bytes()


SLEEPER = "import json,time;print(json.dumps({'listening':'x'}),flush=True);time.sleep(60)"


def test_children_are_started_watched_and_stopped(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("sleeper", ["-c", SLEEPER])
        assert child.ready(20) == {"listening": "x"}
        supervisor.check()
        child.process.send_signal(signal.SIGKILL)
        child.process.wait(HANG_S)
        with pytest.raises(Unavailable, match=r"sleeper ended .* SIGKILL and wrote nothing$"):
            supervisor.check()


def test_a_child_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("faller", ["-c", "import sys; sys.exit('no such luck')"])
        with pytest.raises(Unavailable, match="faller ended with exit code 1: no such luck"):
            child.ready(20)


@pytest.mark.skipif(sys.platform != "linux", reason="parent death signals are Linux's")
def test_children_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = (
        "import sys,time; from pathlib import Path\n"
        "from client_sdk.localnet.supervisor import Supervisor\n"
        f"s = Supervisor(Path({str(tmp_path)!r})); c = s.start('sleeper', ['-c', {SLEEPER!r}])\n"
        "c.ready(20); print(c.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        pid = int(process.stdout.readline())
        process.kill()
    until = time.monotonic() + HANG_S
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_a_directory_that_cannot_be_made_is_named() -> None:
    from client_sdk.localnet.netfiles import NetworkFiles

    with pytest.raises(UsageError, match="/proc/umay"):
        NetworkFiles(Path("/proc/umay"))


@pytest.mark.parametrize("path", ["", "/log", "/v1"])
def test_a_server_that_is_no_relay_is_said_to_be_none(path: str) -> None:
    class Elsewhere:
        def get(self, url: str, *, limit: int) -> bytes:
            raise NotThere(f"{url}: there is no such thing (HTTP 404)")

    said = f"^http://127.0.0.1:1{path}: no relay or agent stands at this URL, .* prints the relay's"
    with pytest.raises(NotThere, match=said):
        fetch_places(Elsewhere(), f"http://127.0.0.1:1{path}")  # type: ignore[arg-type]
