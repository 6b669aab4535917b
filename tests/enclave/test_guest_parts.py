"""The guest's parts: host config, epochs by their clock, an agent that lies, kernel and driver."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import string
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel.server import KeyRing
from attestation.errors import NotAuthentic, NotForUs, ParseError, Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.evidence import Evidence
from attestation.platforms.tdx.eventlog import (
    EV_NO_ACTION,
    MAX_AREA_BYTES,
    Event,
    EventLog,
    specification,
)
from attestation.trust.roots import PRODUCTION, Roots
from enclave.guest import feed as feeds
from enclave.guest.config import HostConfig, Schedule
from enclave.guest.engines.base import EngineSettings
from enclave.guest.epochs import BOOT, RENEW, Epoch, Epochs, keep
from enclave.guest.feed import Beacon, Feed
from enclave.guest.gpu import NvmlGpus, attest
from enclave.guest.keys import BootKeys, Configs, Prover
from enclave.guest.platforms import tsm as platforms
from enclave.guest.platforms.tsm import QuoteWithLogs, TsmPlatform
from enclave.simulator.service import Simulator
from tests.helpers.tdx_machine import machine
from tests.helpers.world import NOW, ask, quoted_of

GOOD = b'[network]\nid = "umay-test"\n[price]\nprompt = 1\ncompletion = 2\n'


# Host config


def test_a_host_config_with_everything() -> None:
    text = GOOD + (
        b'payee = "EQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPrHF"\n[gpu]\ncount = 8\n'
        b"[epoch]\nlength_s = 100\noverlap_s = 10\nlead_s = 50\n"
        b'[engine]\nname = "other"\nslots = 32\nmax_len = 4096\ndtype = "float32"\nthreads = 2\n'
    )
    assert HostConfig.from_toml(text) == HostConfig(
        network="umay-test",
        prompt_price=1,
        completion_price=2,
        payee="0:ca6e321c7cce9ecedf0a8ca2492ec8592494aa5fb5ce0387dff96ef6af982a3e",
        gpus=8,
        engine=EngineSettings(name="other", slots=32, max_len=4096, dtype="float32", threads=2),
        schedule=Schedule(length=100, overlap=10, lead=50),
    )


def test_what_a_host_config_leaves_out() -> None:
    config = HostConfig.from_toml(GOOD)
    assert (config.payee, config.gpus) == (None, 1)
    assert config.engine == EngineSettings(name="torch")
    assert config.schedule == Schedule(3600, 600, 1800)
    assert config.price_table == b'{"completion":2,"prompt":1}'


BAD_CONFIGS = {
    "empty": b"",
    "not utf-8": b"\xff" + GOOD,
    "not toml": b"[network",
    "number longer than python converts": GOOD.replace(b"prompt = 1", b"prompt = " + b"1" * 5000),
    "deep": b"a = " + b"[" * 5000,
    "too long": GOOD + b"#" * 65536,
    "unknown table": GOOD + b"[other]\n",
    "unknown key at the top": b"x = 1\n" + GOOD,
    "unknown key of network": GOOD.replace(b'"umay-test"', b'"umay-test"\nx = 1'),
    "unknown key of price": GOOD + b"x = 1\n",
    "unknown key of epoch": GOOD + b"[epoch]\nx = 1\n",
    "unknown key of gpu": GOOD + b"[gpu]\nx = 1\n",
    "unknown key of engine": GOOD + b'[engine]\nname = "torch"\nx = 1\n',
    "engine with an empty name": GOOD + b'[engine]\nname = ""\n',
    "engine without a slot": GOOD + b"[engine]\nslots = 0\n",
    "engine with half a slot": GOOD + b"[engine]\nslots = 0.5\n",
    "engine with a slot that is true": GOOD + b"[engine]\nslots = true\n",
    "context too long": GOOD + b"[engine]\nmax_len = 16777217\n",
    "dtype by number": GOOD + b"[engine]\ndtype = 16\n",
    "no thread": GOOD + b"[engine]\nthreads = 0\n",
    "engine by number": GOOD + b"[engine]\nname = 1\n",
    "a table that is none": b"gpu = 1\n" + GOOD,
    "no network": GOOD.partition(b"[price]")[2].join([b"[price]", b""]),
    "no network id": GOOD.replace(b"id =", b"di ="),
    "empty network id": GOOD.replace(b'"umay-test"', b'""'),
    "network id that is a number": GOOD.replace(b'"umay-test"', b"1"),
    "network id with a line break": GOOD.replace(b'"umay-test"', b'"a\\nb"'),
    "long network id": GOOD.replace(b"umay-test", b"n" * 65),
    "no price": GOOD.replace(b"prompt = 1\n", b""),
    "price below zero": GOOD.replace(b"= 1", b"= -1"),
    "price too large": GOOD.replace(b"= 1", b"= 1000000000000001"),
    "price that is a fraction": GOOD.replace(b"= 1", b"= 1.0"),
    "price that is true": GOOD.replace(b"= 1", b"= true"),
    "payee that is a number": GOOD + b"payee = 1\n",
    "payee that is no account": GOOD + b'payee = "EQpayee"\n',
    "payee of 31 bytes": GOOD + b'payee = "0:' + b"ab" * 31 + b'"\n',
    "too many gpus": GOOD + b"[gpu]\ncount = 65\n",
    "lead as long as the epoch": GOOD + b"[epoch]\nlength_s = 10\nlead_s = 10\n",
    "keys that live too long": GOOD + b"[epoch]\nlead_s = 3001\n",
    "epoch too long": GOOD + b"[epoch]\nlength_s = 3601\n",
    "no overlap": GOOD + b"[epoch]\noverlap_s = 0\n",
}


MISTYPED = {
    "a table": (GOOD.replace(b"[price]", b"[prices]"), "host config: prices", "price"),
    "a price": (GOOD.replace(b"completion", b"completions"), "[price] completions", "completion"),
    "an epoch's": (GOOD + b"[epoch]\nlenght_s = 100\n", "[epoch] lenght_s", "length_s"),
    "one for another": (GOOD.replace(b"id =", b"di ="), "[network] di", "id"),
}


@pytest.mark.parametrize(("text", "place", "meant"), MISTYPED.values(), ids=MISTYPED)
def test_a_mistyped_key_is_named_with_what_was_meant(text: bytes, place: str, meant: str) -> None:
    with pytest.raises(ParseError) as caught:
        HostConfig.from_toml(text)
    said = str(caught.value)
    assert f"{place}: unknown key; " in said and re.search(rf"(mean|of) {meant}\b", said)


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_host_config(name: str) -> None:
    with pytest.raises(ParseError, match=r"host config: "):
        HostConfig.from_toml(BAD_CONFIGS[name])


@given(st.binary(max_size=400))
def test_arbitrary_bytes_as_host_config(data: bytes) -> None:
    _try(data)


WORDS = st.sampled_from(
    ["network", "price", "epoch", "gpu", "id", "prompt", "count", "lead_s", "x"]
)
VALUES = st.one_of(
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(string.ascii_letters, max_size=6),
    st.lists(st.integers(), max_size=2),
)


@given(st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=4), max_size=5))
def test_arbitrary_tables_as_host_config(tables: dict[str, dict[str, Any]]) -> None:
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    ]
    _try("".join(lines).encode())


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 64))
def test_a_good_host_config_is_read_as_written(prompt: int, completion: int, gpus: int) -> None:
    text = f'[network]\nid="n"\n[price]\nprompt={prompt}\ncompletion={completion}\n'
    config = HostConfig.from_toml(f"{text}[gpu]\ncount={gpus}\n".encode())
    assert json.loads(config.price_table) == {"prompt": prompt, "completion": completion}
    assert config.gpus == gpus


def _try(data: bytes) -> None:
    try:
        config = HostConfig.from_toml(data)
    except ParseError:
        return
    document = tomllib.loads(data.decode())
    assert document.keys() <= {"network", "price", "epoch", "gpu"}
    assert config.network == document["network"]["id"]


# Epochs. One unit is one second; L = 100, overlap 20, lead 50.

TIMES = Schedule(length=100, overlap=20, lead=50)


class Platform:
    """A simulated VM without the socket; `fails` makes its quotes fail."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator, self.fails = simulator, False
        self.roots = Roots(frozenset(), frozenset(), frozenset(), frozenset(), simulated=True)
        ask(simulator, "launch", "vm", 0)

    def extend(self, digest: bytes) -> None:
        ask(self.simulator, "tdx.extend", "vm", digest)

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        if self.fails:
            raise Unavailable("quote: no answer")
        return quoted_of(ask(self.simulator, "tdx.quote", "vm", report_data))


