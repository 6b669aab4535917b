"""A client's network file: followed through a real log, and what stops it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from attestation.errors import (
    NotAuthentic,
    NotThere,
    ParseError,
    Refused,
    UmayError,
    Unavailable,
    UsageError,
    VerificationError,
)
from attestation.files import replace
from attestation.formats.network_file import NetworkFile
from attestation.log.leaf import release_leaf
from attestation.log.submission import release_key
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import Policy
from client_sdk import Client, connect
from client_sdk.chain_reader import ChainReader
from client_sdk.cli import umay
from client_sdk.network_files.following import Updater
from client_sdk.network_places import NetworkDirectory, read_kept
from contracts import artefact
from contracts.chain import AccountState
from contracts.codec import LogState
from contracts.logservice.database import Sqlite
from contracts.logservice.networks import NetworkFiles
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store
from tests.attestation.test_policy import GOOD
from tests.helpers.commands import command
from tests.helpers.log_served import KEY
from tests.helpers.network_files import KEYS, network_file
from tests.helpers.world import NOW

ORIGIN, MIRROR = "127.0.0.1:9/log", "https://mirror.example/log"
CONTRACT = "0:" + "ab" * 32
PUBLIC = KEY.public_key().public_bytes_raw()
ROTATED = KEYS[3:6]
FIRST = network_file(1, k8=[MIRROR])


class Ground:
    """A log, its contract, and the transport to it. `lies` replaces answers by URL; `anchored` is
    the size that the contract holds, None for all."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(Sqlite(directory / "log"), origin=ORIGIN, key=KEY)
        self.store.append([Entry(release_key(b"r"), release_leaf(b"r").to_bytes(), blobs=(b"r",))])
        networks = NetworkFiles(self.store, FIRST, clock=lambda: NOW)
        self.http = TestClient(create_app(self.store, admit=_nobody, networks=networks))
        self.http.__enter__()
        self.lies: dict[str, Callable[[], bytes]] = {}
        self.anchored: int | None = None
        self.path = directory / "network.cbor"
        replace(self.path, FIRST.to_bytes())
        self.policy = dataclasses.replace(
            Policy.from_toml(GOOD.encode()),
            log_contract=CONTRACT,
            log_code_hash=artefact.load("attestation_log").code_hash,
            log_origin=ORIGIN,
            log_key=PUBLIC,
        )

    def submit(self, file: NetworkFile) -> int:
        return self.http.post("/log/network", content=file.to_bytes()).status_code

    def get(self, url: str, **_: Any) -> bytes:
        """The transport."""
        if url in self.lies:
            return self.lies[url]()
        if not url.startswith(f"http://{ORIGIN}/"):
            raise Unavailable(f"{url}: no answer")
        answer = self.http.get("/log/" + url.removeprefix(f"http://{ORIGIN}/"))
        if answer.status_code == 404:
            raise NotThere(f"{url}: there is no such thing")
        return answer.content

    def close(self) -> None:
        pass

    def account(self, address: str) -> AccountState:
        """The chain."""
        size = self.anchored or self.store.size
        root = self.store.root(size)
        state = LogState.genesis(origin=ORIGIN, log_key=PUBLIC, size=size, root=root)
        code = artefact.load("attestation_log").code_boc
        return AccountState(address, code, state.to_cell().to_boc(), 1, "active", NOW - 10, 7)

    def block(self, seqno: int) -> BlockRef:
        raise NotImplementedError

    def head(self) -> BlockRef:
        raise NotImplementedError

    def update(self, now: int = NOW) -> tuple[NetworkFile, int]:
        reader, transport = ChainReader(self, self.policy), self
        updater = Updater(self.path, self.policy, reader, transport, clock=lambda: now)  # type: ignore[arg-type]
        return updater.update()

    def kept(self) -> int:
        return read_kept(self.path, self.policy).version


