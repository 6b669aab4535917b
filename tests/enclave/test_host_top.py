"""`umay host top`, and the metrics that an agent gives to its host."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError, Refused, Unavailable
from enclave.host import top
from enclave.host.agent import Agent
from enclave.host.metrics import Page, of_agent
from enclave.host.registrar import GuestStatus, LogEntry
from enclave.host.top import Watch, table
from tests.helpers.commands import command
from tests.helpers.guest_room import CHAT, MODEL, Room, post, room, samples
from tests.helpers.host_parts import Service, ask
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S

TOKEN = "t" * 43
BEARER = {"authorization": f"Bearer {TOKEN}"}
EPOCH = b"\1" * 32


class Place:
    """A real guest behind an agent's feed, and the token file."""

    def __init__(self, directory: Path, guest: Room) -> None:
        self.room = guest
        self.status = GuestStatus(
            boot=guest.boot, answering=True, current=EPOCH,
            entries={EPOCH: LogEntry(1, anchored=True), b"2": LogEntry(2)},
            refused={b"3": "log/late"},
        )  # fmt: skip
        self.registrar: Any = types.SimpleNamespace(status=self.status, ending=None)
        url = f"http://127.0.0.1:{guest.port}"
        agent = Agent(self.registrar, guest=url, log=url, chain=None)  # type: ignore[arg-type]
        self.service = Service(agent.feed(listen="localhost:0", token=TOKEN))
        self.feed = self.service.url
        self.token = directory / "feed.token"
        self.token.write_text(TOKEN)
        self.token.chmod(0o600)

    def top(self, *words: str, feeds: tuple[str, ...] = ()) -> Any:
        named = [word for feed in feeds or (self.feed,) for word in ("--feed", feed)]
        return command("host", "top", *named, "--token-file", str(self.token), *words)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with room() as guest:
        opened = Place(tmp_path, guest)
        yield opened
        opened.service.stop()


# What the agent serves


def test_the_agent_adds_the_guests_metrics_to_its_own(place: Place) -> None:
    place.room.ask(post(CHAT))
    answer = ask(place.feed, "/metrics", **BEARER)
    found = samples(answer.body)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert found["umay_agent_guest_answering"] == found["umay_agent_guest_ready"] == 1
    states = [found[f"umay_agent_log_entries{{{n}}}"] for n in ("anchored", "logged", "refused")]
    assert states == [1, 1, 1]
    assert found["umay_requests_total{answered}"] == found["umay_ready"] == 1


def test_the_page_of_the_docs_names_the_agents_metrics_too() -> None:
    page = Page.from_bytes(of_agent(GuestStatus()), where="agent")
    text = (ROOT / "docs/spec/metrics.md").read_text()
    assert set(page.values) == set(re.findall(r"^\| `(umay_agent_\w+)", text, re.M))


@pytest.mark.parametrize("fields", [{}, {"authorization": "Bearer " + "u" * 43}])
def test_they_are_for_who_has_the_token(place: Place, fields: dict[str, str]) -> None:
    answer = ask(place.feed, "/metrics", **fields)
    assert answer.status == 401 and b"umay_" not in answer.body


def test_no_web_page_reads_them(place: Place) -> None:
    assert ask(place.feed, "/metrics", origin="http://127.0.0.1", **BEARER).status == 403


@pytest.mark.parametrize("status", [GuestStatus(), GuestStatus(boot="ab" * 16, answering=True)])
def test_of_a_guest_that_does_not_answer_only_the_agent_tells(
    place: Place, status: GuestStatus
) -> None:
    place.registrar.status = status
    found = samples(ask(place.feed, "/metrics", **BEARER).body)
    assert found["umay_agent_guest_answering"] == status.answering
    assert not any(name.startswith("umay_guest") for name in found)


# Reading pages

