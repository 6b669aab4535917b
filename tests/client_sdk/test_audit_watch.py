"""The watch: what is new is told, once; silence is told too; the feed is one that readers take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError, Unavailable, UsageError
from client_sdk.auditing.feed import ATOM, NEWEST, atom
from client_sdk.auditing.results import Audit, EntryVerdict
from client_sdk.auditing.watching import BLIND, SEES, Alert, AlertFile, Watch

T = 1_795_000_000


def entry(index: int, since: int = T) -> EntryVerdict:
    return EntryVerdict(index, "boot", "ab", "", "verified", since=since)


class Log:
    """What the audits say, round by round, and the watch that looks at them."""

    def __init__(self, directory: Path) -> None:
        self.path, self.now, self.audit = directory / "alerts.jsonl", T, Audit("0:ab")
        self.error: Exception | None = None
        self.start()

    def start(self) -> None:
        self.told = AlertFile(self.path)
        self.watch = Watch(self.look, self.told, lambda: self.now)

    def look(self) -> Audit:
        if self.error is not None:
            raise self.error
        return self.audit

    def round(self) -> list[tuple[str, int | None]]:
        self.now += 60
        return [(alert.code, alert.index) for alert in self.watch.round()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_an_honest_log_is_silent(log: Log) -> None:
    log.audit.entries = [entry(0), entry(1)]
    assert log.round() == log.round() == []


def test_what_is_about_an_entry_is_told_once_for_good(log: Log) -> None:
    log.audit.violation("reused-key", "entry 3: has a key of another boot", 3)
    assert log.round() == [("reused-key", 3)]
    assert log.round() == []
    log.audit.finding("now:cpu-tcb/revoked", "entry 2", 2)
    log.audit.violation("reused-key", "entry 4", 4)
    assert log.round() == [("reused-key", 4), ("now:cpu-tcb/revoked", 2)]
    log.start()
    assert log.round() == []


def test_what_is_about_the_log_is_told_when_it_begins_and_begins_again(log: Log) -> None:
    log.audit.incomplete("unanchored-tail", "3 entries: nothing was anchored for 4000 s")
    assert log.round() == [("unanchored-tail", None)]
    log.audit.problems.clear()
    log.audit.incomplete("unanchored-tail", "4 entries: nothing was anchored for 4060 s")
    assert log.round() == []
    log.audit.problems.clear()
    assert log.round() == []
    log.audit.incomplete("unanchored-tail", "1 entry: nothing was anchored for 3700 s")
    assert log.round() == [("unanchored-tail", None)]
    log.start()
    assert log.round() == [("unanchored-tail", None)]


def test_entries_that_wait_for_their_anchor_are_no_news(log: Log) -> None:
    log.audit.finding("unanchored-tail", "2 entries beyond the anchored 7")
    assert log.round() == []


def test_silence_is_told_and_its_end(log: Log) -> None:
    assert log.round() == []
    log.error = Unavailable("no answer")
    assert log.round() == [(BLIND, None)]
    assert log.round() == []
    log.error = ParseError("other data")
    assert log.round() == []
    log.error = None
    assert log.round() == [(SEES, None)]
    assert log.round() == []
    log.error = Unavailable("no answer")
    assert log.round() == [(BLIND, None)]


def test_a_mistake_of_the_watchers_ends_it(log: Log) -> None:
    log.error = UsageError("policy: no such file")
    with pytest.raises(UsageError):
        log.round()


def test_a_stale_beacon_is_told_of_entries_that_came_meanwhile(log: Log) -> None:
    log.audit.entries = [entry(0, T - 90_000)]
    assert log.round() == []  # nobody knows when that came
    log.audit.entries = [*log.audit.entries, entry(1, log.now - 100), entry(2, log.now - 2000)]
    assert log.round() == [("stale-beacon", 2)]
    log.audit.entries, seen = [], log.audit.entries
    assert log.round() == []
    log.audit.entries = seen  # a round without a tree makes nothing new
    assert log.round() == []


NO_ALERTS = {
    "text": b"hello\n",
    "text without an end": b"hello",
    "another object": b'{"a": 1}\n',
    "a list": b"[]\n",
    "a time that is none": b'{"time": "x", "severity": "", "code": "", "text": "", "index": 1}\n',
}


@pytest.mark.parametrize("content", NO_ALERTS.values(), ids=NO_ALERTS)
def test_another_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        AlertFile(path)
    assert path.read_bytes() == content


def test_a_line_that_was_cut_off_is_dropped(log: Log) -> None:
    log.audit.violation("twice", "entry 1", 1)
    log.round()
    whole = log.path.read_bytes()
    for cut in range(1, len(whole)):
        log.path.write_bytes(whole + whole[: cut - 1])
        if cut < len(whole):
            assert len(AlertFile(log.path).alerts) == 1
            assert log.path.read_bytes() == whole


ALERT = Alert(T, "violation", "twice", "entry 1: its statement is entry 0 too", 1)


def test_the_feed_is_atom(log: Log) -> None:
    alerts = [dataclasses.replace(ALERT, index=n, time=T + n) for n in range(NEWEST + 5)]
    feed = ElementTree.fromstring(atom("0:ab", alerts, started=T))
    name = f"{{{ATOM}}}".__add__
    entries = feed.findall(name("entry"))
    assert len(entries) == NEWEST
    assert feed.findtext(name("updated")) == entries[0].findtext(name("updated"))
    assert entries[0].findtext(name("updated")) == "2026-11-18T11:10:04Z"
    assert len({e.findtext(name("id")) for e in entries}) == NEWEST
    for needed in ("id", "title", "updated"):
        assert all(e.findtext(name(needed)) for e in (feed, *entries))
    assert feed.find(name("author")) is not None
    empty = ElementTree.fromstring(atom("0:ab", [], started=T))
    assert empty.findtext(name("updated")) == "2026-11-18T11:06:40Z"


@given(st.text(max_size=50))
def test_whatever_a_log_says_the_feed_stays_well_formed(text: str) -> None:
    alert = dataclasses.replace(ALERT, text=text)
    feed = ElementTree.fromstring(atom("0:ab", [alert], started=T))
    assert len(feed.findall(f"{{{ATOM}}}entry")) == 1
    json.dumps(alert.to_json())
