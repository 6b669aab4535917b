"""A guest's metrics: what Prometheus reads, and what its host does not learn from them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from attestation import wire
from attestation.channel import replay
from attestation.errors import Unavailable
from client_sdk.transport import Transport
from enclave.guest import metrics, parsing
from enclave.guest.engines.base import Delta, EngineFailed, EngineStats, QueueFull, Usage
from enclave.guest.metrics import BLOCK, OUTCOMES, Blocks, Histogram, Metrics
from enclave.guest.parsing import INLINE_BYTES
from tests.helpers.guest_room import CHAT, MODEL, Room, Script, ended, post, room, samples, stream
from tests.helpers.host_parts import ask
from tests.helpers.places import ROOT
from tests.helpers.waiting import wait_for

PAGE = ROOT / "docs/spec/metrics.md"


@pytest.fixture
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


def page(guest: Room) -> bytes:
    return Transport().get(f"{guest.base}metrics")


# The format


def test_prometheus_reads_every_family_and_the_page_of_the_docs_names_each(guest: Room) -> None:
    guest.ask(post(CHAT))
    found = {family.name: family for family in text_string_to_metric_families(page(guest).decode())}
    for name, family in found.items():
        assert family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert (family.type == "histogram") <= name.endswith("_seconds"), name
    row = r"^\| `(umay_(?!agent)\w+?)(?:_total)?(?:\{.*?\})?` \| (\w+) \|"
    named = re.findall(row, PAGE.read_text(), re.M)
    assert named == [(name, family.type) for name, family in found.items()]
    counters = [name for name, family in found.items() if family.type == "counter"]
    assert all(found[name].samples[0].name == f"{name}_total" for name in counters)


def test_it_says_what_it_is(guest: Room) -> None:
    answer = ask(f"http://127.0.0.1:{guest.port}", f"{wire.base(guest.boot)}metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


def test_a_fresh_guest_shows_every_outcome_and_bucket(guest: Room) -> None:
    found = guest.counts
    assert [found[f"umay_requests_total{{{outcome}}}"] for outcome in OUTCOMES] == [0] * 8
    assert found["umay_first_token_seconds_bucket{+Inf}"] == 0
    assert found[f"umay_guest_info{{{guest.boot},{MODEL}}}"] == 1
    assert (found["umay_engine_slots"], found["umay_ready"]) == (4, 1)


@given(st.text())
def test_any_name_of_a_model_is_read_back(name: str) -> None:
    family = metrics.Family("umay_guest_info", "gauge", "Text.", (("", {"model": name}, 1),))
    (read,) = text_string_to_metric_families(metrics.page([family]).decode(errors="replace"))
    assert read.samples[0].labels["model"] == name.encode(errors="replace").decode()


# What is counted


def outcome_of(guest: Room, **script: Any) -> dict[str, float]:
    guest.engine.script = Script(**script)
    before = guest.counts
    guest.open(post(stream())).read()
    return ended(before, guest.counts)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ({}, "answered"),
        ({"refuse": QueueFull("engine: full")}, "full"),
        ({"fail": EngineFailed("engine: stopped")}, "failed"),
        ({"refuse": RuntimeError("text")}, "failed"),
    ],
)
def test_answers_are_counted_by_what_the_machine_did(
    guest: Room, script: dict[str, Any], outcome: str
) -> None:
    assert outcome_of(guest, **script) == {outcome: 1}


def test_what_is_refused_outside_the_seal_is_counted(guest: Room) -> None:
    sealed = guest.exchange(post(CHAT))
    path, kind = f"{wire.base(guest.boot)}ohttp", sealed.media_type
    url = f"http://127.0.0.1:{guest.port}"

    def sent(body: bytes, media_type: str = kind) -> dict[str, float]:
        before = guest.counts
        ask(url, path, method="POST", body=body, content_type=media_type)
        return ended(before, guest.counts)

    assert sent(sealed.body) == {"answered": 1}
    assert sent(sealed.body) == {"replayed": 1}
    assert sent(b"noise") == {"refused": 1}
    assert sent(sealed.body, wire.JSON) == {"refused": 1}
    assert sent(bytes(1) + sealed.body, wire.SESSION_REQUEST) in (
        {"refused": 1}, {"session_expired": 1},
    )  # fmt: skip


def test_requests_beyond_the_most_and_beyond_the_rate_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "BURST", 1)
    monkeypatch.setattr(replay, "RATE", 1e-9)
    with room() as guest:
        guest.ask(post(CHAT))
        before = guest.counts
        guest.open(post(CHAT)).read()
        assert ended(before, guest.counts) == {"limited": 1}
        monkeypatch.setattr("enclave.guest.server.MAX_AT_ONCE", 0)
        with pytest.raises(Unavailable):
            guest.open(post(CHAT))
        assert ended(before, guest.counts) == {"limited": 1, "busy": 1}


def test_the_engine_is_shown_as_it_is(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = EngineStats(slots=4, running=3, waiting=7, finished=9, cancelled=2, tokens=12_345)
    monkeypatch.setattr(guest.engine, "stats", lambda: stats)
    found = guest.counts
    names = ("slots", "running", "waiting", "state{serving}", "state{failed}")
    assert [found[f"umay_engine_{name}"] for name in names] == [4, 3, 7, 1, 0]
    assert b"12345" not in page(guest)
    guest.engine.failed = EngineFailed("engine: stopped")
    found = guest.counts
    assert [found[f"umay_engine_{name}"] for name in names[3:]] == [0, 1]
    assert found["umay_ready"] == 0


def test_a_guest_that_drains_says_so(guest: Room) -> None:
    before = guest.counts
    guest.guest.drain.begin()
    assert guest.open(post(CHAT)).status == 503
    found = guest.counts
    states = [found[f"umay_engine_state{{{name}}}"] for name in ("serving", "draining", "failed")]
    assert states == [0, 1, 0] and found["umay_ready"] == 0
    assert ended(before, found) == {"busy": 1}
    guest.engine.failed = EngineFailed("engine: stopped")
    assert guest.counts["umay_engine_state{draining}"] == 0


def test_epochs_and_their_table_are_shown(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    now = guest.epochs.current.begins  # type: ignore[union-attr]
    object.__setattr__(guest.guest, "clock", lambda: now + 77.4)
    guest.ask(post(CHAT))
    monkeypatch.setattr(guest.epochs.current.keys.guard, "_capacity", 8)  # type: ignore[union-attr]
    found = guest.counts
    assert (found["umay_epoch_age_seconds"], found["umay_key_rotations_total"]) == (77, 0)
    assert found["umay_replay_table_fill_ratio"] == 0.125
    guest.epochs.step(now + 3000)
    guest.anchor()
    guest.epochs.step(now + 3601)
    assert guest.counts["umay_key_rotations_total"] == 1
    assert guest.counts["umay_replay_table_fill_ratio"] == 0
    guest.epochs.retire(now + 10**6)
    found = guest.counts
    assert (found["umay_epoch_age_seconds"], found["umay_ready"]) == (0, 0)


def test_processes_that_ended_are_counted(guest: Room) -> None:
    large = {**CHAT, "user": "u" * INLINE_BYTES}
    guest.ask(post(large))
    assert guest.counts["umay_body_process_restarts_total"] == 0
    (worker,) = guest.guest.parsers._idle
    worker._process.kill()
    worker._process.wait()
    assert guest.ask(post(large)).status == 200
    assert guest.counts["umay_body_process_restarts_total"] == 1


def test_a_process_that_fails_or_is_left_is_counted() -> None:
    async def body() -> list[int]:
        parsers, counts = parsing.Parsers(), []

        class Broken(parsing.Worker):
            raises: BaseException = OSError()

            async def ask(self, head: bytes, body: bytes) -> bytearray:
                raise self.raises

        for raises in (OSError(), TimeoutError(), KeyError()):
            worker = await Broken.start()
            worker.raises = raises
            parsers._idle.append(worker)
            with pytest.raises((parsing.ParserFailed, KeyError)):
                await parsers.read(b"x" * (INLINE_BYTES + 1), kind="chat", model="", request_id="")
            counts.append(parsers.restarts)
        return counts

    assert asyncio.run(body()) == [1, 2, 3]


# What the host does not learn


def test_the_metrics_do_not_tell_a_refused_question_from_an_answered_one(guest: Room) -> None:
    def cost(body: object) -> dict[str, float]:
        before = guest.counts
        guest.open(post(body)).read()
        return ended(before, guest.counts)

    bad, long = {**CHAT, "frobnicate": 1}, {**CHAT, "user": "u" * 100_000}
    assert cost(CHAT) == cost(bad) == cost(long) == {"answered": 1}


def test_a_page_has_no_other_label_than_those_that_are_named(guest: Room) -> None:
    guest.ask(post(CHAT))
    labels = {
        label
        for family in text_string_to_metric_families(page(guest).decode())
        for sample in family.samples
        for label in sample.labels
    }
    assert labels == {"boot", "model", "outcome", "state", "le"}


@pytest.mark.parametrize("tokens", [0, 1, 300, BLOCK - 1, BLOCK, BLOCK + 1, 9000])
def test_tokens_are_counted_in_blocks_and_right_on_average(tokens: int) -> None:
    blocks, runs = Blocks(), 4000
    for _ in range(runs):
        before = blocks.tokens
        blocks.add(tokens)
        assert blocks.tokens - before in (
            tokens // BLOCK * BLOCK, (tokens // BLOCK + bool(tokens % BLOCK)) * BLOCK,
        )  # fmt: skip
    # Six standard deviations of a coin that falls 4,000 times.
    assert abs(blocks.tokens / runs - tokens) < 6 * BLOCK * 0.5 / runs**0.5


@given(st.lists(st.floats(0, 100), max_size=20))
def test_a_histogram_keeps_nothing_but_its_buckets(times: list[float]) -> None:
    bounds = (0.1, 0.4, 1.6)
    found, known = Histogram(bounds), Histogram(bounds)
    for seconds in times:
        found.observe(seconds)
        known.observe(next((bound for bound in bounds if seconds <= bound), 99.0))
    assert (found.counts, found.sum) == (known.counts, known.sum)
    assert sum(found.counts) == len(times)
    assert vars(found).keys() == {"bounds", "counts"}


class Timed:
    """An answer and a clock: each piece is what comes, after how many seconds."""

    def __init__(self, *pieces: tuple[float, Delta]) -> None:
        self.now, self.pieces, self.closed = 0.0, list(pieces), 0

    def __aiter__(self) -> Timed:
        return self

    async def __anext__(self) -> Delta:
        if not self.pieces:
            raise StopAsyncIteration
        after, delta = self.pieces.pop(0)
        self.now += after
        return delta

    async def aclose(self) -> None:
        self.closed += 1


def counted(answer: Timed, monkeypatch: pytest.MonkeyPatch, *, read: int = 99) -> Metrics:
    monkeypatch.setattr(metrics, "BLOCK", 1)
    found = Metrics()

    async def body() -> None:
        watched = found.watched(answer, began=0.0, clock=lambda: answer.now)
        for _ in range(read):
            if await anext(watched, None) is None:
                break
        await watched.aclose()
        await watched.aclose()

    asyncio.run(body())
    assert answer.closed == 2
    return found


LAST = Usage(prompt=40, cached=0, completion=11)


def test_an_answer_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.3 s to the first token, then 1 s for ten more."""
    pieces = [(0.3, Delta("a", (1,))), *[(0.1, Delta("b", (2,)))] * 10]
    found = counted(Timed(*pieces, (0.0, Delta("", (), "stop", LAST))), monkeypatch)
    assert found.first_token.counts == [0, 1, 0, 0, 0, 0]
    assert found.between_tokens.counts == [0, 0, 0, 1, 0, 0]
    assert (found.prompt.tokens, found.completion.tokens) == (40, 11)
    assert (found.first_token.sum, found.between_tokens.sum) == (0.4, 0.32)