BAD = {
    "no text": b"\xff\xfe",
    "a page of the web": b"<html><body>",
    "a value that is none": b"umay_ready yes\n",
    "a label without its end": b'umay_guest_info{boot="a 1\n',
    "no number": b"umay_engine_slots NaN\n",
    "no end": b"umay_engine_slots +Inf\n",
    "more than can be counted": b"umay_engine_slots 1e300\n",
    "no value": b"umay_engine_slots\n",
    "a time beyond all numbers": b"umay_engine_slots 1 " + b"9" * 400 + b"\n",
}


@pytest.mark.parametrize("page", BAD.values(), ids=BAD)
def test_another_page_is_refused(page: bytes) -> None:
    with pytest.raises(ParseError, match=r"^http://x: expected metrics in the text format"):
        Page.from_bytes(page, where="http://x")


@given(st.binary() | st.text().map(str.encode))
def test_no_page_raises_anything_else(page: bytes) -> None:
    try:
        found = Page.from_bytes(page, where="x")
    except ParseError:
        return
    assert all(isinstance(value, float) for of in found.values.values() for _, value in of)


# The rows


def page_of(**values: object) -> bytes:
    """A page with these numbers; the rest is as of a guest that serves."""
    numbers = {
        "umay_agent_guest_answering": 1, "umay_agent_guest_ready": 1, "umay_ready": 1,
        'umay_guest_info{boot="abcdef0123",model="m"}': 1, "umay_engine_slots": 8,
        "umay_engine_running": 3, "umay_engine_waiting": 2, "umay_uptime_seconds": 100,
        "umay_completion_tokens_total": 5000, "umay_epoch_age_seconds": 754,
        'umay_requests_total{outcome="answered"}': 12, 'umay_requests_total{outcome="full"}': 0,
        'umay_engine_state{state="failed"}': 0, **values,
    }  # fmt: skip
    return "".join(f"{name} {value}\n" for name, value in numbers.items()).encode()


def row_of(page: bytes | Exception, clock: Callable[[], float] = lambda: 0.0) -> top.Row:
    def read() -> bytes:
        if isinstance(page, Exception):
            raise page
        return page

    (row,) = Watch([("http://host:1", read)], clock=clock).look()
    return row


def test_a_row_has_what_the_page_says() -> None:
    row = row_of(page_of())
    assert (row.boot, row.model, row.state) == ("abcdef0123", "m", "serving")
    assert (row.slots, row.running, row.waiting, row.key_age_s) == (8, 3, 2, 754)
    assert (row.tokens_per_s, row.requests) == (50.0, {"answered": 12, "full": 0})


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"umay_agent_guest_answering": 0}, "no guest"),
        ({'umay_engine_state{state="failed"}': 1}, "failed"),
        ({'umay_engine_state{state="draining"}': 1, "umay_ready": 0}, "draining"),
        ({"umay_ready": 0}, "pending"),
        ({"umay_agent_guest_ready": 0}, "pending"),
    ],
)
def test_a_row_has_the_state(values: dict[str, int], state: str) -> None:
    assert row_of(page_of(**values)).state == state


def test_what_cannot_be_read_has_a_row_with_the_reason() -> None:
    assert row_of(Unavailable("gone")).error == "gone"
    assert row_of(Unavailable("gone")).state == "unreachable"
    unread = row_of(b"<html>")
    assert unread.state == "unreadable" and "http://host:1/metrics: expected" in unread.error
    with pytest.raises(Refused):
        row_of(Refused("feed", "wrong-token", "no"))


def test_the_rate_is_of_the_last_minute() -> None:
    pages = [(0, 0), (5, 1024), (10, 2048), (40, 2048), (80, 9216), (81, 0)]
    now, page = [0.0], [b""]
    watch = Watch([("http://host:1", lambda: page[0])], clock=lambda: now[0])
    rates = []
    for at, tokens in pages:
        now[0], page[0] = at, page_of(umay_completion_tokens_total=tokens)
        rates += [row.tokens_per_s for row in watch.look()]
    assert rates == [0, 10.2, 204.8, 51.2, 179.2, 0]


