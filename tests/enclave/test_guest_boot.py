"""The boot over the simulator: what it makes passes the plan, and each cause of refusal."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import NotAuthentic, ParseError, Refused, Unavailable, UsageError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import engine_digest
from attestation.formats.evidence import INIT_DONE, Evidence, fresh_session
from attestation.formats.keys import KeyBundle
from attestation.formats.session import SessionAnswer, SessionRequest, session_leaf
from attestation.log.merkle import leaf_hash
from attestation.platforms.tdx import parse_quote
from attestation.trust.anchor import BlockRef
from attestation.verify.verifier import Presented, Verifier
from enclave.guest.boot import Machine, boot
from enclave.guest.engines.base import EngineFailed, EngineInfo, EngineSettings
from enclave.guest.feed import Beacon
from enclave.guest.guest import Guest
from enclave.guest.model import ModelFiles
from enclave.guest.platforms.simulated import SimulatedMachine
from enclave.guest.platforms.tsm import QuoteWithLogs
from enclave.guest.sessions import Sessions
from enclave.simulator.server import Server
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S
from tests.helpers.world import HOST, NOW, World, ask

CONFIG = HOST + b"[price]\nprompt = 1\ncompletion = 2\n"
LIMIT_S = 20


class ToyEngine:
    """An engine by its face alone; `at_start` runs when it starts."""

    def __init__(self, files: ModelFiles, at_start: Callable[[], None]) -> None:
        self.files, self.at_start, self.state = files, at_start, "new"
        self.info = EngineInfo(
            engine="toy",
            version="1",
            libraries=(),
            device="cpu",
            dtype="float32",
            quantisation="none",
            flags=(),
            slots=1,
            max_len=16,
            model_digest=files.digest,
            features=frozenset(),
        )

    async def start(self) -> EngineInfo:
        self.at_start()
        self.state = "running"
        return self.info

    async def close(self) -> None:
        self.state = "closed"


class ToyFeed:
    """An agent that knows one block, and anchors whatever `named` holds."""

    def __init__(self) -> None:
        self.named: frozenset[bytes] = frozenset()
        self.down = 0

    def beacon(self) -> Beacon:
        if self.down:
            self.down -= 1
            raise Unavailable("agent: ConnectionRefusedError")
        return Beacon(100, b"\x0b" * 32, NOW - 60, time.monotonic())

    def anchored(self) -> frozenset[bytes]:
        return self.named


@dataclasses.dataclass
class Rig:
    """A simulator on its socket, a model and a host config in a folder."""

    folder: Path
    world: World
    socket: Path
    feed: ToyFeed = dataclasses.field(default_factory=ToyFeed)
    engines: list[ToyEngine] = dataclasses.field(default_factory=list)
    chosen: str = "torch"

    def boot(
        self,
        config: bytes = CONFIG,
        *,
        gpus: int = 1,
        at_start: Callable[[], None] = lambda: None,
        **parts: Any,
    ) -> Guest:
        """Boots on a new simulated machine; `parts` stand in for its platform or its GPUs."""
        (self.folder / "host.toml").write_bytes(config)
        machine = SimulatedMachine(self.socket, "guest", gpus)

        def make(files: ModelFiles, _: EngineSettings) -> ToyEngine:
            self.engines.append(ToyEngine(files, at_start))
            return self.engines[-1]

        def make_toy(files: ModelFiles, settings: EngineSettings) -> ToyEngine:
            self.chosen = "toy"
            return make(files, settings)

        started = boot(
            Machine(parts.get("platform", machine), parts.get("hardware", machine)),
            host_config=self.folder / "host.toml",
            model=self.folder / "model",
            feed=self.feed,  # type: ignore[arg-type]
            engines={"torch": make, "toy": make_toy},  # type: ignore[dict-item]
            model_name="toy",
        )
        return asyncio.run(started)

    def serve(self, guest: Guest) -> None:
        """Anchors all that the guest has made."""
        self.feed.named = frozenset(e.evidence_digest for e, _ in guest.epochs.living)
        guest.epochs.step(time.monotonic())

    def presented(self, guest: Guest) -> Presented:
        (epoch, _), *_ = guest.epochs.living
        return Presented(
            evidence=epoch.evidence,
            engine_config=guest.configs.engine,
            price_table=guest.configs.price,
            host_config=guest.configs.host,
            collateral=Collateral(ask(self.world.simulator, "collateral")[1]),
        )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(100))
    world = World.start(tmp_path / "state")
    path = tmp_path / "s"
    server = Server(path, world.simulator)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield Rig(tmp_path, world, path)
    server.shutdown()
    server.server_close()


def bundle_of(guest: Guest) -> KeyBundle:
    return guest.epochs.living[0][0].bundle


def rtmr3_of(guest: Guest) -> bytes:
    return parse_quote(guest.epochs.living[0][0].quote).rt_mr3


def verify(rig: Rig, guest: Guest, *, model: bytes | None = None, **shown: Any) -> Any:
    """The whole plan under a policy that lists this engine, and this model unless another."""
    world, bundle = rig.world, bundle_of(guest)
    release = dataclasses.replace(world.policy.releases[0], engine_configs=None, host_configs=None)
    models = (("toy", model or bundle.model_digest),)
    world.policy = dataclasses.replace(world.policy, releases=(release,), models=models)
    world.beacon = BlockRef(*bundle.beacon, NOW - 60, "reported")
    logged, anchor = world.logged(dataclasses.replace(rig.presented(guest), **shown))
    return Verifier(world.policy).verify(logged, anchor=anchor, beacon=world.beacon, now=NOW)


def test_what_the_boot_makes_passes_the_whole_plan(rig: Rig) -> None:
    guest = rig.boot()
    enclave = verify(rig, guest)
    assert enclave.bundle == bundle_of(guest)
    assert enclave.simulated
    assert enclave.price_table == {"prompt": 1, "completion": 2}
    assert rig.engines[0].state == "running"


def test_the_bundle_states_this_boot(rig: Rig) -> None:
    guest = rig.boot()
    bundle = bundle_of(guest)
    assert bundle.boot_id == guest.boot.boot_id
    assert bundle.receipt_key == guest.boot.receipt_key
    assert bundle.model_digest == rig.engines[0].files.digest
    assert bundle.engine_digest == engine_digest(guest.configs.engine)
    assert bundle.beacon == (100, b"\x0b" * 32)
    assert bundle.network == "umay-test"
    assert bundle.gpu_count == 1
    assert bundle.not_before == NOW - 60
    assert bundle.not_after == NOW - 60 + 4200


def test_rtmr3_is_the_config_then_init_done_and_nothing_else(rig: Rig) -> None:
    guest = rig.boot()
    evidence = Evidence.from_bytes(guest.epochs.living[0][0].evidence)
    expected = tuple(hashlib.sha384(part).digest() for part in (CONFIG, INIT_DONE))
    assert evidence.rtmr3_events == expected
    register = bytes(48)
    for event in expected:
        register = hashlib.sha384(register + event).digest()
    assert rtmr3_of(guest) == register


@pytest.mark.parametrize(
    "changed", [CONFIG + b"\n", CONFIG.replace(b"= 2", b"= 3"), b"# a note\n" + CONFIG]
)
def test_another_host_config_is_another_rtmr3(rig: Rig, changed: bytes) -> None:
    assert rtmr3_of(rig.boot()) != rtmr3_of(rig.boot(changed))


def test_another_host_config_than_measured_is_refused_by_clients(rig: Rig) -> None:
    guest = rig.boot()
    with pytest.raises(NotAuthentic) as caught:
        verify(rig, guest, host_config=CONFIG + b"\n")
    assert caught.value.code == "host-config-mismatch"


def test_a_host_config_is_measured_even_where_it_is_no_config(rig: Rig) -> None:
    bad = b"[network"
    with pytest.raises(ParseError, match="host config: expected TOML"):
        rig.boot(bad)
    quoted = ask(rig.world.simulator, "tdx.quote", "guest", bytes(64))
    assert quoted[3] == [hashlib.sha384(bad).digest()]
    assert not rig.engines


def test_one_byte_of_the_model_is_another_model_digest(rig: Rig) -> None:
    before = bundle_of(rig.boot()).model_digest
    weights = rig.folder / "model" / "model.safetensors"
    weights.write_bytes(bytes(99) + b"\x01")
    assert bundle_of(rig.boot()).model_digest != before


def test_an_unlisted_model_is_refused_by_clients(rig: Rig) -> None:
    guest = rig.boot()
    with pytest.raises(Refused) as caught:
        verify(rig, guest, model=bytes(32))
    assert caught.value.step == "model"


def test_boots_share_no_key(rig: Rig) -> None:
    one, two = bundle_of(rig.boot()), bundle_of(rig.boot())
    assert one.boot_id != two.boot_id
    assert one.receipt_key != two.receipt_key
    assert not set(one.key_configs) & set(two.key_configs)


def test_a_key_is_in_no_repr(rig: Rig) -> None:
    guest = rig.boot()
    secret = guest.boot._key.private_bytes_raw()
    shown = repr(guest) + repr(guest.boot) + repr(guest.epochs.ring)
    assert secret.hex() not in shown
    assert repr(secret)[2:-1] not in shown
    assert "secret" in repr(guest.boot)


def test_the_agent_may_start_after_the_guest(rig: Rig) -> None:
    rig.feed.down = 2
    assert rig.boot().epochs.living[0][1] == "pending"


def test_an_agent_that_never_comes_ends_the_boot(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.guest.boot.AGENT_SECONDS", 0.0)
    rig.feed.down = 10**6
    with pytest.raises(Unavailable, match="agent"):
        rig.boot()


def test_fewer_gpus_than_the_config_says(rig: Rig) -> None:
    with pytest.raises(NotAuthentic) as caught:
        rig.boot(CONFIG + b"[gpu]\ncount = 2\n")
    assert caught.value.code == "wrong-count"
    assert rig.engines[0].state == "new"


@pytest.mark.parametrize("count", [0, 2])
def test_any_number_of_gpus_that_is_there(rig: Rig, count: int) -> None:
    guest = rig.boot(CONFIG + b"[gpu]\ncount = %d\n" % count, gpus=count)
    evidence = Evidence.from_bytes(guest.epochs.living[0][0].evidence)
    assert len(evidence.devices) == count == bundle_of(guest).gpu_count


class Watched(SimulatedMachine):
    """Notes the order in which things happen; `nonce` answers in place of the one asked."""

    events: list[str]
    nonce: bytes | None = None

    def reports(self, nonce: bytes) -> Any:
        self.events = [*getattr(self, "events", []), "reports"]
        return super().reports(self.nonce or nonce)

    def set_ready(self) -> None:
        self.events.append("ready")


class Forgetful(SimulatedMachine):
    """Does not tell of the first extension: as if another program had made it."""

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        quoted = super().quote(report_data)
        return dataclasses.replace(quoted, rtmr3_events=quoted.rtmr3_events[1:])


def test_gpus_are_ready_only_after_their_reports_and_before_the_engine(rig: Rig) -> None:
    gpus = Watched(rig.socket, "other")
    rig.boot(hardware=gpus, at_start=lambda: gpus.events.append("engine"))
    assert gpus.events == ["reports", "ready", "engine", "reports"]


def test_a_gpu_that_answers_an_old_nonce_is_never_ready(rig: Rig) -> None:
    gpus = Watched(rig.socket, "other")
    gpus.nonce = bytes(32)
    with pytest.raises(NotAuthentic) as caught:
        rig.boot(hardware=gpus)
    assert caught.value.step == "gpu"
    assert gpus.events == ["reports"]


def test_something_else_in_rtmr3_ends_the_boot(rig: Rig) -> None:
    with pytest.raises(NotAuthentic) as caught:
        rig.boot(platform=Forgetful(rig.socket, "other"))
    assert (caught.value.step, caught.value.code) == ("measurement", "rtmr-mismatch")
    assert rig.engines[0].state == "closed"


def test_an_engine_that_fails_its_self_test_is_closed(rig: Rig) -> None:
    def fail() -> None:
        raise EngineFailed("engine: self-test")

    with pytest.raises(EngineFailed, match="self-test"):
        rig.boot(at_start=fail)
    assert rig.engines[0].state == "closed"


def test_the_host_config_chooses_the_engine(rig: Rig) -> None:
    rig.boot(CONFIG)
    assert rig.chosen == "torch"
    rig.boot(CONFIG + b'[engine]\nname = "toy"\n')
    assert rig.chosen == "toy"


def test_an_engine_that_this_guest_does_not_have_ends_the_boot(rig: Rig) -> None:
    with pytest.raises(ParseError, match="expected one of torch, toy, got vllm"):
        rig.boot(CONFIG + b'[engine]\nname = "vllm"\n')
    assert rig.engines == []


def test_a_folder_without_a_model(rig: Rig) -> None:
    shutil.rmtree(rig.folder / "model")
    with pytest.raises(UsageError, match="model"):
        rig.boot()


def test_a_session_names_the_current_epoch_and_the_nonce(rig: Rig) -> None:
    guest = rig.boot()
    asked = SessionRequest(b"\x77" * 32, 0x20)
    sessions = Sessions(guest.epochs, guest.platform)
    with pytest.raises(Unavailable):
        asyncio.run(sessions.open(asked))
    rig.serve(guest)
    answer = SessionAnswer.from_bytes(asyncio.run(sessions.open(asked)))
    quote, published = parse_quote(answer.quote), parse_quote(guest.epochs.living[0][0].quote)
    root = leaf_hash(session_leaf(asked.nonce, answer.config))
    assert quote.report_data == published.report_data[:32] + fresh_session(root)
    assert quote.identity == published.identity


def test_receipt_time_is_the_beacons_in_whole_minutes(rig: Rig) -> None:
    guest = rig.boot()
    assert guest.receipt_time() % 60 == 0
    assert NOW - 120 <= guest.receipt_time() <= NOW


# The process


def start(rig: Rig, **changes: str) -> subprocess.Popen[str]:
    flags = {
        "listen": "127.0.0.1:0",
        "host-config": str(rig.folder / "host.toml"),
        "model": str(rig.folder / "model"),
        "agent": "http://127.0.0.1:9",
        "simulator": str(rig.socket),
        **changes,
    }
    command = [sys.executable, "-m", "enclave.guest"]
    for name, value in flags.items():
        command += [f"--{name}", value]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("config", "changes", "code", "said"),
    [
        (CONFIG, {"simulator": "/nowhere"}, 5, "simulator"),
        (CONFIG, {"listen": "nowhere"}, 2, "listen: expected HOST:PORT"),
        (CONFIG, {"agent": "https://x"}, 2, "agent: expected an http URL"),
        (CONFIG, {"host-config": "/nowhere"}, 2, "host config: /nowhere"),
        (CONFIG + b"[other]\n", {}, 3, "other: unknown key"),
        (CONFIG, {"model": "/nowhere"}, 2, "model"),
    ],
)
def test_a_boot_that_fails_says_one_line(
    rig: Rig, config: bytes, changes: dict[str, str], code: int, said: str
) -> None:
    (rig.folder / "host.toml").write_bytes(config)
    process = start(rig, **changes)
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == code, err
    assert out == ""
    assert err.startswith("guest: ") and err.count("\n") == 1
    assert said in err


def test_a_model_that_is_none_says_no_traceback(rig: Rig) -> None:
    (rig.folder / "host.toml").write_bytes(CONFIG)
    process = start(rig)
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode != 0
    assert err.startswith("guest: ") and err.count("\n") == 1
    assert "Traceback" not in err
