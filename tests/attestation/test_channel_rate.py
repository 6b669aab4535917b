"""Who has the public keys cannot fill an epoch's replay table: no clock but the test's is read."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel import replay
from attestation.channel.client import ClientRequest
from attestation.channel.replay import BURST, DEFAULT_CAPACITY, RATE, ReplayGuard
from attestation.channel.server import Epoch, KeyRing
from attestation.channel.sessions import SessionKeys
from attestation.channel.suite import KEMS
from attestation.errors import ChannelError, Replayed, TooManyRequests, UsageError
from enclave.guest.config import MAX_BUNDLE_LIFE_S

X25519 = 0x20


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests at once, and one more each second."""
    monkeypatch.setattr(replay, "BURST", 2)
    monkeypatch.setattr(replay, "RATE", 1.0)
    monkeypatch.setattr(replay, "REFUSED_BITS", 1 << 16)


class Ring:
    """A key ring whose clock only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sessions = SessionKeys(clock=lambda: self.now)
        self.ring = KeyRing(sessions=self.sessions, clock=lambda: self.now)
        self.epoch = self.ring.open_epoch(KEMS)

    def sealed(self, *, session: bytes | None = None, kem_id: int = X25519) -> bytes:
        configs = [c.to_bytes() for c in self.epoch.configs if c.kem_id == kem_id]
        client = ClientRequest(configs, pq="preferred", session=session)
        return client.seal(b"question")

    def open(self, sealed: bytes, *, to_session: bool = False) -> bytes:
        return self.ring.request(chunked=True, to_session=to_session).open(sealed)


def refused(guard: ReplayGuard, enc: bytes, now: float) -> bool:
    try:
        guard.reserve(enc, now=now)
    except TooManyRequests:
        return True
    return False


def test_a_flood_for_as_long_as_keys_live_does_not_make_the_table_ask_for_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert BURST + RATE * MAX_BUNDLE_LIFE_S < DEFAULT_CAPACITY * 0.8
    scale = 1000
    monkeypatch.setattr(replay, "BURST", BURST / scale)
    monkeypatch.setattr(replay, "RATE", RATE / scale)
    monkeypatch.setattr(replay, "REFUSED_BITS", 1 << 20)
    guard = ReplayGuard(DEFAULT_CAPACITY // scale)
    for second in range(MAX_BUNDLE_LIFE_S + 1):
        for number in range(3):
            refused(guard, b"%d %d" % (second, number), second)
    assert len(guard) == pytest.approx((BURST + RATE * MAX_BUNDLE_LIFE_S) / scale, abs=2)
    assert not guard.wants_rotation


def test_a_burst_is_taken_and_then_the_rate(few: None) -> None:
    guard = ReplayGuard()
    answers = [refused(guard, b"%d" % number, 0) for number in range(4)]
    assert answers == [False, False, True, True]
    assert not refused(guard, b"a second later", 1) and refused(guard, b"too soon", 1.9)
    assert not refused(guard, b"the next", 2)


def test_after_a_long_time_no_more_than_a_burst_is_taken(few: None) -> None:
    guard = ReplayGuard()
    assert sum(not refused(guard, b"%d" % number, 1e6) for number in range(9)) == 2


def test_a_clock_that_goes_back_gives_nothing_twice(few: None) -> None:
    guard = ReplayGuard()
    for now in (10, 10, 0, 10, 0, 10):
        refused(guard, b"%d %d" % (now, len(guard)), now)
    assert len(guard) == 2


def test_a_clock_that_goes_back_takes_nothing_away(few: None) -> None:
    guard = ReplayGuard()
    assert [refused(guard, b"%d" % now, now) for now in (10, 0)] == [False, False]


def test_how_many_are_taken_at_once_and_in_a_second() -> None:
    bucket = replay._Bucket()
    assert sum(bucket.take(0.0) for _ in range(40_001)) == 40_000
    assert sum(bucket.take(1.0) for _ in range(201)) == 200


def test_refused_entries_spread_over_16_mib() -> None:
    assert replay._places(b"\xff" * 16) == [((1 << 24) - 1, 0x80)] * 4
    assert replay._places(bytes(16)) == [(0, 1)] * 4


def test_what_was_refused_is_refused_for_good_although_somebody_kept_it(few: None) -> None:
    """Its client may have asked elsewhere: it must not run here too."""
    guard = ReplayGuard()
    assert [refused(guard, enc, 0) for enc in (b"a", b"b", b"kept")] == [False, False, True]
    assert all(refused(guard, b"kept", now) for now in (1, 10, 1000))
    assert not refused(guard, b"another", 1000)


def test_a_replay_is_told_as_one_and_takes_no_turn(few: None) -> None:
    guard = ReplayGuard()
    guard.reserve(b"first", now=0)
    for _ in range(9):
        with pytest.raises(Replayed):
            guard.reserve(b"first", now=0)
    assert not refused(guard, b"second", 0) and refused(guard, b"third", 0)
    with pytest.raises(Replayed):  # also when nothing is taken
        guard.reserve(b"first", now=0)


def test_a_full_table_refuses_as_before(few: None) -> None:
    guard = ReplayGuard(1)
    guard.reserve(b"first", now=0)
    with pytest.raises(ChannelError, match="full"):
        guard.reserve(b"second", now=0)


def test_before_a_refusal_nothing_is_set_aside_for_it() -> None:
    guard = ReplayGuard()
    guard.reserve(b"first", now=0)
    assert not guard._refused._bits


@given(
    st.lists(st.binary(min_size=16, max_size=16), max_size=200), st.binary(min_size=16, max_size=16)
)
def test_every_refused_entry_is_found_again(entries: list[bytes], other: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "REFUSED_BITS", 1 << 12)
        refusals = replay._Refused()
        assert other not in refusals
        for entry in entries:
            refusals.add(entry)
        assert all(entry in refusals for entry in entries)


def test_few_others_are_taken_for_refused_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an hour of 1,000 refusals a second, in a thousandth of the bits."""
    monkeypatch.setattr(replay, "REFUSED_BITS", replay.REFUSED_BITS // 1000)
    chance = random.Random(1)
    refusals = replay._Refused()
    for _ in range(3600):
        refusals.add(chance.randbytes(16))
    assert sum(chance.randbytes(16) in refusals for _ in range(20_000)) < 20


def test_many_at_once_get_no_more_than_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "BURST", 50)
    monkeypatch.setattr(replay, "REFUSED_BITS", 1 << 16)
    guard = ReplayGuard()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: refused(guard, b"%d" % number, 0), range(400)))
    assert len(guard) == 50