def test_a_new_boot_has_a_rate_of_its_own() -> None:
    now, page = [0.0], [page_of(umay_completion_tokens_total=10**6)]
    watch = Watch([("http://host:1", lambda: page[0])], clock=lambda: now[0])
    watch.look()
    now[0], name = 30.0, 'umay_guest_info{boot="another",model="m"}'
    page[0] = page_of(umay_completion_tokens_total=100).replace(b"abcdef0123", b"another")
    assert name.encode() in page[0]
    assert watch.look()[0].tokens_per_s == 1.0


def test_what_a_guest_says_does_not_steer_the_terminal() -> None:
    from rich.console import Console

    screen = io.StringIO()
    text = page_of().replace(b'model="m"', b'model="\x1b[2J[red]m\x07"')
    Console(file=screen, width=200).print(table([row_of(text)]))
    assert "\x1b" not in screen.getvalue() and "\x07" not in screen.getvalue()
    assert "[red]m" in screen.getvalue()


# The command


def test_once_it_prints_a_table_of_plain_text(place: Place) -> None:
    place.room.ask(post(CHAT))
    done = place.top("--once")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    for word in ("enclave", "key age", place.room.boot[:8], MODEL, "serving", "0/4", "1 answered"):
        assert word in done.stdout, word


def test_once_in_json_it_prints_one_line(place: Place) -> None:
    (line,) = place.top("--once", "--json").stdout.splitlines()
    shown = json.loads(line)
    (enclave,) = shown["enclaves"]
    assert shown.keys() == {"at", "enclaves"} and enclave["feed"] == place.feed
    assert (enclave["model"], enclave["state"], enclave["slots"]) == (MODEL, "serving", 4)


GONE = "http://127.0.0.1:9"


@pytest.mark.parametrize("feeds", [(GONE,), (GONE, "self")], ids=["alone", "of two"])
def test_once_an_agent_that_cannot_be_read_is_exit_5(place: Place, feeds: tuple[str, ...]) -> None:
    urls = tuple(place.feed if feed == "self" else feed for feed in feeds)
    done = place.top("--once", feeds=urls)
    assert done.exit_code == 5 and "unreachable" in done.stdout
    assert GONE in str(done.exception)
    assert ("serving" in done.stdout) == ("self" in feeds)


def test_another_token_is_exit_4(place: Place) -> None:
    place.token.write_text("u" * 43)
    assert place.top("--once").exit_code == 4


def test_without_a_token_file_or_with_too_many_it_is_exit_2(place: Place) -> None:
    assert place.top("--once", "--token-file", str(place.token)).exit_code == 2
    place.token.unlink()
    assert place.top("--once").exit_code == 2


def test_where_nobody_can_be_read_it_does_not_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestation.process.end_on_signals", lambda: None)
    assert place.top(feeds=(GONE,)).exit_code == 5


def test_it_goes_on_while_one_can_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestation.process.end_on_signals", lambda: None)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise SystemExit(0)

    monkeypatch.setattr(top.time, "sleep", sleep)
    done = place.top("--json", feeds=(place.feed, GONE))
    assert done.exit_code == 0 and looks == [1.0, 1.0, 1.0]
    states = [
        [row["state"] for row in json.loads(at)["enclaves"]] for at in done.stdout.splitlines()
    ]
    assert states == [["serving", "unreachable"]] * 3


@pytest.mark.long
def test_on_a_terminal_it_is_drawn_again_in_place(place: Place) -> None:
    outer, inner = pty.openpty()
    words = ["host", "top", "--feed", place.feed, "--token-file", str(place.token)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(
        [sys.executable, "-m", "client_sdk", *words], stdout=inner, env=environment
    ) as process:
        os.close(inner)
        seen = b""
        while seen.count(b"serving") < 3:
            seen += os.read(outer, 4096)
        process.terminate()
        assert process.wait(HANG_S) == 0
    assert b"\x1b[" in seen and MODEL.encode() in seen
