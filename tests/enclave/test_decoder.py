"""Our forward pass beside the library's `generate`, on random models of each architecture."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
import torch

from attestation.errors import ParseError
from enclave.guest.engines.base import EngineFailed, FieldRefused, GenerateRequest
from enclave.guest.engines.decoder import Decoder
from enclave.guest.engines.graphs import Step
from enclave.guest.engines.slots import Scheduler
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import ModelFiles
from tests.helpers.random_model import random_model

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    "gemma, with its own size of a head": ("gemma", {"head_dim": ...}),
    "llama": ("llama", {}),
    "llama, all heads of their own": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, frequencies of llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, frequencies of yarn": ("llama", {"rope_parameters": YARN}),
    "llama, linear frequencies": ("llama", {"rope_parameters": LINEAR}),
    "mistral": ("mistral", {}),
    "mistral, with its own number of heads": (
        "mistral", {"num_attention_heads": 8, "num_key_value_heads": ..., "head_dim": 6},
    ),
    "phi3": ("phi3", {"head_dim": 12}),
    "qwen2": ("qwen2", {"head_dim": 12}),
    "qwen3": ("qwen3", {}),
}  # fmt: skip
WHOLE = ("llama", "qwen3", "gemma")
TOKENS = 32


def prompts(count: int) -> list[list[int]]:
    chosen = random.Random(3)
    return [
        [chosen.randrange(3, 1024) for _ in range(chosen.randrange(1, 60))] for _ in range(count)
    ]


async def one(engine: TorchEngine, ids: list[int]) -> list[int]:
    request = GenerateRequest(prompt="", token_ids=tuple(ids), max_tokens=TOKENS,
                              temperature=0.0, cache_salt=str(ids).encode())  # fmt: skip
    return [t async for delta in engine.generate(request) for t in delta.token_ids]


def told(model: ModelFiles, asked: list[list[int]], **settings: Any) -> list[list[int]]:
    """The token ids of each answer; the requests are in the engine together."""

    async def whole() -> list[list[int]]:
        engine = TorchEngine(model, settings=TorchSettings(max_waiting=1000, **settings))
        await engine.start()
        try:
            return await asyncio.gather(*(one(engine, ids) for ids in asked))
        finally:
            await engine.close()

    return asyncio.run(whole())


def generated(model: Any, ids: list[int]) -> list[int]:
    tensor = torch.tensor([ids])
    found = model.generate(
        tensor, attention_mask=torch.ones_like(tensor), do_sample=False, max_new_tokens=TOKENS,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return found[0, len(ids) :].tolist()


def compare(name: str, count: int) -> None:
    kind, changes = KINDS[name]
    model, library = random_model(kind, **changes)
    asked = prompts(count)
    answers = told(model, asked, slots=5, prefill_piece=16)
    for ids, answer in zip(asked, answers, strict=True):
        assert answer == generated(library, ids)
    assert len({tuple(answer) for answer in answers}) > count // 2


@pytest.mark.parametrize("name", KINDS)
def test_greedy_answers_equal_those_of_generate(name: str) -> None:
    compare(name, 6)


@pytest.mark.long
@pytest.mark.parametrize("name", WHOLE)
def test_two_hundred_greedy_answers_equal_those_of_generate(name: str) -> None:
    compare(name, 200)


@pytest.mark.parametrize("name", WHOLE)
def test_in_bfloat16_an_answer_alone_equals_one_in_company(name: str) -> None:
    kind, changes = KINDS[name]
    model, _ = random_model(kind, **changes)
    asked = prompts(4)
    exact: dict[str, Any] = {"dtype": "bfloat16", "slots": 4, "deterministic": True}
    assert told(model, asked, **exact) == [told(model, [ids], **exact)[0] for ids in asked]


class Recorded:
    """Stands for CUDA graphs: one buffer for the inputs and one for the logits of each shape."""

    def __init__(self, step: Step) -> None:
        self._step, self.kept = step, dict[tuple[int, int], list[torch.Tensor]]()

    def __call__(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        logits = self._step(inputs, length)
        kept = self.kept.setdefault((inputs.shape[1], length), [torch.empty_like(logits)])
        return kept[0].copy_(logits)


def test_steps_of_few_shapes_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, library = random_model("llama")
    load, made = TorchEngine._load, []

    def recorded(engine: TorchEngine) -> Scheduler:
        scheduler = load(engine)
        scheduler._recorded, scheduler._step = True, Recorded(scheduler._step)
        made.append(scheduler._step)
        return scheduler

    monkeypatch.setattr(TorchEngine, "_load", recorded)
    asked = prompts(12)
    answers = told(model, asked, slots=7)
    assert answers == [generated(library, ids) for ids in asked]
    assert set(made[0].kept) <= {(rows, n) for rows in (1, 2, 4, 7) for n in (64, 128)}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window": ("mistral", {"sliding_window": 64}, "sliding_window"),
    "a window by default": ("mistral", {"sliding_window": ...}, "sliding_window"),
    "a window of qwen": ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "sliding_w"),
    "frequencies by length": (
        "llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, "rope_type",
    ),
    "a part of each head turned": (
        "phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                     "partial_rotary_factor": 0.5}}, "partial_rotary_factor",
    ),
    "another activation": ("llama", {"hidden_act": "relu"}, "hidden_act"),
    "attention to what follows": ("llama", {"is_causal": False}, "is_causal"),
    "attention both ways": ("gemma", {"use_bidirectional_attention": True}, "bidirectional"),
    "a layer with a window": (
        "qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types",
    ),
    "heads that cannot share": ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
    "too many tokens": ("llama", {"vocab_size": 1 << 21}, "vocab_size"),
    "a list of kinds": ("llama", {"model_type": ["llama"]}, "model_type"),
    "settings of one layer": ("llama", {"per_layer_config": {"1": {}}}, "per_layer_config"),
    "what the library refuses": ("llama", {"rope_parameters": 7}, "transformers takes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    kind, changes, text = REFUSED[name]
    model, _ = random_model(kind)
    config = json.loads(bytes(model.files["config.json"])) | changes
    config = {key: value for key, value in config.items() if value is not ...}
    files = model.files | {"config.json": bytearray(json.dumps(config).encode())}
    with pytest.raises(ParseError, match=text):
        TorchEngine(ModelFiles(files, model.manifest, model.digest))


def test_an_engine_that_answers_otherwise_than_the_library_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = random_model("llama")
    monkeypatch.setattr(Decoder, "_attention", lambda self, layer, x, turn: layer.qkv(x).unflatten(
        -1, (8, -1)))  # fmt: skip
    with pytest.raises(EngineFailed, match=r"self-test expected logits that differ"):
        told(model, prompts(1))


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_logits_of_another_size_do_not_start(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = random_model("llama")
    right = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda *given: right(*given) * factor)
    with pytest.raises(EngineFailed, match="self-test"):
        told(model, prompts(1))


def test_a_request_whose_logits_are_not_finite_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, library = random_model("llama")
    right, spoilt = Decoder.__call__, 777

    def overflowing(self: Decoder, tokens: torch.Tensor, *given: Any) -> torch.Tensor:
        logits = right(self, tokens, *given)
        logits[(tokens == spoilt).any(1)] = torch.nan
        return logits

    monkeypatch.setattr(Decoder, "__call__", overflowing)
    good = [1000, 12, 13]

    async def both() -> list[Any]:
        engine = TorchEngine(model, settings=TorchSettings())
        await engine.start()
        try:
            asked = [one(engine, ids) for ids in ([5, spoilt], good)]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await engine.close()

    refused, answer = asyncio.run(both())
    assert isinstance(refused, FieldRefused) and "finite numbers" in str(refused)
    assert answer[:3] == generated(library, good)[:3]


def test_a_tensor_that_our_pass_does_not_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from enclave.guest.engines import decoder

    model, _ = random_model("qwen3")
    whole = decoder._layer

    def without_norms(weights: dict[str, torch.Tensor], prefix: str) -> Any:
        norms = {name: weights.pop(name) for name in list(weights) if "_norm" in name and
                 "self_attn" in name and prefix in name}  # fmt: skip
        layer = whole(weights, prefix)
        weights |= norms
        return layer

    monkeypatch.setattr(decoder, "_layer", without_norms)
    with pytest.raises(EngineFailed, match="expected to use every tensor"):
        told(model, prompts(1))
