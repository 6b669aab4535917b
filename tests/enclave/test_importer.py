"""`umay host model import`: a GGUF file becomes a model that a guest runs, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from attestation.errors import ParseError, Unavailable, UsageError
from enclave.guest.engines import weights as reader
from enclave.guest.engines.base import EngineFailed
from enclave.guest.engines.prompt import PromptEncoder
from enclave.guest.model import read_model
from enclave.importer import gguf_file, importing, timing, weights
from enclave.importer.tokens import CHATML
from tests.helpers import gguf_model
from tests.helpers.gguf_model import toy


@pytest.fixture(autouse=True, scope="module")
def _short_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "TOKENS", 2)
        yield


def make(out: Path, file: gguf_file.Gguf | None = None, **options: Any) -> dict[str, Any]:
    options = {"dtype": "float32", "threads": None, "tell": lambda text: None} | options
    return importing.make(file or toy(), out, **options)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "toy"
    make(out)
    return out


# What comes out


def test_the_directory_is_a_model_with_the_digest_that_was_said(tmp_path: Path) -> None:
    out, told = tmp_path / "deep" / "toy", []
    done = make(out, tell=told.append)
    files = read_model(out)
    assert done["model_digest"] == files.digest.hex() and done["directory"] == str(out)
    assert sorted(files.files) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert os.listdir(out.parent) == ["toy"]
    assert told[0] == "writing the tokenizer" and told[-1].startswith("float32: ")


def test_with_a_given_dtype_the_digest_is_always_the_same(tmp_path: Path) -> None:
    digests = [make(tmp_path / name)["model_digest"] for name in ("a", "b")]
    assert digests[0] == digests[1]


def test_the_weights_are_the_files_own_in_bfloat16(imported: Path) -> None:
    found = reader.tensors(dict(read_model(imported).files))
    expected = gguf_model.arrays()
    assert found.keys() == expected.keys() and "lm_head.weight" not in found
    for name, values in expected.items():
        assert torch.equal(found[name], torch.from_numpy(values).to(torch.bfloat16)), name


def test_an_untied_head_is_kept(tmp_path: Path) -> None:
    head = np.full((len(gguf_model.WORDS), gguf_model.WIDTH), 0.25, np.float32)
    make(tmp_path / "m", toy({"output.weight": head}))
    files = read_model(tmp_path / "m").files
    assert json.loads(files["config.json"])["tie_word_embeddings"] is False
    assert reader.tensors(dict(files))["lm_head.weight"].unique().tolist() == [0.25]


def test_the_tokenizer_splits_digits_and_keeps_special_tokens(imported: Path) -> None:
    tokenizer = Tokenizer.from_file(str(imported / "tokenizer.json"))
    assert tokenizer.encode("hello w12").tokens == ["hello", "Ġw", "1", "2"]
    assert tokenizer.encode("<|im_end|>é").ids[0] == 2
    assert tokenizer.decode(tokenizer.encode("hello é\n<|im_end|>").ids) == "hello é\n"


def test_the_chat_template_is_chatml(imported: Path) -> None:
    assert (imported / "chat_template.jinja").read_text() == CHATML
    encoder = PromptEncoder(read_model(imported).files)
    assert encoder.chats


def test_a_template_of_the_file_is_kept_and_none_is_invented(tmp_path: Path) -> None:
    make(tmp_path / "a", toy(tokenizer__chat_template="{{ messages }}"))
    assert (tmp_path / "a" / "chat_template.jinja").read_text() == "{{ messages }}"
    words = ["<|x|>" if word == "<|im_start|>" else word for word in gguf_model.WORDS]
    make(tmp_path / "b", toy(tokenizer__ggml__tokens=words))
    assert not (tmp_path / "b" / "chat_template.jinja").exists()


def test_a_begin_token_is_put_before_prompts_where_the_file_says_so(tmp_path: Path) -> None:
    make(tmp_path / "m", toy(tokenizer__ggml__add_bos_token=True))
    assert Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json")).encode("he").ids[0] == 1


# The dtype


@pytest.mark.parametrize("faster", importing.DTYPES)
def test_the_faster_dtype_is_the_models_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: str
) -> None:
    def measured(_files: object, dtype: str, **_: object) -> timing.Timing:
        return timing.Timing(dtype, 2.0 if dtype == faster else 1.0, 8.0, 8)

    monkeypatch.setattr(importing, "measure", measured)
    done = make(tmp_path / "m", dtype=None)
    assert done["dtype"] == faster and set(done["tokens_per_s"]) == set(importing.DTYPES)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == faster


def test_both_are_timed_through_the_engine(tmp_path: Path) -> None:
    done = make(tmp_path / "m", dtype=None)
    assert all(rate > 0 for pair in done["tokens_per_s"].values() for rate in pair)


def test_what_counts_is_one_token_alone_and_one_in_each_slot() -> None:
    assert timing.Timing("float32", 10.0, 40.0, 8).cost == pytest.approx(0.1 + 0.2)


# Nothing is left of an import that failed


def test_a_name_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="free"):
        importing.import_model(
            Path("/none"), tmp_path / "m", dtype=None, threads=None, tell=lambda text: None
        )


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dtype"):
        importing.import_model(
            Path("/none"), tmp_path / "m", dtype="int8", threads=None, tell=lambda text: None
        )


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 1 << 20))
    with pytest.raises(Unavailable, match="free disk, got 1 MiB"):
        make(tmp_path / "m")
    assert not os.listdir(tmp_path)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        make(tmp_path / "m")
    assert not os.listdir(tmp_path)


def test_what_the_engine_cannot_run_is_not_imported(tmp_path: Path) -> None:
    wrong = np.zeros((3, gguf_model.WIDTH), np.float32)
    with pytest.raises(EngineFailed, match=r"mlp\.up_proj"):
        make(tmp_path / "m", toy({"blk.1.ffn_up.weight": wrong}))
    assert not os.listdir(tmp_path)


def test_an_interrupted_import(tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("timing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "m", tell=interrupt)
    assert not os.listdir(tmp_path)


# What cannot be imported

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({"general__architecture": "gemma3"}, "one of llama, qwen3, got 'gem"),
    "no architecture": ({"general__architecture": None}, "general.architecture: expected a value"),
    "rope scaling": ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.type: expected only"),
    "experts": ({"llama__expert_count": 8}, "expert_count: expected only"),
    "no context": ({"llama__context_length": None}, "context_length: expected a value"),
    "no heads": ({"llama__attention__head_count": 0}, "whole number from 1"),
    "a text for a number": ({"llama__block_count": "2"}, "block_count: expected a whole number"),
    "huge": ({"llama__block_count": 2**32}, "block_count: expected a whole number"),
    "no epsilon": ({"llama__attention__layer_norm_rms_epsilon": None}, "rms_epsilon"),
    "infinite epsilon": ({"llama__attention__layer_norm_rms_epsilon": float("inf")}, "above zero"),
    "heads that do not divide": ({"llama__attention__head_count_kv": 3}, "a divisor of 4"),
    "no key heads": ({"llama__attention__head_count_kv": 0}, "a divisor of 4"),
    "partial rotation": ({"llama__rope__dimension_count": 4}, "dimension_count: expected 8"),
    "other values": ({"llama__attention__value_length": 16}, "value_length: expected 8"),
    "other vocabulary": ({"llama__vocab_size": 5}, "as many embeddings as tokens"),
    "sentencepiece": ({"tokenizer__ggml__model": "llama"}, "expected gpt2"),
    "unknown splitting": ({"tokenizer__ggml__pre": "tekken"}, "pre: expected one of gpt-2, smollm"),
    "space prefix": ({"tokenizer__ggml__add_space_prefix": True}, "expected false"),
    "end token added": ({"tokenizer__ggml__add_eos_token": True}, "expected false"),
    "flag of another type": ({"tokenizer__ggml__add_bos_token": 1}, "true or false"),
    "unknown setting": ({"tokenizer__ggml__precompiled": [1]}, "precompiled: expected only"),
    "tokens of numbers": ({"tokenizer__ggml__tokens": [1]}, "a list of texts"),
    "a token twice": ({"tokenizer__ggml__tokens": ["a"] * len(gguf_model.WORDS)}, "each once"),
    "types of texts": ({"tokenizer__ggml__token_type": ["1"]}, "list of whole numbers"),
    "types missing": ({"tokenizer__ggml__token_type": [1]}, "with a type"),
    "byte tokens": ({"tokenizer__ggml__token_type": [6] * len(gguf_model.WORDS)}, "got 6"),
    "merge of three": ({"tokenizer__ggml__merges": ["a b c"]}, "two parts"),
    "merge of strangers": ({"tokenizer__ggml__merges": ["he ☃"]}, "merges of known tokens"),
    "no end token": ({"tokenizer__ggml__eos_token_id": None}, "the token that ends answers"),
    "end token outside": ({"tokenizer__ggml__eos_token_id": 9999}, "id below"),
    "template of another type": ({"tokenizer__chat_template": 1}, "expected a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_refused(tmp_path: Path, name: str) -> None:
    settings, message = SETTINGS[name]
    with pytest.raises(ParseError, match=message):
        make(tmp_path / "m", toy(**settings))
    assert not os.listdir(tmp_path)


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"blk.1.ffn_up.weight": None}, r"blk\.1\.ffn_up.*got none"),
    "unknown": ({"rope_freqs.weight": np.ones(4, np.float32)}, "rope_freqs.*got an unknown one"),
    "bias": ({"blk.0.attn_q.bias": np.ones(4, np.float32)}, "attn_q.bias.*got an unknown one"),
    "no embeddings": ({"token_embd.weight": None}, "got .* tokens, no embeddings"),
    "rows of no head": ({"blk.0.attn_q.weight": np.zeros((9, 32), np.float32)}, "4 heads"),
    "flat": ({"blk.0.attn_k.weight": np.zeros(8, np.float32)}, "2 heads"),
    "infinite": ({"output_norm.weight": np.full(32, np.inf, np.float32)}, "finite weights"),
    "not a number": ({"output_norm.weight": np.full(32, np.nan, np.float32)}, "finite weights"),
    "too large": ({"output_norm.weight": np.full(32, 3.4e38, np.float32)}, "finite weights"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_refused(tmp_path: Path, name: str) -> None:
    changed, message = TENSORS[name]
    with pytest.raises(ParseError, match=message):
        make(tmp_path / "m", toy(changed))
    assert not os.listdir(tmp_path)


def test_a_tensor_with_another_shape_than_said(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="expected the shape"):
        weights.write(tmp_path / "w", {"a": (2,)}, lambda name: np.zeros(3, np.float32))


# Rounding and files


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_is_pytorchs(values: list[float]) -> None:
    given_ = np.array(values, np.float32)
    expected = torch.from_numpy(given_).to(torch.bfloat16)
    if not torch.isfinite(expected).all():
        with pytest.raises(ParseError, match="finite"):
            weights.rounded("x", given_)
        return
    bits = torch.from_numpy(weights.rounded("x", given_).astype(np.int16))
    assert torch.equal(bits, expected.view(torch.int16))


@given(st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3), min_size=1))
def test_what_is_written_is_read_by_our_strict_reader(shapes: dict[str, list[int]]) -> None:
    named = {name: tuple(shape) for name, shape in shapes.items() if name != "__metadata__"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        weights.write(path, named, lambda name: np.ones(named[name], np.float32))
        spans = reader.parse_header(path.read_bytes())
    assert {span.name: span.shape for span in spans} == named


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04", b"\x80\x05."])
def test_what_is_no_gguf_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ParseError, match="begins with the bytes 'GGUF'"):
        gguf_file.read(tmp_path / "x.gguf")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        gguf_file.read(tmp_path / "x.gguf")