# Of requests


def test_a_request_that_came_too_soon_is_refused_and_its_refusal_can_be_sealed(few: None) -> None:
    ring = Ring()
    for _ in range(2):
        ring.open(ring.sealed())
    incoming = ring.ring.request(chunked=True)
    with pytest.raises(TooManyRequests, match="expected at most 1 in a second"):
        incoming.push(ring.sealed())
    assert incoming.response().finish() and incoming.key_id in {
        config.key_id for config in ring.epoch.configs
    }
    ring.now = 1.0
    assert ring.open(ring.sealed()) == b"question"


def test_what_does_not_authenticate_takes_no_turn_and_has_no_response(few: None) -> None:
    ring = Ring()
    for _ in range(9):
        incoming = ring.ring.request(chunked=True)
        sealed = bytearray(ring.sealed())
        sealed[60] ^= 1  # of its first chunk
        with pytest.raises(ChannelError):
            incoming.open(bytes(sealed))
        with pytest.raises(UsageError):
            incoming.response()
    assert len(ring.epoch.guard) == 0
    assert ring.open(ring.sealed()) == b"question"


def test_who_sends_to_all_keys_of_an_epoch_has_one_rate(few: None) -> None:
    ring = Ring()
    for kem_id in KEMS:
        ring.open(ring.sealed(kem_id=kem_id))
    for kem_id in KEMS:
        with pytest.raises(TooManyRequests):
            ring.open(ring.sealed(kem_id=kem_id))


def test_who_sends_to_many_sessions_has_one_rate_and_keeps_none_alive(few: None) -> None:
    ring = Ring()
    sessions = [ring.sessions.open(X25519, ring.epoch.guard) for _ in range(4)]
    for session in sessions[:2]:
        ring.open(ring.sealed(session=session), to_session=True)
    for session in sessions[2:]:
        with pytest.raises(TooManyRequests):
            ring.open(ring.sealed(session=session), to_session=True)
    assert len(ring.sessions._used) == len(ring.sessions._unused) == 2


def test_a_flood_of_an_epoch_takes_nothing_from_the_next(few: None) -> None:
    ring = Ring()
    sealed = [ring.sealed() for _ in range(3)]
    before: Epoch = ring.epoch
    ring.epoch = ring.ring.open_epoch(KEMS)
    for one in sealed[:2]:
        ring.open(one)
    with pytest.raises(TooManyRequests):
        ring.open(sealed[2])
    assert ring.open(ring.sealed()) == b"question"
    assert (len(before.guard), len(ring.epoch.guard)) == (2, 1)