class Agent:
    """A feed whose blocks follow the clock, one a second, and that anchors when told."""

    def __init__(self) -> None:
        self.now, self.down = 0.0, False
        self.named: set[bytes] = set()
        self.asked: list[str] = []
        self.shift = 0

    def beacon(self) -> Beacon:
        self._answer("beacon")
        seconds = int(self.now) + self.shift
        return Beacon(
            1000 + seconds, seconds.to_bytes(32, "big", signed=True), NOW + seconds, self.now
        )

    def anchored(self) -> frozenset[bytes]:
        self._answer("anchored")
        return frozenset(self.named)

    def _answer(self, what: str) -> None:
        if self.down:
            raise Unavailable("agent: ConnectionRefusedError")
        self.asked.append(what)


class Boot:
    """Epochs of one boot under a clock that only `at` moves."""

    def __init__(self, simulator: Simulator, *, capacity: int = 10, gpus: int = 0) -> None:
        config = dataclasses.replace(HostConfig.from_toml(GOOD), gpus=gpus, schedule=TIMES)
        configs = Configs(b"{}", config.price_table, GOOD)
        self.agent, self.platform = Agent(), Platform(simulator)
        prover = Prover(self.platform, NvmlGpus(Nvml()), BootKeys(), config, configs, bytes(32))
        self.ring = KeyRing(replay_capacity=capacity)
        self.epochs = Epochs(prover, self.agent, self.ring, TIMES)  # type: ignore[arg-type]

    def at(self, now: float) -> list[str]:
        """Steps at `now`; the states, oldest first."""
        self.agent.now = now
        self.epochs.step(now)
        return self.states()

    def states(self) -> list[str]:
        return [state for _, state in self.epochs.living]

    def anchor(self) -> None:
        self.agent.named |= {epoch.evidence_digest for epoch, _ in self.epochs.living}

    def running(self) -> Boot:
        """Past its boot: the first epoch is current since second 0."""
        self.epochs.first(0)
        self.anchor()
        assert self.at(1) == ["current"]
        return self

    def epoch(self, index: int) -> Epoch:
        return self.epochs.living[index][0]

    def fill(self, epoch: Epoch, count: int) -> None:
        for number in range(count):
            epoch.keys.guard.reserve(b"%d" % number, now=0)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return Simulator(tmp_path_factory.mktemp("state"), clock=lambda: NOW)


