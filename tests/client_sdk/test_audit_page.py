"""The HTML report: self-contained, nothing runs in it, and a hostile log's words stay words."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.log.leaf import Leaf
from client_sdk.auditing import page as pages
from client_sdk.auditing import plots
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.page import page
from client_sdk.auditing.results import Audit, EntryVerdict, Problem
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.client_sdk.test_client_audit import CONTRACT
from tests.helpers.world import NOW, World

HOSTILE = "<script>alert(1)</script>\"'><img src=//x onerror=alert(1)>\u202e&"
VOID = {"meta", "link", "img", "br", "hr", "input"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li"),
    *("table", "tr", "th", "td", "figure", "figcaption"),
    *("svg", "path", "rect", "line", "text"),
}


class Reader(HTMLParser):
    """Every tag and attribute, and whether all is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def entry(index: int, text: str, **changes: object) -> EntryVerdict:
    made = EntryVerdict(index, "boot", text, text, "verified", text, NOW + 60 * index, None)
    return dataclasses.replace(made, **{"platform": text, "release": text, **changes})  # type: ignore[arg-type]


def hostile(text: str) -> Audit:
    audit = Audit(text, log_url=text, size=2, root=text, simulated=True, anchored=NOW, read_at=NOW)
    audit.entries = [entry(0, text), entry(1, text, kind=text, verdict=text)]
    audit.problems = [Problem("violation", text, text, 0)]
    audit.findings = [Problem("finding", text, text)]
    return audit


def check(text: str) -> Reader:
    """What every page keeps to."""
    read = Reader(text)
    assert read.tags <= TAGS and not read.open
    names = {name for name, _ in read.attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style")]
    assert "url(" not in text and "@import" not in text
    return read


def test_hostile_words_stay_words() -> None:
    text = page(hostile(HOSTILE))
    read = Reader(text)
    assert read.tags <= TAGS and not read.open
    assert "script" not in read.tags and "img" not in read.tags and "\u202e" not in text
    assert any("<script>alert(1)</script>" in words for words in read.words)


@given(text=st.text())
def test_no_text_makes_a_tag(text: str) -> None:
    read = Reader(page(hostile(text)))
    assert read.tags <= TAGS and not read.open
    assert {name for name, _ in read.attributes} <= ALLOWED


ALLOWED = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "viewbox", "role"),
    *("aria-label", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "d", "text-anchor"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


def audited(world: World, leaves: list[Leaf]) -> Audit:
    net = Net(world, leaves, world.presented(), [])
    return Auditor(policy=world.policy, chain=net, transport=net).run(CONTRACT, AuditScope())  # type: ignore[arg-type]


def test_a_real_audit_makes_a_page(world: World) -> None:
    audit = audited(world, [RELEASE, boot(world, release=0)])
    text = page(audit)
    read = check(text)
    assert audit.verdict in read.words and "SIMULATED" in text and text.count("<svg") == 5
    assert "0 to 6 days" in text and "not proven" in text
    assert "TDX with GPUs" in text and audit.entries[1].release in text


def test_ages_of_tcb_lists_are_counted() -> None:
    days = (0, 6, 7, 13, 29, 30, 400)
    machines = [
        EntryVerdict(n, "boot", "", "", "verified", since=NOW, tcb_issued=NOW - day * 86_400)
        for n, day in enumerate(days)
    ]
    assert [count for _, count in pages._ages(machines)] == [2, 2, 1, 2]
    assert pages._ages([EntryVerdict(0, "release", "", "", "on record")]) == []


def test_a_proven_reading_says_so() -> None:
    text = page(Audit(CONTRACT, level="proven"))
    assert "(proven)" in text and "not proven" not in text


def test_a_release_whose_name_is_markup_does_nothing(world: World) -> None:
    release = dataclasses.replace(world.policy.releases[0], name=HOSTILE)
    policy = dataclasses.replace(world.policy, releases=(release,))
    audit = audited(dataclasses.replace(world, policy=policy), [boot(world)])
    assert audit.exit_code == 0 and audit.entries[0].release == HOSTILE
    read = Reader(page(audit))
    assert read.tags <= TAGS and not read.open


def test_a_page_of_real_machines_is_not_labelled() -> None:
    assert "SIMULATED" not in page(dataclasses.replace(hostile("x"), simulated=False))


def test_an_audit_of_nothing_makes_a_page() -> None:
    assert "There is nothing to show" in page(Audit(CONTRACT))
    check(page(Audit(CONTRACT)))


def test_the_browser_may_apply_this_style_and_load_nothing() -> None:
    text = page(Audit(CONTRACT))
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert style and policy and policy[1].startswith("default-src 'none'; ")
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy[1]


@pytest.mark.parametrize(
    ("verdict", "code"), [("violation", 1), ("incomplete", 6)], ids=["violation", "incomplete"]
)
def test_the_verdict_is_marked(verdict: str, code: int) -> None:
    audit = Audit(CONTRACT, problems=[Problem(verdict, "code", "text")])  # type: ignore[arg-type]
    assert f'class="verdict c{code}"' in page(audit) and audit.exit_code == code


def test_long_tables_are_cut_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_TABLE", 3)
    audit = Audit(CONTRACT, entries=[entry(n, "") for n in range(9)])
    audit.entries[8] = entry(8, "wrong")
    text = page(audit)
    assert "6 more are not shown" in text and "wrong" in text


@given(times=st.lists(st.integers(0, 2**40), max_size=1000))
def test_a_growth_plot_stays_in_its_frame(times: list[int]) -> None:
    drawn = plots.growth(times, "growth")
    assert len(drawn) < 20_000
    xs = [float(x) for x in re.findall(r"H([0-9.]+)", drawn)]
    assert all(plots.LEFT <= x <= plots.WIDTH - plots.RIGHT for x in xs)
    Reader(drawn)


def test_many_rows_are_cut_and_say_so() -> None:
    assert "10 more" in plots.bars([(str(n), n) for n in range(30)], "bars")
    assert "10 more" in plots.spans([(str(n), n, n + 1) for n in range(30)], "spans")


def test_a_page_is_written_by_the_command(tmp_path: Path) -> None:
    from attestation.errors import UsageError
    from client_sdk.auditing.output import output

    path = tmp_path / "audit.html"
    for text in (page(Audit(CONTRACT)).encode(), b"shorter"):
        with output(path) as write:
            write(text)
        assert path.read_bytes() == text
    with output(None) as write:
        write(b"nowhere")
    for wrong in (tmp_path / "no" / "audit.html", tmp_path, path / "below"):
        with pytest.raises(UsageError, match=str(wrong)), output(wrong):
            pytest.fail("the work must not begin")


def test_an_audit_that_fails_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    from client_sdk.auditing.output import output

    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_bytes(b"of yesterday")
    for path in (old, new):
        with pytest.raises(RuntimeError), output(path):
            raise RuntimeError
    assert old.read_bytes() == b"of yesterday" and not new.exists()
