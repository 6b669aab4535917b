"""The example of the attestation package, run on a genuine machine's files."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from attestation.errors import NotAuthentic
from attestation.verify.verifier import PLAN
from tests.client_sdk.test_face import examples
from tests.helpers.world import NOW, World


def folder_of(world: World, folder: Path) -> tuple[Path, object]:
    """What the example reads, and the anchor of it."""
    presented, anchor = world.logged(world.presented())
    files = {
        "evidence": presented.evidence,
        "engine": presented.engine_config,
        "price": presented.price_table,
        "host": presented.host_config,
        "collateral": presented.collateral.to_bytes(),
        "proof": presented.proof or b"",
        "policy.toml": b"the policy of the test",
    }
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder, anchor


def test_the_example_judges_a_machine_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World.start(tmp_path / "simulator")
    folder, anchor = folder_of(world, tmp_path / "machine")
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    names: dict[str, object] = {}
    exec(examples()["attestation"], names)
    names["Policy"] = SimpleNamespace(from_toml=lambda data: world.policy)
    judge = names["judge"]
    assert callable(judge)
    judge(folder, anchor, world.beacon)
    assert len(capsys.readouterr().out.splitlines()) == len(PLAN)
    (folder / "host").write_bytes(b'[network]\nid = "another"\n')
    with pytest.raises(NotAuthentic):
        judge(folder, anchor, world.beacon)