@pytest.fixture
def boot(simulator: Simulator) -> Boot:
    return Boot(simulator)


def test_the_first_epoch_is_pending_until_it_is_anchored(boot: Boot) -> None:
    boot.epochs.first(0)
    assert boot.at(1) == ["pending"]
    assert boot.epochs.current is None
    boot.anchor()
    assert boot.at(2) == ["current"]
    assert boot.epochs.current is boot.epoch(0)
    assert (boot.epoch(0).kind, boot.epoch(0).previous) == (BOOT, None)


def test_the_times_of_the_first_bundle(boot: Boot) -> None:
    boot.agent.now = 7
    boot.epochs.first(7)
    bundle = boot.epoch(0).bundle
    assert (bundle.not_before, bundle.not_after) == (NOW + 7, NOW + 7 + 120)
    assert bundle.beacon == (1007, (7).to_bytes(32, "big"))


def test_the_next_epoch_is_made_its_lead_before_its_use(boot: Boot) -> None:
    boot.running()
    assert boot.at(49.9) == ["current"]
    assert boot.at(50) == ["current", "pending"]
    bundle = boot.epoch(1).bundle
    assert (bundle.not_before, bundle.not_after) == (NOW + 100, NOW + 220)
    assert bundle.beacon[0] == 1050
    assert bundle.not_after <= NOW + 50 + 7200
    assert (boot.epoch(1).kind, boot.epoch(1).previous) == (RENEW, boot.epoch(0).evidence_digest)


def test_a_next_epoch_that_is_anchored_waits_for_its_time(boot: Boot) -> None:
    boot.running().at(50)
    boot.anchor()
    assert boot.at(51) == ["current", "ready"]
    assert boot.at(99.9) == ["current", "ready"]
    assert boot.at(100) == ["retired", "current"]


def test_a_retired_epoch_opens_requests_for_the_overlap_and_then_forgets(boot: Boot) -> None:
    boot.running().at(50)
    boot.anchor()
    boot.at(51)
    boot.at(100)
    old = boot.epoch(0)
    ids = sorted(old.key_ids)
    assert boot.at(119.9) == ["retired", "current"]
    assert all(boot.epochs.of_key(key_id) is old for key_id in ids)
    assert boot.at(120) == ["current"]
    assert all(boot.epochs.of_key(key_id) is None for key_id in ids)
    for key_id in ids:
        with pytest.raises(NotForUs):
            boot.ring.find(key_id)


def test_epochs_share_no_key_and_no_key_id(boot: Boot) -> None:
    boot.running().at(50)
    one, two = boot.epoch(0), boot.epoch(1)
    assert not one.key_ids & two.key_ids
    assert not set(one.bundle.key_configs) & set(two.bundle.key_configs)
    assert one.evidence_digest != two.evidence_digest
    assert one.bundle.boot_id == two.bundle.boot_id
    assert one.bundle.receipt_key == two.bundle.receipt_key


def test_every_epoch_has_a_quote_of_its_own(boot: Boot) -> None:
    boot.running().at(50)
    quotes = [Evidence.from_bytes(epoch.evidence).quote for epoch, _ in boot.epochs.living]
    assert quotes == [epoch.quote for epoch, _ in boot.epochs.living]
    assert quotes[0] != quotes[1]


