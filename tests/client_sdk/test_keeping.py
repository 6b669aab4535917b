"""Guests that end are started again, by name and later and later; other parts end the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import Unavailable, UsageError
from attestation.vendors.archive import Archive
from client_sdk import connect
from client_sdk.auditing.watch_loop import WatchLoop
from client_sdk.config import Config, load
from client_sdk.localnet import up
from client_sdk.localnet.devnet import Network
from client_sdk.localnet.restarting import PAUSES_S, STEADY_S, GuestRestarter
from client_sdk.localnet.supervisor import Child, Supervisor
from contracts.logservice.database import Sqlite
from contracts.logservice.witness import Witness
from enclave.simulator.pki import load_or_make_key
from tests.helpers.waiting import HANG_S, wait_for

SLEEPS = "import sys, time; print('guest: up', file=sys.stderr, flush=True); time.sleep(9999)"
FALLS = "import sys; print('one\\ntwo\\nthree\\nfour', file=sys.stderr); sys.exit(3)"


class Room:
    """A network of two guests that do nothing, and one part beside them."""

    def __init__(self, directory: Path) -> None:
        self.supervisor = Supervisor(directory)
        self.body, self.now, self.said = SLEEPS, 0.0, list[str]()
        self.serving = set[str]()
        for name in ("relay", "guest-ada", "guest-bela"):
            self.start(name)
        self.keeper = GuestRestarter(self, self.said.append, lambda: self.now)

    def start(self, name: str, *, again: bool = False) -> Child:
        child = self.supervisor.start(name, ["-c", self.body], again=again)
        child.began = self.now if hasattr(self, "now") else 0.0
        return child

    def restart(self, child: str) -> None:
        self.start(child, again=True)

    def serves(self, child: str) -> bool:
        return child in self.serving

    def end(self, name: str, *, spoke: bool = False) -> None:
        """`spoke`: not before it has written something."""
        child = next(c for c in self.supervisor._children if c.name == name)
        if spoke:
            wait_for(child.errors.read_text)
        child.process.kill()
        child.process.wait(HANG_S)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path / "errors")
    yield room
    room.supervisor.stop()


def test_a_guest_that_ends_is_named_and_started_again(room: Room) -> None:
    before = room.supervisor.pids["guest-ada"]
    room.end("guest-ada", spoke=True)
    room.keeper.look()
    assert room.supervisor.pids["guest-ada"] != before
    assert "guest-ada ended with signal SIGKILL" in room.said[0]
    assert "guest-ada.err" in room.said[0] and "started again now" in room.said[0]
    assert room.said[1:] == ["starting guest-ada again …"]


def test_a_guest_that_was_started_again_is_told_of_once_it_serves(room: Room) -> None:
    room.end("guest-ada")
    room.keeper.look()
    room.keeper.look()
    assert "guest ada serves again" not in room.said
    room.serving = {"guest-ada", "guest-bela"}
    room.keeper.look()
    room.keeper.look()
    assert room.said.count("guest ada serves again") == 1
    assert "guest bela serves again" not in room.said


def test_a_guest_that_ends_before_it_serves_is_not_said_to_serve(room: Room) -> None:
    for _ in range(2):
        room.end("guest-ada")
        room.keeper.look()
    room.serving = {"guest-ada"}
    room.keeper.look()
    assert "guest ada serves again" not in room.said


def test_one_that_ends_again_waits_longer_each_time_and_is_left_at_last(room: Room) -> None:
    for pause in PAUSES_S:
        room.end("guest-ada")
        room.keeper.look()
        assert ("guest-ada" in room.supervisor.pids) is (pause == 0)
        room.now += pause
        room.keeper.look()
        assert "guest-ada" in room.supervisor.pids
    room.end("guest-ada")
    room.keeper.look()
    room.now += 9999
    room.keeper.look()
    assert "guest-ada" not in room.supervisor.pids
    assert f"ended {len(PAUSES_S)} times and is not started again" in room.said[-1]


def test_after_a_long_life_the_count_begins_anew(room: Room) -> None:
    for _ in range(2 * len(PAUSES_S)):
        room.now += STEADY_S
        room.end("guest-ada")
        room.keeper.look()
        assert "guest-ada" in room.supervisor.pids


def test_with_no_guest_left_the_network_ends_and_says_why(room: Room) -> None:
    room.body = FALLS
    with pytest.raises(Unavailable, match="every guest has ended; the last one: guest-") as caught:
        for name in ("guest-ada", "guest-bela"):
            room.end(name)
        for _ in range(3 * len(PAUSES_S)):
            room.keeper.look()
            room.now += max(PAUSES_S)
            for child in room.supervisor._children:
                if child.name.startswith("guest-"):
                    child.process.wait(HANG_S)
    assert "exit code 3: two / three / four; its output is in" in str(caught.value)


def test_a_guest_that_ends_while_it_is_started_is_one_that_ended(room: Room) -> None:
    """On a busy machine a new guest can end before the round that started it is over."""
    start = room.restart

    def restart(name: str) -> None:
        start(name)
        next(c for c in room.supervisor._children if c.name == name).process.wait(HANG_S)

    room.restart, room.body = restart, FALLS  # type: ignore[method-assign]
    room.end("guest-ada")
    for _ in range(2 * len(PAUSES_S)):
        room.keeper.look()
        room.now += max(PAUSES_S)
    assert set(room.supervisor.pids) == {"relay", "guest-bela"}
    assert sum("starting guest-ada again" in text for text in room.said) == len(PAUSES_S)


def test_a_part_that_ends_while_a_guest_is_started_ends_the_network(room: Room) -> None:
    start = room.restart

    def restart(name: str) -> None:
        start(name)
        room.end("relay")

    room.restart = restart  # type: ignore[method-assign]
    room.end("guest-ada")
    with pytest.raises(Unavailable, match="relay ended with signal SIGKILL"):
        room.keeper.look()


def test_a_part_without_which_there_is_no_network_ends_it(room: Room) -> None:
    room.end("relay", spoke=True)
    with pytest.raises(Unavailable, match=r"relay ended with signal SIGKILL.*relay\.err"):
        room.keeper.look()


def test_what_earlier_guests_wrote_stays(room: Room, tmp_path: Path) -> None:
    """Two starts of one guest, each with a line."""
    room.body = FALLS
    room.end("guest-ada")
    room.keeper.look()
    child = next(c for c in room.supervisor._children if c.name == "guest-ada")
    child.process.wait(HANG_S)
    room.now += 1
    room.keeper.look()
    room.now += max(PAUSES_S)
    room.keeper.look()
    child = next(c for c in room.supervisor._children if c.name == "guest-ada")
    child.process.wait(HANG_S)
    assert child.errors.read_text().count("four") == 2


@pytest.mark.parametrize("planted", ["link", "0666"])
def test_a_planted_output_file_is_refused(tmp_path: Path, planted: str) -> None:
    supervisor = Supervisor(tmp_path)
    if planted == "link":
        (tmp_path / "part.err").symlink_to(tmp_path / "victim")
    else:
        (tmp_path / "part.err").touch()
        (tmp_path / "part.err").chmod(0o666)
    with pytest.raises(UsageError, match=r"part\.err"):
        supervisor.start("part", ["-c", "pass"])
    assert not (tmp_path / "victim").exists()


# A prepared --dir


def test_a_prepared_directory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for mode in (0o777, 0o775, 0o1777):
        place = tmp_path / f"{mode:o}"
        place.mkdir()
        place.chmod(mode)
        with pytest.raises(UsageError, match=f"{place}: expected mode 0700"):
            Network(place)
        assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["token", "ports.json", "network.json", "release.json"])
@pytest.mark.parametrize("planted", ["link", "mode"])
def test_a_planted_file_is_not_believed(tmp_path: Path, name: str, planted: str) -> None:
    network = Network(tmp_path / "net")
    path = tmp_path / "net" / name
    if planted == "link":
        (tmp_path / "evil").write_text('{"chain": 1}')
        path.symlink_to(tmp_path / "evil")
    else:
        path.write_text('{"chain": 1}')
        path.chmod(0o666)
    with pytest.raises(UsageError, match=name):
        network.files.api_token() if name == "token" else network.files.read_json(name)


def test_a_link_where_a_new_file_goes_is_not_followed(tmp_path: Path) -> None:
    files = Network(tmp_path / "net").files
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("ports.json", "ports.json.new", "ada.toml", "policy.toml.new"):
        (files.directory / name).symlink_to(victim)
    files.write_json("ports.json", {"chain": 1})
    assert victim.read_text() == "mine" and files.read_json("ports.json") == {"chain": 1}
    assert (files.directory / "ports.json").stat().st_mode & 0o777 == 0o600


def test_what_up_prints_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    network = Network(tmp_path / "my net")
    network.files.write_json("network.json", {"contract": "0:ab"})
    lines = up.welcome(network, "http://127.0.0.1:1/v1")
    assert "export OPENAI_BASE_URL=http://127.0.0.1:1/v1" in lines
    assert f"export OPENAI_API_KEY={network.files.api_token()}" in lines
    assert any(f"--dir '{tmp_path}/my net'" in line for line in lines)


def test_the_table_says_whose_address_it_is_and_keeps_its_columns(tmp_path: Path) -> None:
    network = Network(tmp_path / "net")
    network.files.write_json("network.json", {"contract": "0:ab"})
    network.parts = [("log", "http://a", "x"), ("agent of guest ada", "http://b", "y")]
    lines = up.welcome(network, "http://127.0.0.1:1/v1")
    assert "  agent of guest ada  http://b  (y)" in lines
    assert "  log                 http://a  (x)" in lines


def test_commands_are_shown_by_their_path_where_path_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "my env" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert up.executable() == f"'{tmp_path}/my env/python' -m client_sdk"
    for place in ("my env", "bin"):
        assert up.executable() != "umay"
        (tmp_path / place).mkdir()
        (tmp_path / place / "umay").touch(mode=0o700)
        if place == "my env":
            assert up.executable() == f"'{tmp_path}/my env/umay'"
    assert up.executable() == "umay"


@pytest.mark.parametrize("at", ["start", "start_proxy"])
def test_ctrl_c_during_the_start_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def pressed(_: Network) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "start", lambda _: None)
    monkeypatch.setattr(Network, at, pressed)
    said = list[str]()
    with pytest.raises(KeyboardInterrupt):
        up.run(tmp_path / "net", say=said.append)
    assert said == ["stopping …"]


def test_ctrl_c_once_all_serves_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(_: GuestRestarter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "start", lambda _: None)
    monkeypatch.setattr(Network, "start_proxy", lambda _: "http://127.0.0.1:1/v1")
    monkeypatch.setattr(up, "welcome", lambda *_: [])
    monkeypatch.setattr(GuestRestarter, "look", pressed)
    said = list[str]()
    up.run(tmp_path / "net", say=said.append)
    assert said == ["stopping …"]


# The same for what other commands trust


def written_by_all(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def linked(place: Path) -> None:
    other = place.with_name("other")
    other.mkdir(mode=0o700)
    place.symlink_to(other)


OPENERS: dict[str, Callable[[Path], object]] = {
    "a collateral archive": Archive,
    "a log's database": Sqlite,
    "a simulator's keys": lambda place: load_or_make_key(place, "root"),
    "a witness's memory": lambda place: Witness(
        place / "seen", name="w.example/w", key=Ed25519PrivateKey.generate(), logs={}
    ),
    "a watch's alerts": lambda place: WatchLoop.open(
        place, {}, webhook=None, tell=print, warn=print
    ),
}


@pytest.mark.parametrize("prepare", [written_by_all, linked])
@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
def test_a_place_that_others_prepared_is_refused(
    tmp_path: Path, opened: Callable[[Path], object], prepare: Callable[[Path], None]
) -> None:
    place = tmp_path / "place"
    prepare(place)
    with pytest.raises(UsageError, match=str(place)):
        opened(place)
    assert list(place.iterdir()) == []


def test_a_policy_beside_the_config_is_as_trusted_as_that(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    config = Config("http://127.0.0.1:1", "http://127.0.0.1:2", policy)
    (tmp_path / "umay.toml").write_text(config.to_toml())
    policy.touch()
    asked = {"url": None, "chain": None, "policy": None}
    assert load(**asked, directory=tmp_path).policy == policy
    policy.chmod(0o666)
    with pytest.raises(UsageError, match=f"{policy}: expected mode 0600"):
        load(**asked, directory=tmp_path)
    policy.unlink()
    policy.symlink_to("/dev/null")
    with pytest.raises(UsageError, match=f"{policy}: expected a regular file"):
        load(**asked, directory=tmp_path)


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "beside it": lambda place: f"{place}/policy.toml",
    "round about": lambda place: f"{place}/../{place.name}/policy.toml",
    "a dot": lambda place: f"{place}/./policy.toml",
    "two slashes": lambda place: f"/{place}/policy.toml",
    "relative": lambda place: os.path.relpath(place / "policy.toml"),
    "in another directory": lambda place: f"{place}/other/policy.toml",
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_a_policy_that_others_can_write_is_refused_however_its_path_is_spelled(
    tmp_path: Path, spelled: Callable[[Path], str]
) -> None:
    (tmp_path / "other").mkdir()
    policy = Path(spelled(tmp_path))
    config = Config("http://127.0.0.1:1", "http://127.0.0.1:2", policy)
    (tmp_path / "umay.toml").write_text(
        config.to_toml().replace(f'"{policy}"', f'"{spelled(tmp_path)}"')
    )
    policy.touch()
    asked = {"url": None, "chain": None, "policy": None}
    assert load(**asked, directory=tmp_path).policy == policy
    policy.chmod(0o666)
    with pytest.raises(UsageError, match=r"policy\.toml: expected mode 0600"):
        load(**asked, directory=tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_config_in_a_directory_that_others_can_write_is_not_read(
    tmp_path: Path, mode: int
) -> None:
    place = tmp_path / "net"
    place.mkdir()
    config = Config("http://127.0.0.1:1", "http://127.0.0.1:2", tmp_path / "policy.toml")
    (place / "umay.toml").write_text(config.to_toml())
    asked = {"url": None, "chain": None, "policy": None}
    load(**asked, directory=place)
    place.chmod(mode)
    with pytest.raises(UsageError, match=f"{place}: expected mode 0700"):
        load(**asked, directory=place)
    with pytest.raises(UsageError, match=f"{place}: expected mode 0700"):
        connect(directory=place)