def test_of_several_choices_the_longest_is_timed_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = [(1.0, Delta("", (), "stop", Usage(40, 0, n), index=at)) for at, n in enumerate((3, 51))]
    found = counted(Timed((0.05, Delta("a", (1,))), *ends), monkeypatch)
    assert found.first_token.counts[0] == 1 and found.between_tokens.counts[2] == 1
    assert (found.prompt.tokens, found.completion.tokens) == (40, 54)


def test_an_answer_that_is_left_counts_as_far_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [(0.3, Delta("ab", (1, 2)))] * 4
    found = counted(Timed(*pieces), monkeypatch, read=3)
    assert (found.completion.tokens, sum(found.between_tokens.counts)) == (6, 1)


def test_an_answer_of_one_token_or_none_has_no_time_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = counted(Timed((0.3, Delta("a", (1,), "stop", Usage(4, 0, 1)))), monkeypatch)
    assert (sum(one.first_token.counts), sum(one.between_tokens.counts)) == (1, 0)
    assert sum(counted(Timed(), monkeypatch).first_token.counts) == 0


def test_an_answer_of_a_real_guest_is_timed(guest: Room) -> None:
    guest.ask(post(stream()))
    name = "umay_first_token_seconds_count"
    wait_for(lambda: guest.counts[name] == 1)
    guest.ask(post({**CHAT, "frobnicate": 1}))
    assert samples(page(guest))[name] == 1