def test_a_next_epoch_not_anchored_in_time_leaves_the_current_until_its_end(boot: Boot) -> None:
    boot.running().at(50)
    assert boot.at(100) == ["current", "pending"]
    assert boot.at(119.9) == ["current", "pending"]
    assert boot.at(120) == ["pending"]
    assert boot.epochs.current is None


def test_a_next_epoch_anchored_late_begins_at_once(boot: Boot) -> None:
    boot.running().at(50)
    boot.at(110)
    boot.anchor()
    assert boot.at(111) == ["retired", "current"]
    assert boot.at(120) == ["current"]


def test_an_epoch_never_anchored_ends_too_and_another_is_made(boot: Boot) -> None:
    boot.epochs.first(0)
    first = boot.epoch(0)
    assert boot.at(119) == ["pending"]
    assert boot.at(120) == ["pending"]
    assert boot.epoch(0) is not first
    assert (boot.epoch(0).kind, boot.epoch(0).bundle.not_before) == (BOOT, NOW + 120)


def test_many_epochs_one_after_the_other(boot: Boot) -> None:
    boot.running()
    seen = []
    for now in range(2, 1000):
        states = boot.at(now)
        boot.anchor()
        assert states.count("current") == 1
        assert len(states) <= 3
        current = boot.epochs.current
        assert current is not None
        assert current.bundle.not_before <= NOW + now < current.bundle.not_after
        if current.evidence_digest not in seen:
            seen.append(current.evidence_digest)
            assert len(seen) == 1 or current.previous == seen[-2]
    assert len(seen) == 10


def test_an_agent_that_is_down_changes_nothing_but_time(boot: Boot) -> None:
    boot.running()
    boot.agent.down = True
    for now in (60, 90):
        with pytest.raises(Unavailable):
            boot.at(now)
        assert boot.states() == ["current"]
    boot.agent.down = False
    assert boot.at(91) == ["current", "pending"]
    assert boot.epoch(1).bundle.not_before == NOW + 100


def test_keys_end_on_time_even_while_the_agent_is_down(boot: Boot) -> None:
    boot.running()
    key_id = min(boot.epoch(0).key_ids)
    boot.agent.down = True
    boot.epochs.retire(120)
    assert (boot.states(), boot.epochs.current) == ([], None)
    with pytest.raises(NotForUs):
        boot.ring.find(key_id)


def test_a_boot_that_ended_has_no_keys_and_makes_none_again(boot: Boot) -> None:
    boot.running()
    second = boot.at(60)
    assert second == ["current", "pending"]
    ids = [key_id for epoch, _ in boot.epochs.living for key_id in epoch.key_ids]
    last = boot.epoch(0)
    assert boot.epochs.end() is last
    assert boot.epochs.end() is last  # asked again
    assert (boot.states(), boot.epochs.current) == ([], None)
    for key_id in ids:
        with pytest.raises(NotForUs):
            boot.ring.find(key_id)
    assert boot.at(61) == boot.at(500) == []


def test_an_epoch_under_way_while_the_boot_ends_leaves_no_key(boot: Boot) -> None:
    boot.running()
    boot.epochs.end()
    boot.epochs.first(5)
    assert boot.states() == []
    assert not boot.ring._held


def test_what_was_never_anchored_cannot_retire(boot: Boot) -> None:
    boot.epochs.first(0)
    with pytest.raises(Unavailable):
        boot.epochs.end()
    assert boot.at(1) == ["pending"]


def test_an_epoch_that_could_not_be_proved_leaves_no_key(boot: Boot) -> None:
    boot.running()
    held = len(boot.ring._held)
    boot.platform.fails = True
    with pytest.raises(Unavailable, match="quote"):
        boot.at(50)
    assert len(boot.ring._held) == held
    boot.platform.fails = False
    assert boot.at(51) == ["current", "pending"]


def test_a_replay_table_at_80_percent_rotates_at_once(boot: Boot) -> None:
    boot.running()
    boot.fill(boot.epoch(0), 7)
    assert boot.at(10) == ["current"]
    boot.epoch(0).keys.guard.reserve(b"one more", now=0)
    assert boot.at(11) == ["current", "pending"]
    assert boot.epoch(1).bundle.not_before == NOW + 11
    assert boot.at(12) == ["current", "pending"]
    boot.anchor()
    assert boot.at(13) == ["retired", "current"]


def test_a_full_table_does_not_wait_for_an_epoch_that_begins_later(boot: Boot) -> None:
    boot.running().at(50)
    boot.anchor()
    assert boot.at(51) == ["current", "ready"]
    boot.fill(boot.epoch(0), 8)
    assert boot.at(52) == ["current", "ready", "pending"]
    assert boot.epoch(2).bundle.not_before == NOW + 52
    assert boot.at(53) == ["current", "ready", "pending"]
    boot.anchor()
    assert boot.at(54) == ["retired", "ready", "current"]
    assert boot.at(100) == ["retired", "current", "retired"]


