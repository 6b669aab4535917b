"""A log as static files: the server's own bytes, audited like the log itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import NotAuthentic, UmayError, Unavailable
from client_sdk.auditing.auditor import Auditor
from client_sdk.cli import umay
from contracts.logservice.export import Export
from tests.client_sdk.test_break_audit import CONTRACT, ORIGIN, RELEASE, Net, boot, start
from tests.helpers.log_served import KEY, serving
from tests.helpers.waiting import HANG_S
from tests.helpers.world import World

BASE = "http://127.0.0.1:9/log/"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def net(world: World) -> Net:
    return Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])


def export(net: Net, directory: Path) -> list[str]:
    """Exports; the paths that were new."""
    new: list[str] = []
    written = Export(
        directory,
        lambda path: net.get(BASE + path),
        lambda path, fresh: new.append(path) if fresh else None,
    )
    key = net.world.log_key.public_key().public_bytes_raw()
    assert written.run(origin=ORIGIN, log_key=key) == 2
    return new


def test_an_export_audits_like_the_log(net: Net, tmp_path: Path) -> None:
    new = export(net, tmp_path)
    assert new[-1] == "checkpoint"
    for path in new:
        assert (tmp_path / path).read_bytes() == net.answers[
            path.replace("checkpoints/", "checkpoint/")
        ]
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, mirror=str(tmp_path))
    assert auditor.run(CONTRACT).exit_code == 0


def test_a_second_run_fetches_nothing_but_the_checkpoint(net: Net, tmp_path: Path) -> None:
    export(net, tmp_path)
    assert export(net, tmp_path) == ["checkpoint"]


@pytest.mark.parametrize("left", [1, 4, 7])
def test_an_export_that_was_cut_is_gone_on_with(net: Net, tmp_path: Path, left: int) -> None:
    """The log stops answering after so many files: no checkpoint, and nothing half."""
    answers, count = net.get, iter(range(100))

    def get(path: str) -> bytes:
        if next(count) >= left:
            raise Unavailable(path)
        return answers(BASE + path)

    key = net.world.log_key.public_key().public_bytes_raw()
    with pytest.raises(Unavailable):
        Export(tmp_path, get).run(origin=ORIGIN, log_key=key)
    assert not (tmp_path / "checkpoint").exists()
    export(net, tmp_path)
    assert (tmp_path / "checkpoint").exists()


def test_other_bytes_under_a_digest_are_not_kept(net: Net, tmp_path: Path) -> None:
    path = next(path for path in net.answers if path.startswith("evidence/"))
    net.answers[path] = b"other"
    with pytest.raises(NotAuthentic, match="expected the SHA-256") as caught:
        export(net, tmp_path)
    assert caught.value.code == "other-bytes"
    assert not (tmp_path / path).exists() and not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_of_another_key(net: Net, tmp_path: Path) -> None:
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(UmayError):
        Export(tmp_path, lambda path: net.get(BASE + path)).run(origin=ORIGIN, log_key=stranger)
    assert not list(tmp_path.iterdir())


# ---- a real server, by command

MANIFESTS = [b"release %d" % number for number in range(300)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "store", (MANIFESTS[:260], MANIFESTS[260:])) as url:
        yield url


def test_the_command_writes_what_the_server_serves(served: str, tmp_path: Path) -> None:
    out, key = tmp_path / "out", KEY.public_key().public_bytes_raw().hex()
    out.mkdir()
    given = ["log", "export", str(out), "--log", served, "--log-key", key, "--size", "260"]
    told = CliRunner().invoke(umay, given)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["size"] == 300
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 300
    for path in files:
        name = path.relative_to(out).as_posix().replace("checkpoints/", "checkpoint/")
        assert requests.get(f"{served}/{name}", timeout=HANG_S).content == path.read_bytes(), name
    again = CliRunner().invoke(umay, given)
    assert json.loads(again.output)["new_files"] == 1
    assert (out / "tile/entries/001.p/4").exists() and (out / "tile/entries/001.p/44").exists()