def _nobody(submission: object) -> None:
    raise Unavailable("this log admits no machine")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    ground.http.__exit__(None, None, None)
    ground.store.close()


SECOND = network_file(2, keys=ROTATED, signers=[*KEYS[:2], *ROTATED[:2]])
THIRD = network_file(3, keys=ROTATED, signers=ROTATED)


def test_a_rotated_file_is_followed_to_its_newest_version(ground: Ground) -> None:
    assert [ground.submit(file) for file in (SECOND, THIRD, THIRD)] == [200, 200, 200]
    newest, steps = ground.update()
    assert (newest.version, steps, ground.kept()) == (3, 2, 3)
    assert ground.path.stat().st_mode & 0o777 == 0o600
    assert ground.update() == (newest, 0)


def refusal(ground: Ground, now: int = NOW) -> str:
    with pytest.raises(VerificationError) as caught:
        ground.update(now)
    assert caught.value.step == "network"
    return caught.value.code


def served(ground: Ground, file: NetworkFile) -> None:
    """The log's server answers with this file, whatever was logged."""
    ground.lies[f"http://{ORIGIN}/network/2"] = file.to_bytes


FORGED: dict[str, tuple[NetworkFile, str]] = {
    "signed by strangers": (network_file(2, keys=ROTATED, signers=ROTATED), "bad-signature"),
    "an older version": (FIRST, "not-logged"),
    "other places under the kept version": (network_file(1), "rollback"),
    "a later version": (network_file(3), "gap"),
    "of another network": (network_file(2, k1="another"), "pin-conflict"),
    "never logged": (network_file(2), "not-logged"),
}


@pytest.mark.parametrize(("file", "code"), FORGED.values(), ids=FORGED)
def test_what_a_server_makes_up_is_not_followed(
    ground: Ground, file: NetworkFile, code: str
) -> None:
    served(ground, file)
    if file is FIRST:
        replace(ground.path, network_file(5).to_bytes())
        ground.lies[f"http://{ORIGIN}/network/6"] = network_file(4).to_bytes
        assert refusal(ground) == "rollback" and ground.kept() == 5
        return
    ground.submit(SECOND)
    assert refusal(ground) == code
    assert ground.kept() == 1


def test_the_kept_version_again_is_no_step(ground: Ground) -> None:
    """A server that answers so for ever would end as 64 versions that were followed."""
    assert ground.submit(FIRST) == 200
    for tail in ("", f"?size={ground.store.size}"):
        body = ground.http.get(f"/log/network/1{tail}").content
        ground.lies[f"http://{ORIGIN}/network/2{tail}"] = partial(bytes, body)
    assert refusal(ground) == "rollback" and ground.kept() == 1


def test_a_file_that_is_logged_and_not_anchored_yet_is_not_followed(ground: Ground) -> None:
    ground.submit(SECOND)
    ground.anchored = 1
    assert refusal(ground) == "not-logged" and ground.kept() == 1
    ground.anchored = None
    assert ground.update()[1] == 1


def test_a_server_that_lies_does_not_keep_a_mirror_from_answering(ground: Ground) -> None:
    ground.submit(SECOND)
    served(ground, network_file(2, keys=ROTATED, signers=ROTATED))
    for tail in ("/network/2", f"/network/2?size={ground.store.size}"):
        body = ground.http.get("/log" + tail).content
        ground.lies[MIRROR + tail] = lambda body=body: body
    newest, steps = ground.update()
    assert (newest.version, steps) == (2, 1)


def test_where_nobody_answers_nothing_is_said(ground: Ground) -> None:
    def silent() -> bytes:
        raise Unavailable("no answer")

    ground.lies[f"http://{ORIGIN}/network/2"] = silent
    with pytest.raises(Unavailable):
        ground.update()
    ground.lies[f"{MIRROR}/network/2"] = _absent
    assert ground.update()[1] == 0


def _absent() -> bytes:
    raise NotThere("there is no such thing")