def test_an_agent_that_names_everything_is_remembered_for_nothing_else(boot: Boot) -> None:
    boot.epochs.first(0)
    boot.agent.named = {number.to_bytes(32, "big") for number in range(1000)}
    assert boot.at(1) == ["pending"]
    assert boot.epochs._anchored == frozenset()


def test_an_anchored_epoch_is_not_asked_about_again(boot: Boot) -> None:
    boot.running()
    boot.agent.asked.clear()
    boot.at(2)
    assert boot.agent.asked == []


@pytest.mark.parametrize("shift", [-60, -1000])
def test_a_beacon_does_not_go_back(boot: Boot, shift: int) -> None:
    boot.running()
    boot.agent.shift = shift
    with pytest.raises(Unavailable, match="expected block 1000 or later"):
        boot.at(50)
    assert boot.states() == ["current"]
    assert boot.epochs.utime(50) == NOW + 50


def test_time_is_the_beacons_and_the_monotonic_clocks(boot: Boot) -> None:
    assert boot.epochs.utime(5) == 0
    boot.running()
    assert boot.epochs.utime(42.4) == NOW + 42


# The keeper


def run_keeper(actions: list[Callable[[], None]]) -> list[str]:
    stopped, said = threading.Event(), []  # type: ignore[var-annotated]

    def action(_: float) -> None:
        following = actions.pop(0)
        if not actions:
            stopped.set()
        following()

    keep(action, stopped, clock=lambda: 0.0, tell=said.append, every=0.001)
    return said


