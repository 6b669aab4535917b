"""`umay host model manifest` and `check`: the identity that a guest with these files claims."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enclave.guest
from attestation import model_folder
from attestation.errors import ParseError, Unavailable, UsageError
from attestation.formats.model import model_digest
from attestation.model_folder import OpenFile, open_files, read_manifest
from enclave.guest.model import read_model
from enclave.host.models import identity
from tests.helpers.commands import command

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
DIGEST = read_model(DEMO).digest.hex()


def test_the_manifest_is_what_a_guest_reads() -> None:
    read = read_model(DEMO)
    assert read_manifest(DEMO) == read.manifest
    assert model_digest(read_manifest(DEMO)) == read.digest


@given(size=st.integers(0, 40), chunk=st.integers(1, 17))
def test_a_file_in_pieces_is_the_same_file(size: int, chunk: int) -> None:
    content, number = bytes(range(size)), os.memfd_create("x")
    os.write(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    before, model_folder.CHUNK = model_folder.CHUNK, chunk
    try:
        found = OpenFile("x.json", size, number).read()
    finally:
        model_folder.CHUNK = before
        os.close(number)
    assert (found.size, found.sha256) == (size, hashlib.sha256(content).digest())


@pytest.mark.parametrize(("claimed", "word"), [(3, "grew"), (5, "shrank")])
def test_a_file_that_changes_its_size_while_it_is_read(
    tmp_path: Path, claimed: int, word: str
) -> None:
    (tmp_path / "a.json").write_bytes(b"1234")
    number = os.open(tmp_path / "a.json", os.O_RDONLY)
    try:
        with pytest.raises(ParseError, match=word):
            OpenFile("a.json", claimed, number).read()
    finally:
        os.close(number)


def sizes(directory: Path) -> list[int]:
    """Of the files, which are not read."""
    return [file.size for file in open_files(directory)]


def test_a_model_has_at_most_1024_files(tmp_path: Path) -> None:
    for number in range(1024):
        (tmp_path / f"{number}.json").touch()
    assert len(sizes(tmp_path)) == 1024
    (tmp_path / "one-more.json").touch()
    with pytest.raises(ParseError, match="1 to 1024 files, got 1025"):
        sizes(tmp_path)


def test_only_weights_have_more_than_64_mib(tmp_path: Path) -> None:
    most = 64 << 20
    for name, size in (("a.json", most), ("b.safetensors", most + 1)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, size)
    assert sizes(tmp_path) == [most, most + 1]
    os.truncate(tmp_path / "a.json", most + 1)
    with pytest.raises(ParseError, match=f"'a.json': expected at most {most} bytes"):
        sizes(tmp_path)


def test_a_disk_that_cannot_be_read_is_no_fault_of_ours() -> None:
    with pytest.raises(Unavailable, match=r"a\.json"):
        OpenFile("a.json", 1, 2**20).read()


def test_every_file_is_closed(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_bytes(b"{}")
    before = os.listdir("/proc/self/fd")
    files = open_files(tmp_path)
    next(files)
    files.close()  # type: ignore[attr-defined]
    read_manifest(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_manifest_prints_a_table_and_json() -> None:
    table = command("host", "model", "manifest", str(DEMO))
    assert table.exit_code == 0
    assert f"model digest: {DIGEST}" in table.output
    weights = hashlib.sha256((DEMO / "model.safetensors").read_bytes()).hexdigest()
    assert f"{weights}  1743056  model.safetensors" in table.output.splitlines()
    found = json.loads(command("host", "model", "manifest", str(DEMO), "--json").output)
    assert found["model_digest"] == DIGEST
    assert {"name": "model.safetensors", "size": 1743056, "sha256": weights} in found["files"]


def test_check_accepts_the_model_that_is_expected() -> None:
    done = command("host", "model", "check", str(DEMO), "--expect", DIGEST)
    assert (done.exit_code, done.output) == (0, f"the model is {DIGEST}\n")
    done = command("host", "model", "check", str(DEMO), "--expect", DIGEST, "--json")
    assert json.loads(done.output) == {"ok": True, "model_digest": DIGEST}


def test_check_refuses_another_model_and_says_which(tmp_path: Path) -> None:
    for path in DEMO.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "chat_template.jinja").open("ab") as file:
        file.write(b" ")
    got = read_model(tmp_path).digest.hex()
    done = command("host", "model", "check", str(tmp_path), "--expect", DIGEST)
    assert done.exit_code == 4
    assert isinstance(done.exception, identity.OtherModel) and done.exception.code == "other-model"
    assert DIGEST in str(done.exception) and got in str(done.exception)


@pytest.mark.parametrize("text", [DIGEST[:-2], DIGEST + "00", DIGEST.upper(), "x" * 64, ""])
def test_a_digest_has_one_spelling(text: str) -> None:
    with pytest.raises(UsageError, match="64 hex digits"):
        identity.read_digest(text)


def test_what_is_no_model_has_its_own_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    assert command("host", "model", "manifest", str(tmp_path)).exit_code == 3
    assert command("host", "model", "manifest", str(tmp_path / "none")).exit_code == 2
    assert command("host", "model", "check", str(tmp_path), "--expect", DIGEST).exit_code == 3
