"""The model's files: read once, hashed as loaded, data only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import enclave.guest
from attestation.errors import ParseError, UsageError
from attestation.formats.model import ModelFile, model_digest
from enclave.guest.model import read_model

DEMO = Path(enclave.guest.__file__).parent / "demo_model"

GOOD = {"config.json": b"{}", "model.safetensors": b"weights", "chat_template.jinja": b"{{ x }}"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_digest_vector():
    # Written out by hand: domain, zero byte, CBOR array of two [text, uint, bytes(32)].
    first, second = hashlib.sha256(b"{}").digest(), hashlib.sha256(b"weights").digest()
    table = (
        b"\x82"
        + b"\x83\x6bconfig.json\x02\x58\x20" + first
        + b"\x83\x71model.safetensors\x07\x58\x20" + second
    )  # fmt: skip
    expected = hashlib.sha256(b"umay/model/v1\0" + table).digest()
    manifest = [
        ModelFile("model.safetensors", 7, second),
        ModelFile("config.json", 2, first),
    ]
    assert model_digest(manifest) == expected
    assert expected.hex() == "8612566c87096dc4a60a6b10cf11a07d44d9710e6d5c2a7950e1d354365974a8"


def test_names_sort_by_utf8_bytes():
    # In UTF-16 the second would come first.
    lines = [ModelFile("\uffee.json", 0, bytes(32)), ModelFile("\U00010000.json", 0, bytes(32))]
    assert model_digest(lines) == model_digest(reversed(lines))


def test_reads_bytes_and_digest(tmp_path):
    model = read_model(write(tmp_path / "m", GOOD))
    assert {name: bytes(data) for name, data in model.files.items()} == GOOD
    assert [line.name for line in model.manifest] == sorted(GOOD)
    assert model.digest == model_digest(model.manifest)
    assert "weights" not in repr(model)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_changed_byte_changes_digest(tmp_path, name):
    before = read_model(write(tmp_path / "m", GOOD)).digest
    data = bytearray(GOOD[name])
    data[0] ^= 1
    after = read_model(write(tmp_path / "m", {name: bytes(data)})).digest
    assert before != after


def test_name_belongs_to_the_digest(tmp_path):
    one = read_model(write(tmp_path / "a", {"a.json": b"{}"}))
    other = read_model(write(tmp_path / "b", {"b.json": b"{}"}))
    assert one.digest != other.digest


OTHER_KINDS = ("pytorch_model.bin", "model.pt", "modeling.py", "x.pkl", ".hidden.json", "README",
               "a\n.json")  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_refuses_other_kinds(tmp_path, name):
    folder = write(tmp_path / "m", GOOD | {name: b"x"})
    with pytest.raises(ParseError, match="only data files"):
        read_model(folder)


def test_refuses_link_out(tmp_path):
    folder = write(tmp_path / "m", GOOD)
    write(tmp_path, {"secret.json": b"{}"})
    (folder / "linked.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ParseError, match="plain file"):
        read_model(folder)


def test_refuses_subfolder(tmp_path):
    folder = write(tmp_path / "m", GOOD)
    (folder / "sub.json").mkdir()
    with pytest.raises(ParseError, match="plain file"):
        read_model(folder)


def test_refuses_pipe_without_waiting(tmp_path):
    folder = write(tmp_path / "m", GOOD)
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(ParseError, match="plain file"):
        read_model(folder)


def test_bounded(tmp_path):
    folder = write(tmp_path / "m", GOOD)
    with pytest.raises(ParseError, match="at most"):
        read_model(folder, limit=8)


def test_empty_and_missing(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(ParseError, match="1 to"):
        read_model(tmp_path / "m")
    with pytest.raises(UsageError, match="readable directory"):
        read_model(tmp_path / "none")


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "m", GOOD)
    opened = []
    true_open = os.open

    def counting(path, *args, **kwargs):
        opened.append(path)
        return true_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    read_model(folder)
    assert sorted(str(name) for name in opened if name != folder) == sorted(GOOD)


def test_demo_model_is_small_and_whole():
    model = read_model(DEMO)
    assert len(model.files["model.safetensors"]) <= 2_000_000
    assert set(model.files) == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