def fail(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_the_keeper_says_once_what_fails_and_goes_on() -> None:
    down = Unavailable("agent: timed out")
    assert run_keeper([fail(down), fail(down), lambda: None, fail(down)]) == [
        "epoch: agent: timed out",
        "epoch: agent: timed out",
    ]


def test_the_keeper_outlives_a_fault_and_shows_nothing_of_it() -> None:
    said = run_keeper([fail(ValueError("a secret")), lambda: None])
    assert said == ["epoch: stopped by ValueError"]


# The feed

BEACON = {0: 5, 1: bytes(32), 2: NOW}


class Liar:
    """An agent on loopback that answers whatever `answer` writes."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        self.asked: list[str] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                liar.asked.append(self.path)
                try:
                    liar.answer(self)
                except OSError:
                    return

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.feed = Feed(self.url, clock=lambda: 3.0)

    def says(self, body: bytes, *, status: int = 200, length: int | None = None) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("content-length", str(len(body) if length is None else length))
            handler.end_headers()
            handler.wfile.write(body)

        self.answer = answer


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_a_beacon_is_read(liar: Liar) -> None:
    liar.says(cbor.encode(BEACON))
    assert liar.feed.beacon() == Beacon(5, bytes(32), NOW, 3.0)
    assert liar.asked == ["/beacon"]


def test_the_anchored_are_read(liar: Liar) -> None:
    liar.says(cbor.encode([bytes(32), b"\x01" * 32]))
    assert liar.feed.anchored() == {bytes(32), b"\x01" * 32}


BAD_BEACONS = {
    "garbage": b"\xff\xff",
    "nothing": b"",
    "a list": cbor.encode([5, bytes(32), NOW]),
    "no time": cbor.encode({0: 5, 1: bytes(32)}),
    "short hash": cbor.encode(BEACON | {1: bytes(31)}),
    "text for a hash": cbor.encode(BEACON | {1: "0" * 32}),
    "true for a seqno": cbor.encode(BEACON | {0: True}),
    "seqno below zero": cbor.encode(BEACON | {0: -1}),
    "seqno of 33 bits": cbor.encode(BEACON | {0: 1 << 32}),
    "time below zero": cbor.encode(BEACON | {2: -1}),
    "time of 33 bits": cbor.encode(BEACON | {2: 1 << 32}),
    "time of 200 bits": cbor.encode(BEACON | {2: 1 << 200}),
    "more after it": cbor.encode(BEACON) + b"\x00",
    "unknown critical key": cbor.encode(BEACON | {-1: 0}),
}


@pytest.mark.parametrize("name", BAD_BEACONS)
def test_a_bad_beacon(liar: Liar, name: str) -> None:
    liar.says(BAD_BEACONS[name])
    with pytest.raises(ParseError):
        liar.feed.beacon()


@pytest.mark.parametrize("value", [{}, 7, [7], [bytes(31)], ["0" * 32], [[bytes(32)]]])
def test_bad_anchored(liar: Liar, value: object) -> None:
    liar.says(cbor.encode(value))
    with pytest.raises(ParseError):
        liar.feed.anchored()


def test_which_boots_end_is_read(liar: Liar) -> None:
    liar.says(cbor.encode([bytes(16)]))
    assert liar.feed.ending() == {bytes(16)}
    assert liar.asked == ["/ending"]


@pytest.mark.parametrize("value", [{}, 7, [7], [bytes(32)], ["0" * 16], [[bytes(16)]], None])
def test_bad_ends(liar: Liar, value: object) -> None:
    liar.says(cbor.encode(value))
    with pytest.raises(ParseError):
        liar.feed.ending()


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def speaks_no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")


def sends_headers_for_ever(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    for number in range(1000):
        handler.send_header(f"x-{number}", "x")
    handler.end_headers()


def sends_one_long_line(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("x", "x" * 100_000)
    handler.end_headers()


def sends_broken_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")


def redirects(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("location", "/elsewhere")
    handler.end_headers()


def streams_for_ever(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65536))


LIES = (
    hangs_up,
    speaks_no_http,
    sends_headers_for_ever,
    sends_one_long_line,
    sends_broken_chunks,
    redirects,
    streams_for_ever,
)


@pytest.mark.parametrize("lie", LIES)
def test_an_agent_that_speaks_badly_is_one_that_does_not_answer(
    liar: Liar, lie: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    liar.answer = lie
    with pytest.raises(Unavailable):
        liar.feed.beacon()
    assert liar.asked == ["/beacon"]


@pytest.mark.parametrize("status", [204, 404, 500, 503])
def test_an_agent_without_an_answer(liar: Liar, status: int) -> None:
    liar.says(b"", status=status)
    with pytest.raises((Unavailable, ParseError)):
        liar.feed.beacon()


def test_an_answer_that_is_cut(liar: Liar) -> None:
    body = cbor.encode(BEACON)
    liar.says(body, length=len(body) + 5)
    with pytest.raises(Unavailable, match="5 bytes more"):
        liar.feed.beacon()


def test_an_answer_that_drips_is_given_up(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TIMEOUT_S", 0.3)
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.05):
            handler.wfile.write(b"\x00")

    liar.answer = drip
    with pytest.raises(Unavailable, match="within"):
        liar.feed.beacon()
    ended.set()


def test_an_agent_that_is_not_there() -> None:
    with pytest.raises(Unavailable):
        Feed("http://127.0.0.1:9").beacon()


@pytest.mark.parametrize("url", ["https://agent", "file:///etc/passwd", "agent:80", ""])
def test_an_agent_elsewhere_than_http(url: str) -> None:
    with pytest.raises(UsageError):
        Feed(url)


# The kernel's reports

FILL = b"\xff" * 100
NOTE = Event(0, EV_NO_ACTION, bytes(48), b"SP800-155 Event3")
LOG = EventLog(1, specification(), (NOTE,)).to_bytes()
PADDING = bytes(307)
"""What a real host handed over behind a quote."""


class Kernel:
    """configfs-tsm in memory: generates on read, counts writes, fails as `errors` say."""

    def __init__(self) -> None:
        self.generation, self.strangers, self.provider = 0, 0, "tdx_guest\n"
        self.errors: list[int] = []
        self.entries: list[str] = []
        self.quote: Callable[[bytes], bytes] = lambda data: quote_over(data) + PADDING

    def __truediv__(self, name: str) -> Kernel.Entry:
        return Kernel.Entry(self, name)

    class Entry:
        def __init__(self, kernel: Kernel, name: str) -> None:
            self.kernel, self.name, self.inblob = kernel, name, b""

        def __truediv__(self, name: str) -> Kernel.File:
            return Kernel.File(self, name)

        def mkdir(self) -> None:
            self.kernel.entries.append(self.name)

        def rmdir(self) -> None:
            self.kernel.entries.remove(self.name)

    class File:
        def __init__(self, entry: Kernel.Entry, name: str) -> None:
            self.entry, self.kernel, self.name = entry, entry.kernel, name

        def read_text(self) -> str:
            if self.name == "provider":
                return self.kernel.provider
            return f"{self.kernel.generation}\n"

        def write_bytes(self, data: bytes) -> None:
            assert self.name == "inblob"
            self.entry.inblob = data
            self.kernel.generation += 1 + self.kernel.strangers

        def read_bytes(self) -> bytes:
            assert self.name == "outblob"
            if self.kernel.errors:
                number = self.kernel.errors.pop(0)
                raise OSError(number, errno.errorcode[number])
            return self.kernel.quote(self.entry.inblob)


def quote_over(report_data: bytes) -> bytes:
    return machine().quote(report_data=report_data)


@dataclasses.dataclass
class Td:
    kernel: Kernel
    folder: Path
    platform: TsmPlatform


@pytest.fixture
def td(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Td:
    monkeypatch.setattr(platforms, "PAUSE_S", 0.0)
    kernel = Kernel()
    (tmp_path / "rtmr3").write_bytes(bytes(48))
    (tmp_path / "ccel").write_bytes(LOG + FILL)
    reports: Any = kernel
    paths = {"rtmr3": tmp_path / "rtmr3", "ccel": tmp_path / "ccel"}
    return Td(kernel, tmp_path, TsmPlatform(reports=reports, **paths))


def test_a_quote_comes_with_the_logs_that_explain_it(td: Td) -> None:
    events = (b"\x01" * 48, b"\x02" * 48)
    for event in events:
        td.platform.extend(event)
    data = bytes(range(64))
    assert td.platform.quote(data) == QuoteWithLogs(quote_over(data), LOG, events)
    assert td.kernel.entries == []
    assert td.platform.roots is PRODUCTION


def test_an_extension_is_one_write_of_48_bytes(td: Td) -> None:
    td.platform.extend(b"\x07" * 48)
    assert (td.folder / "rtmr3").read_bytes() == b"\x07" * 48


def test_an_extension_that_fails_is_no_event(td: Td) -> None:
    (td.folder / "rtmr3").unlink()
    with pytest.raises(Unavailable, match="RTMR3"):
        td.platform.extend(bytes(48))
    assert td.platform.quote(bytes(64)).rtmr3_events == ()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR, errno.EWOULDBLOCK])
def test_a_kernel_that_is_busy_is_asked_again(td: Td, number: int) -> None:
    td.kernel.errors = [number] * (platforms.TRIES - 1)
    assert td.platform.quote(bytes(64)).quote
    assert td.kernel.entries == []


@pytest.mark.parametrize(
    "errors", [[errno.EBUSY] * platforms.TRIES, [errno.EIO], [errno.ETIMEDOUT]], ids=str
)
def test_a_kernel_that_gives_no_quote(td: Td, errors: list[int]) -> None:
    td.kernel.errors = errors
    with pytest.raises(Unavailable, match="quote: E"):
        td.platform.quote(bytes(64))
    assert td.kernel.entries == []


def test_success_without_a_quote(td: Td) -> None:
    td.kernel.quote = lambda _: b""
    with pytest.raises(Unavailable, match="got nothing"):
        td.platform.quote(bytes(64))


def test_another_provider(td: Td) -> None:
    td.kernel.provider = "sev_guest\n"
    with pytest.raises(Unavailable, match="expected the provider tdx_guest, got sev_guest"):
        td.platform.quote(bytes(64))


def test_another_writer_in_between(td: Td) -> None:
    td.kernel.strangers = 1
    with pytest.raises(Unavailable, match="another program"):
        td.platform.quote(bytes(64))


@pytest.mark.parametrize("size", [0, 1, 70, 307, 3061, 3065, 27_000])
def test_a_quote_loses_the_zeros_behind_it(td: Td, size: int) -> None:
    td.kernel.quote = lambda data: quote_over(data) + bytes(size)
    assert td.platform.quote(bytes(64)).quote == quote_over(bytes(64))


@pytest.mark.parametrize(
    "rest", [b"\x01", bytes(306) + b"\x01", b"\x01" + bytes(306), b"\xff" * 8], ids=len
)
def test_a_quote_with_something_else_behind_it(td: Td, rest: bytes) -> None:
    td.kernel.quote = lambda data: quote_over(data) + rest
    with pytest.raises(Unavailable, match="TDX quote: expected zero padding after its"):
        td.platform.quote(bytes(64))


@pytest.mark.parametrize("buffer", [bytes(5243), quote_over(bytes(64))[:-1]], ids=["zeros", "cut"])
def test_a_buffer_without_a_quote(td: Td, buffer: bytes) -> None:
    td.kernel.quote = lambda _: buffer
    with pytest.raises(Unavailable, match="broken buffer: TDX quote"):
        td.platform.quote(bytes(64))


@pytest.mark.parametrize("fill", [b"", FILL, b"\xff" * 60_000, bytes(8), bytes(60_000)], ids=len)
def test_a_ccel_loses_its_fill(td: Td, fill: bytes) -> None:
    (td.folder / "ccel").write_bytes(LOG + fill)
    assert td.platform.quote(bytes(64)).ccel == LOG


@pytest.mark.parametrize(
    "rest", [FILL + b"\x00", bytes(100) + b"\xff", bytes(MAX_AREA_BYTES)], ids=len
)
def test_a_ccel_that_does_not_end_in_fill(td: Td, rest: bytes) -> None:
    (td.folder / "ccel").write_bytes(LOG + rest)
    with pytest.raises(Unavailable, match="CCEL"):
        td.platform.quote(bytes(64))


def test_a_machine_without_tsm(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        TsmPlatform(reports=tmp_path / "none" / "report").quote(bytes(64))


# The driver


class NVMLError(Exception):
    pass


@dataclasses.dataclass
class Blob:
    """NVML's structures: fixed arrays and how much of them counts."""

    attestationReport: bytes = b""
    attestationReportSize: int = 0
    attestationCertChain: bytes = b""
    attestationCertChainSize: int = 0


class Nvml:
    """pynvml, with simulated GPUs behind it."""

    NVMLError = NVMLError
    NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE = 1

    def __init__(self, simulator: Simulator | None = None, gpus: int = 0) -> None:
        self.simulator, self.gpus, self.calls = simulator, gpus, []  # type: ignore[var-annotated]
        self.fault = False
        self.behind = bytes(99)
        """What stands behind a report and counts as of it."""

        self.spelled: Callable[[bytes], bytes] = lambda pem: pem

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if self.fault:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, index: int, nonce: bytes) -> Blob:
        assert self.simulator is not None
        report = ask(self.simulator, "forge.gpu", index, nonce)[1] + self.behind
        return Blob(attestationReport=report.ljust(8192, b"\0"), attestationReportSize=len(report))

    def nvmlDeviceGetConfComputeGpuCertificate(self, index: int) -> Blob:
        assert self.simulator is not None
        chain = ask(self.simulator, "forge.gpu", index, bytes(32))[2]
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        pem = self.spelled(b"".join(item.public_bytes(Encoding.PEM) for item in certificates))
        return Blob(
            attestationCertChain=pem.ljust(5120, b"\0"), attestationCertChainSize=len(pem) + 1
        )

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> None:
        self.calls.append(f"ready {state}")
        if self.fault:
            raise NVMLError("Not Supported")


