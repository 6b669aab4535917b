"""Lite servers' answers in a file: proven again later, without a network, from one's own block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.errors import ParseError, Unavailable, UsageError
from contracts.codec import LogState
from contracts.endpoint import reading
from contracts.light.recording import MAGIC, Recording, Replay, read_recording
from contracts.reader import read_anchor
from tests.helpers.lite_server import LiteChain, serving, write_config
from tests.helpers.ton_chain import BEFORE, LOG_ADDRESS, UTIME, TonChain, proof_bytes, tl_blob

GENESIS = LogState.genesis(origin="a.example/log", log_key=bytes(32), size=7, root=bytes(32))
CHAIN = TonChain(data=GENESIS.to_cell())
YEARS = 5 * 365 * 86400


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.light.chain._now", lambda: UTIME + 5)


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A config whose servers are gone, and a recording of one anchor and two blocks."""
    with serving(LiteChain(CHAIN)) as server:
        config = write_config(tmp_path / "config.json", CHAIN.first.block, server)
        chain = reading(f"lite:{config}?save={tmp_path / 'proof'}")
        assert read_anchor(chain, network="test", address=LOG_ADDRESS).size == 7
        assert [chain.block(n).seqno for n in (100, 150)] == [100, 150]
    yield config, tmp_path / "proof"


def test_it_is_proven_again_years_later(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = saved
    monkeypatch.setattr("contracts.light.chain._now", lambda: UTIME + YEARS)
    chain = reading(f"lite:{config}?from={file}")
    anchor = read_anchor(chain, network="test", address=LOG_ADDRESS)
    assert (anchor.level, anchor.size, anchor.read_at) == ("proven", 7, UTIME)
    assert [chain.block(n).root_hash for n in (100, 150)] == [
        made.block.root_hash for made in (CHAIN.first, CHAIN.middle)
    ]
    with pytest.raises(Unavailable, match="an answer to this question, found none"):
        chain.block(200)
    assert not Path(f"{config}.trusted").exists()


def test_the_reader_goes_out_from_its_own_block(saved: tuple[Path, Path], tmp_path: Path) -> None:
    """A recording is no authority: with another pinned block nothing in it is proven."""
    with serving(LiteChain(CHAIN)) as server:
        pinned = replace(CHAIN.first.block, root_hash=bytes(32))
        other = write_config(tmp_path / "other.json", pinned, server)
    with pytest.raises(Unavailable):
        reading(f"lite:{other}?from={saved[1]}").account(LOG_ADDRESS)


def test_a_changed_answer_proves_nothing(saved: tuple[Path, Path]) -> None:
    config, file = saved
    link = CHAIN.link(CHAIN.first, CHAIN.second)
    signed = tl_blob(link.signatures.signatures[0][1])
    assert signed in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(signed, signed[:1] + b"\0" + signed[2:]))
    with pytest.raises(Unavailable, match="is not valid"):
        reading(f"lite:{config}?from={file}").account(LOG_ADDRESS)
    assert proof_bytes(link) not in file.read_bytes()


def test_nothing_is_written_over(saved: tuple[Path, Path]) -> None:
    config, file = saved
    before = file.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        reading(f"lite:{config}?save={file}")
    assert file.read_bytes() == before


def test_a_question_is_asked_once(tmp_path: Path) -> None:
    answers = iter([b"first", b"second"])
    told = Recording(lambda question: next(answers), tmp_path / "file", now=7)
    assert [told.ask(b"q"), told.ask(b"q"), told.ask(b"r")] == [b"first", b"first", b"second"]
    replay = Replay(tmp_path / "file")
    assert (replay.begun, replay.ask(b"q"), replay.ask(b"r")) == (7, b"first", b"second")


HEAD = MAGIC + bytes(8)
ONE = tl_blob(b"question") + tl_blob(b"answer")


@pytest.mark.parametrize(
    "raw",
    [b"", MAGIC, HEAD[:-1], b"x" + HEAD[1:], HEAD + ONE[:-4], HEAD + ONE + b"\0", HEAD + ONE * 2],
    ids=["empty", "no-time", "half-a-time", "magic", "no-answer", "trailing", "twice"],
)
def test_a_file_that_is_no_recording(tmp_path: Path, raw: bytes) -> None:
    assert read_recording(HEAD + ONE) == (0, {b"question": b"answer"})
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(ParseError):
        Replay(tmp_path / "file")


@given(st.binary(max_size=300))
def test_any_bytes_are_one_recording_or_none(raw: bytes) -> None:
    try:
        begun, answers = read_recording(HEAD[:12] + raw)
    except ParseError:
        return
    pairs = b"".join(tl_blob(q) + tl_blob(a) for q, a in answers.items())
    assert HEAD[:12] + begun.to_bytes(8, "little") + pairs == HEAD[:12] + raw


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_no_change_of_a_recording_changes_what_is_proven(
    saved: tuple[Path, Path], flips: list[tuple[float, int]]
) -> None:
    config, file = saved
    raw = bytearray(file.read_bytes())
    for where, mask in flips:
        raw[min(int(where * len(raw)), len(raw) - 1)] ^= mask
    changed = file.with_name("changed")
    changed.write_bytes(raw)
    try:
        chain = reading(f"lite:{config}?from={changed}")
        anchor, block = read_anchor(chain, network="test", address=LOG_ADDRESS), chain.block(150)
    except (Unavailable, ParseError):
        return
    assert (anchor.size, anchor.read_at, anchor.code_hash) == (7, UTIME, CHAIN.code.hash)
    assert (block.root_hash, block.utime) == (CHAIN.middle.block.root_hash, UTIME - BEFORE)