def test_an_expired_file_is_followed_to_one_that_counts_and_else_refused(ground: Ground) -> None:
    late = FIRST.expires + 5
    assert refusal(ground, late) == "expired"
    ground.submit(network_file(2, k4=late + 100))
    ground.anchored = None
    policy = dataclasses.replace(ground.policy, max_anchor_age_s=200_000)
    ground.policy = policy
    assert ground.update(late)[0].version == 2


def test_updates_at_once_leave_one_whole_file(ground: Ground) -> None:
    ground.submit(SECOND)
    ground.submit(THIRD)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            ground.update()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and ground.kept() == 3


def test_a_kept_file_that_others_could_write_is_not_used(ground: Ground, tmp_path: Path) -> None:
    ground.path.chmod(0o666)
    with pytest.raises(UsageError, match="0666"):
        read_kept(ground.path, ground.policy)
    with pytest.raises(UsageError, match="there is no such file"):
        read_kept(tmp_path / "none", ground.policy)
    replace(ground.path, b"\x80")
    with pytest.raises(ParseError, match=r"network\.cbor"):
        read_kept(ground.path, ground.policy)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (network_file(1, k1="another"), "pin-conflict"),
        (network_file(1, signers=[]), "bad-signature"),
    ],
)
def test_a_kept_file_that_does_not_stand_for_itself_is_not_used(
    ground: Ground, file: NetworkFile, code: str
) -> None:
    replace(ground.path, file.to_bytes())
    assert refusal(ground) == code
    with pytest.raises(VerificationError, match=code):
        client(ground).places()