def test_the_drivers_reports_hold(simulator: Simulator) -> None:
    roots = ask(simulator, "roots")[1]
    pinned = Roots(
        intel=frozenset(),
        amd=frozenset(),
        nvidia_device=frozenset({roots["nvidia_device"]}),
        nvidia_rim=frozenset({roots["nvidia_rim"]}),
        simulated=True,
    )
    gpus, nonce = NvmlGpus(Nvml(simulator, 2)), b"\x09" * 32
    devices = attest(gpus, nonce=nonce, count=2, roots=pinned, now=NOW)
    assert len(devices) == 2
    with pytest.raises(NotAuthentic) as caught:
        attest(gpus, nonce=nonce, count=2, roots=PRODUCTION, now=NOW)
    assert caught.value.code == "simulated-root"
    with pytest.raises(NotAuthentic) as caught:
        attest(gpus, nonce=nonce, count=1, roots=pinned, now=NOW)
    assert caught.value.code == "wrong-count"


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as-driver-590": lambda pem: pem,
    "as-driver-545": lambda pem: pem.removesuffix(b"\n"),
    "carriage-returns": lambda pem: pem.replace(b"\n", b"\r\n"),
    "blank-lines": lambda pem: pem.replace(b"-----BEGIN", b"\n-----BEGIN"),
    "zeros-behind": lambda pem: pem + bytes(300),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_chain_in_any_spelling_of_pem(simulator: Simulator, name: str) -> None:
    plain, nvml = Nvml(simulator, 1), Nvml(simulator, 1)
    nvml.spelled = SPELLINGS[name]
    expected = NvmlGpus(plain).reports(bytes(32))[0].chain
    assert NvmlGpus(nvml).reports(bytes(32))[0].chain == expected
    assert len(expected) == 5


