"""An implementation by others audits an exported log: Go's golang.org/x/mod/sumdb.

Its note, tlog and tile code is the checksum database's own, from Debian's package. Compiler and
library are unpacked into a throw-away place; where they cannot be had the tests skip, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.formats.digests import sha256
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.note import VerifierKey
from attestation.log.tiles import decode_bundle
from contracts.log_client import fetch
from contracts.logservice.export import Export
from tests.helpers.log_served import KEY, serving
from tests.helpers.places import TESTS
from tests.helpers.waiting import HANG_S

pytestmark = [pytest.mark.e2e, pytest.mark.long]
SOURCE = TESTS / "conformance" / "foreign_audit"
PACKAGES = ("golang-1.19-go", "golang-1.19-src", "golang-golang-x-mod-dev")
MANIFESTS = [b"release %d" % number for number in range(700)]
OLD, SIZE = 260, 700
PUBLIC = KEY.public_key().public_bytes_raw()


def run(command: list[str], where: Path, **environment: str) -> None:
    done = subprocess.run(
        command,
        check=False,
        cwd=where,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    if done.returncode != 0:
        pytest.skip(f"no Go to be had: {command[0]}: {done.stderr[-200:]}")


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled."""
    place = tmp_path_factory.mktemp("go")
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no Debian packages to be had")
    run(["apt-get", "download", *PACKAGES], place)
    for package in place.glob("*.deb"):
        run(["dpkg", "-x", package.name, "."], place)
    root = place / "usr/lib/go-1.19"
    run(
        [str(root / "bin/go"), "build", "-o", str(place / "audit"), "."],
        SOURCE,
        GO111MODULE="off",
        GOROOT=str(root),
        GOPATH=str(place / "usr/share/gocode"),
        GOCACHE=str(place / "cache"),
        CGO_ENABLED="0",
    )
    return place / "audit"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A log of 700 entries as static files, and its origin."""
    place = tmp_path_factory.mktemp("log")
    (place / "out").mkdir()
    with serving(place / "store", (MANIFESTS[:OLD], MANIFESTS[OLD:])) as url:
        origin = url.removeprefix("http://")
        written = Export(place / "out", lambda path: fetch(f"{url}/{path}"))
        assert written.run(origin=origin, log_key=PUBLIC, sizes=[OLD]) == SIZE
    yield place / "out", origin


def audit(auditor: Path, directory: Path, origin: str) -> subprocess.CompletedProcess[str]:
    words = [str(auditor), str(directory), VerifierKey(origin, PUBLIC).to_text(), str(OLD)]
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_it_audits_what_we_exported(auditor: Path, exported: tuple[Path, str]) -> None:
    done = audit(auditor, *exported)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    head = checkpoints.parse((exported[0] / "checkpoint").read_bytes())[0]
    assert (said["entries"], said["prefixes"]) == (SIZE, 1)
    assert said["tiles"] == 4  # two full ones and the last of level 0, one of level 1
    assert head.size == SIZE and said["root"] in (exported[0] / "checkpoint").read_text()


def signed(directory: Path, name: str, origin: str, key: Ed25519PrivateKey, root: bytes) -> None:
    size = OLD if name.endswith(str(OLD)) else SIZE
    head = Checkpoint(origin, size, root)
    (directory / name).write_bytes(checkpoints.sign(head, key=key))


def flip(name: str, at: int) -> Callable[[Path, str], None]:
    def change(directory: Path, _: str) -> None:
        data = bytearray((directory / name).read_bytes())
        data[at] ^= 1
        (directory / name).write_bytes(data)

    return change


def rehash(tile: Path, bundle: Path) -> None:
    leaves = decode_bundle(bundle.read_bytes())
    tile.write_bytes(b"".join(sha256(b"\0" + leaf) for leaf in leaves))


FAULTS: dict[str, tuple[Callable[[Path, str], object], str]] = {
    "a-leaf-with-other-bytes": (flip("tile/entries/001", 40), "the leaves have the root"),
    "a-leaf-in-the-last-bundle": (flip("tile/entries/002.p/188", -1), "the leaves have the root"),
    "a-leaf-and-its-hash": (
        lambda directory, origin: [
            flip("tile/entries/001", 40)(directory, origin),
            rehash(directory / "tile/0/001", directory / "tile/entries/001"),
        ],
        "the leaves have the root",
    ),
    "a-changed-hash": (flip("tile/0/001", 0), "is another tile"),
    "a-changed-upper-hash": (flip("tile/1/000.p/2", 0), "is another tile"),
    "a-bundle-cut-short": (
        lambda directory, _: (directory / "tile/entries/000").write_bytes(
            (directory / "tile/entries/000").read_bytes()[:-1]
        ),
        "0 leaves, not 256 (half a leaf)",
    ),
    "a-tile-that-is-gone": (lambda directory, _: (directory / "tile/0/000").unlink(), "no such"),
    "a-checkpoint-by-another-key": (
        lambda directory, origin: signed(
            directory, "checkpoint", origin, Ed25519PrivateKey.generate(), bytes(32)
        ),
        "no verifiable signatures",
    ),
    "a-root-of-another-tree": (
        lambda directory, origin: signed(directory, "checkpoint", origin, KEY, b"\7" * 32),
        "the leaves have the root",
    ),
    "a-split-view": (
        lambda directory, origin: signed(directory, f"checkpoints/{OLD}", origin, KEY, b"\7" * 32),
        "invalid transparency proof",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_what_was_planted(
    auditor: Path, exported: tuple[Path, str], tmp_path: Path, fault: str
) -> None:
    plant, reason = FAULTS[fault]
    shutil.copytree(exported[0], tmp_path / "copy")
    plant(tmp_path / "copy", exported[1])
    done = audit(auditor, tmp_path / "copy", exported[1])
    assert done.returncode == 1 and reason in done.stderr, done.stderr