def test_an_update_waits_for_the_one_that_holds_the_file(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process: there the lock is all that there is."""
    steps: list[str] = []
    monkeypatch.setattr("fcntl.flock", lambda number, how: steps.append("locked"))

    def read(path: Path, policy: Policy) -> NetworkFile:
        steps.append("read")
        return read_kept(path, policy)

    monkeypatch.setattr("client_sdk.network_files.following.read_kept", read)
    ground.update()
    assert steps == ["locked", "read"]


# As a directory of the client


def client(ground: Ground, now: int = NOW) -> Client:
    directory = NetworkDirectory(ground.path, ground.policy, clock=lambda: float(now))
    transport: Any = ground
    return Client(
        directory,
        policy=ground.policy,
        chain=ground,
        transport=transport,
        clock=lambda: float(now),
    )


def test_the_client_finds_machines_at_the_files_relays(ground: Ground) -> None:
    boot = "ab" * 16
    listing = b'{"boots": [{"boot": "%s", "state": "ready"}]}' % boot.encode()
    ground.lies["https://relay1.example/umay/"] = lambda: listing
    (place,) = client(ground).places()
    assert place.base == f"https://relay1.example/umay/{boot}/"


def test_the_client_asks_nobody_at_an_expired_file(ground: Ground) -> None:
    with pytest.raises(Refused) as caught:
        client(ground, FIRST.expires).places()
    assert (caught.value.step, caught.value.code) == ("network", "expired")
    replace(ground.path, network_file(1, k7=[]).to_bytes())
    with pytest.raises(Unavailable, match="expected relays"):
        client(ground).places()


# The log


def test_a_log_takes_the_next_version_alone(ground: Ground) -> None:
    refused = {
        "gap": network_file(3),
        "stranger": network_file(2, signers=ROTATED),
        "expired": network_file(2, k4=NOW),
    }
    assert [ground.submit(file) for file in refused.values()] == [403, 422, 403]
    assert ground.submit(SECOND) == 200
    assert ground.submit(network_file(2)) == 403  # another file of a version that is logged
    assert ground.submit(FIRST) == 403
    assert ground.http.get("/log/network/2").content == SECOND.to_bytes()
    assert ground.http.get("/log/network/3").status_code == 404
    assert ground.http.post("/log/network", content=b"x").status_code == 400


def test_a_log_without_a_first_file_takes_none(ground: Ground) -> None:
    with pytest.raises(Refused, match="closed"):
        NetworkFiles(ground.store, None).entry(SECOND.to_bytes())


# The commands


def run(*words: str) -> Result:
    return CliRunner().invoke(umay, ["client", "network", *words])


VERIFIED: dict[str, tuple[NetworkFile, NetworkFile, int, str]] = {
    "the next version": (FIRST, SECOND, NOW, ""),
    "the same file": (FIRST, FIRST, NOW, ""),
    "an older version": (SECOND, FIRST, NOW, "rollback"),
    "a version skipped": (FIRST, THIRD, NOW, "gap"),
    "an expired one": (FIRST, SECOND, SECOND.expires, "expired"),
    "signed by new keys alone": (
        FIRST,
        network_file(2, keys=ROTATED, signers=ROTATED),
        NOW,
        "bad-signature",
    ),
    "after a file that nobody signed": (network_file(1, signers=[]), SECOND, NOW, "bad-signature"),
    "after a file of another network": (network_file(1, k1="another"), SECOND, NOW, "pin-conflict"),
}


@pytest.mark.parametrize(("kept", "file", "now", "said"), VERIFIED.values(), ids=VERIFIED)
def test_verify_says_which_file_may_follow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: NetworkFile,
    file: NetworkFile,
    now: int,
    said: str,
) -> None:
    monkeypatch.setattr("client_sdk.network_files.cli._now", lambda: now)
    (tmp_path / "kept").write_bytes(kept.to_bytes())
    (tmp_path / "new").write_bytes(file.to_bytes())
    result = run("verify", str(tmp_path / "new"), "--after", str(tmp_path / "kept"))
    error = result.exception
    assert (error.code if isinstance(error, VerificationError) else "") == said
    assert (result.exit_code == 0) == (not said)


def test_show_and_verify(tmp_path: Path) -> None:
    one, two = tmp_path / "one.cbor", tmp_path / "two.cbor"
    one.write_bytes(FIRST.to_bytes())
    two.write_bytes(SECOND.to_bytes())
    shown = run("show", str(one))
    assert shown.exit_code == 0 and "https://relay1.example" in shown.output
    assert '"version": 1' in run("show", str(one), "--json").output
    assert isinstance(run("verify", str(one), "--after", str(two)).exception, Refused)
    assert isinstance(run("show", str(tmp_path / "none")).exception, UsageError)
    two.write_bytes(network_file(2, signers=ROTATED).to_bytes())
    assert isinstance(run("show", str(two)).exception, VerificationError)
    two.write_bytes(b"")
    assert isinstance(run("show", str(two)).exception, ParseError)


BAD_FILES = {
    "of another network": (network_file(1, k1="umay-other").to_bytes(), Refused, "pin-conflict"),
    "signed by one alone": (
        network_file(1, signers=KEYS[:1]).to_bytes(),
        NotAuthentic,
        "bad-signature",
    ),
    "that is none": (b"places", ParseError, "malformed"),
}


@pytest.mark.parametrize(("data", "error", "code"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_is_refused_before_anything_is_asked(
    ground: Ground, data: bytes, error: type[UmayError], code: str
) -> None:
    replace(ground.path, data)
    with pytest.raises(error) as caught:
        connect(ground.path.parent, network_file=ground.path, policy=ground.policy, chain=ground)
    assert caught.value.code == code


def test_a_network_file_or_a_url(ground: Ground) -> None:
    given: Any = {"policy": ground.policy, "chain": ground}
    with pytest.raises(UsageError, match="network file or url, got both"):
        connect(network_file=ground.path, url="https://relay.example", **given)
    with pytest.raises(UsageError, match="network_file: expected a network file's path"):
        connect(network_file=3, **given)
    both = ["client", "verify", "--url", "https://r.example", "--network-file", str(ground.path)]
    assert "--url or --network-file, got both" in str(command(*both).exception)