@pytest.mark.parametrize("behind", [b"\n", bytes(99) + b"\x01", b"\xff" * 4], ids=len)
def test_a_report_with_something_else_behind_it(simulator: Simulator, behind: bytes) -> None:
    nvml = Nvml(simulator, 1)
    nvml.behind = behind
    with pytest.raises(Unavailable, match="NVML: NVIDIA device report: expected zero padding"):
        NvmlGpus(nvml).reports(bytes(32))


def test_one_gpu_shown_twice(simulator: Simulator) -> None:
    class Doubled(Nvml):
        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return 0

    roots = ask(simulator, "roots")[1]
    pinned = dataclasses.replace(
        PRODUCTION, nvidia_device=frozenset({roots["nvidia_device"]}), simulated=True
    )
    with pytest.raises(NotAuthentic) as caught:
        attest(NvmlGpus(Doubled(simulator, 2)), nonce=bytes(32), count=2, roots=pinned, now=NOW)
    assert caught.value.code == "duplicate-device"


def test_a_guest_of_no_gpus_needs_no_driver() -> None:
    nvml = Nvml()
    nvml.fault = True
    assert attest(NvmlGpus(nvml), nonce=bytes(32), count=0, roots=PRODUCTION, now=NOW) == ()


def test_a_driver_that_fails() -> None:
    nvml = Nvml()
    nvml.fault = True
    with pytest.raises(Unavailable, match="NVML: Driver Not Loaded"):
        NvmlGpus(nvml).reports(bytes(32))
    with pytest.raises(Unavailable, match="NVML: Not Supported"):
        NvmlGpus(nvml).set_ready()


def test_ready_is_set_for_all() -> None:
    nvml = Nvml()
    NvmlGpus(nvml).set_ready()
    assert nvml.calls == ["ready 1"]
