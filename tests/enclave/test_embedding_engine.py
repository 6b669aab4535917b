"""The engine that makes embeddings: what it computes, what it refuses, and whose turn it is."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attestation.errors import ParseError, UsageError
from enclave.guest.engines import embedding, embedding_engine, embedding_text
from enclave.guest.engines.base import (
    ContextOverflow,
    EngineFailed,
    EngineSettings,
    FieldRefused,
    QueueFull,
    engine_config,
)
from enclave.guest.engines.bert import BertConfig, BertEncoder
from enclave.guest.engines.embedding import Embedded, Embedder, EmbedRequest
from enclave.guest.engines.embedding_engine import EmbeddingEngine, EmbeddingSettings, batches
from enclave.guest.engines.embedding_text import TextEncoder
from enclave.guest.engines.registry import choose, engines
from enclave.guest.engines.worker import Worker
from enclave.guest.model import ModelFiles
from tests.helpers import embedding_model as toy
from tests.helpers.embedding_model import CLS, MAX_TOKENS, SEP, WIDTH, WORDS

SECRET = "the lighthouse sleeps"
TEXTS = ("hello world", "Hello?", "a", SECRET, "x1 y2 z3", "hello world", "h é l l o")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return toy.files(tmp_path_factory.mktemp("models") / "toy")


def asked(*inputs: Any, **more: Any) -> EmbedRequest:
    return EmbedRequest(inputs=inputs, **more)


def with_engine(
    model: ModelFiles,
    body: Callable[[EmbeddingEngine], Awaitable[Any]],
    settings: EmbeddingSettings | None = None,
) -> Any:
    async def run() -> Any:
        engine = EmbeddingEngine(model, settings=settings)
        await engine.start()
        try:
            return await body(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def embedded(model: ModelFiles, *inputs: Any, **more: Any) -> Embedded:
    found = with_engine(model, lambda engine: engine.embed(asked(*inputs, **more), client=b""))
    assert isinstance(found, Embedded)
    return found


def numbers(found: Embedded) -> torch.Tensor:
    return torch.tensor([struct.unpack(f"<{len(v) // 4}f", v) for v in found.vectors])


# What it computes


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("mean", False), ("cls", True)])
def test_vectors_are_those_of_transformers(tmp_path: Path, pooling: str, normalize: bool) -> None:
    from transformers import BertConfig as TheirConfig
    from transformers import BertModel

    settings = TheirConfig(**toy.config(pooling=None, normalize=None, max_tokens=None))
    theirs: Any = BertModel(settings, add_pooling_layer=False)
    theirs.eval()
    values = {name: torch.from_numpy(value) for name, value in toy.arrays().items()}
    theirs.load_state_dict(values, strict=False)
    found = numbers(embedded(toy.files(tmp_path, pooling=pooling, normalize=normalize), *TEXTS))
    assert found.shape == (len(TEXTS), WIDTH)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([toy.tokenizer().encode(text).ids])
        with torch.no_grad():
            hidden = theirs(input_ids=ids).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[0]
        expected = expected / expected.norm() if normalize else expected
        assert torch.allclose(vector, expected, atol=1e-5), text


def test_a_text_has_the_same_vector_alone_and_in_company(model: ModelFiles) -> None:
    together = numbers(embedded(model, *TEXTS))
    for at, text in enumerate(TEXTS):
        assert torch.allclose(numbers(embedded(model, text))[0], together[at], atol=1e-6)


def test_token_ids_stand_for_themselves_and_are_counted_with_the_added_ones(
    model: ModelFiles,
) -> None:
    ids = tuple(WORDS.index(word) for word in ("hello", "world"))
    found = embedded(model, "hello world", ids)
    assert found.vectors[0] == found.vectors[1]
    assert found.tokens == 2 * (len(ids) + 2)


def test_a_special_token_in_a_text_is_ordinary_text(model: ModelFiles) -> None:
    encoder = TextEncoder(model.files, vocabulary=len(WORDS))
    (ids,) = encoder.encode(asked("hello [SEP] world [CLS]"), most=MAX_TOKENS)
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert not {CLS, SEP} & set(ids[1:-1])


def test_a_step_has_texts_of_one_length_and_few_tokens() -> None:
    assert list(batches([3, 9, 3, 9, 5])) == [[0, 2], [4], [1, 3]]
    assert [len(found) for found in batches([200] * 5)] == [2, 2, 1]
    assert list(batches([9999, 9999])) == [[0], [1]]


def test_what_it_is_stands_in_the_engine_config(model: ModelFiles) -> None:
    engine = EmbeddingEngine(model)
    assert isinstance(engine, Embedder)
    said = json.loads(engine_config(engine.info))
    assert (said["engine"], said["max_len"], said["dtype"]) == ("umay-embedding", 24, "float32")
    assert said["flags"] == {"normalize": True, "pooling": "mean", "step_tokens": 512}
    assert set(said["libraries"]) == {"torch", "tokenizers"}
    assert engine.info.model_digest == model.digest


def test_the_measured_config_chooses_it(model: ModelFiles) -> None:
    settings = EngineSettings(name="embedding", max_len=30, dtype="float32", threads=2)
    engine = choose(engines(), "embedding")(model, settings)
    assert isinstance(engine, EmbeddingEngine) and engine.info.max_len == 30
    others = {"slots": replace(settings, slots=8), "dtype": replace(settings, dtype="bfloat16")}
    for name, other in others.items():
        with pytest.raises(ParseError, match=rf"\[engine\] {name}"):
            choose(engines(), "embedding")(model, other)


@pytest.mark.parametrize("most", [1, 2, 33])
def test_a_longest_text_that_the_model_does_not_allow(model: ModelFiles, most: int) -> None:
    with pytest.raises(UsageError, match="max_len from 3 to 32"):
        EmbeddingEngine(model, settings=EmbeddingSettings(max_len=most))


# What is refused


LONG = " ".join(["hello"] * (MAX_TOKENS - 1))
OVER: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a long text": (("a", LONG), {}, "input[1]"),
    "a long text alone": ((LONG,), {"alone": True}, "input"),
    "a text of many spaces": ((" " * 4000,), {}, "input[0]"),
    "many token ids": (((7,) * (MAX_TOKENS - 1),), {}, "input[0]"),
}


@pytest.mark.parametrize("name", OVER)
def test_a_text_that_is_too_long_is_not_cut(model: ModelFiles, name: str) -> None:
    inputs, more, param = OVER[name]
    with pytest.raises(ContextOverflow, match=f"at most {MAX_TOKENS} tokens") as caught:
        embedded(model, *inputs, **more)
    assert caught.value.param == param
    assert embedded(model, LONG.removesuffix(" hello")).tokens == MAX_TOKENS


def test_the_tokens_of_a_request_are_bounded(
    model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: EmbeddingEngine) -> None:
        monkeypatch.setattr(embedding_text, "MOST_TOKENS", 7)
        assert (await engine.embed(asked("hello", "hello"), client=b"")).tokens == 6
        with pytest.raises(ContextOverflow, match="at most 7 tokens together") as caught:
            await engine.embed(asked("hello", "hello", "hello"), client=b"")
        assert caught.value.param == "input"

    with_engine(model, body)


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a text of no token": (("a", " \n"), {}, "input[1]"),
    "a token id that the model lacks": (("a", (0, len(WORDS))), {}, "input[1]"),
    "a token id below zero": (((-1,),), {"alone": True}, "input"),
    "other dimensions": (("a",), {"dimensions": WIDTH - 1}, "dimensions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_model_cannot_read_is_refused_by_name(model: ModelFiles, name: str) -> None:
    inputs, more, param = WRONG[name]
    with pytest.raises(FieldRefused) as caught:
        embedded(model, *inputs, **more)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: expected ")


def test_the_models_own_dimensions_may_be_said(model: ModelFiles) -> None:
    assert len(embedded(model, "a", dimensions=WIDTH).vectors[0]) == 4 * WIDTH


def test_a_vector_that_is_not_finite_refuses_its_text_alone(
    model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: EmbeddingEngine) -> None:
        vectors = BertEncoder.vectors

        def broken(encoder: BertEncoder, ids: torch.Tensor) -> torch.Tensor:
            found = vectors(encoder, ids).clone()
            found[ids[:, 1] == WORDS.index("world")] = float("nan")
            return found

        monkeypatch.setattr(BertEncoder, "vectors", broken)
        with pytest.raises(FieldRefused, match="finite") as caught:
            await engine.embed(asked("hello", "world"), client=b"")
        assert caught.value.param == "input[1]"
        assert (await engine.embed(asked("hello"), client=b"")).tokens == 3
        assert engine.failure() is None

    with_engine(model, body)


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"model_type": "roberta"}, "model_type: expected 'bert'"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    "another dtype": ({"dtype": "bfloat16"}, "dtype"),
    "an unknown key": ({"auto_map": {}}, "auto_map: expected exactly the keys"),
    "a key too few": ({"pooling": None}, "pooling: expected exactly the keys"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers: expected an integer from 1"),
    "a size that is true": ({"vocab_size": True}, "vocab_size"),
    "a size beyond all": ({"vocab_size": 1 << 21}, "vocab_size"),
    "heads that do not divide": ({"num_attention_heads": 3}, "hidden_size: expected a multiple"),
    "another pooling": ({"pooling": "max"}, "pooling: expected mean or cls"),
    "normalize as a number": ({"normalize": 1}, "normalize"),
    "an epsilon of zero": ({"layer_norm_eps": 0.0}, "layer_norm_eps"),
    "an epsilon that is a whole number": ({"layer_norm_eps": 1}, "layer_norm_eps"),
    "texts longer than the positions": ({"max_tokens": 33}, "max_tokens"),
    "texts without room": ({"max_tokens": 2}, "max_tokens"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_model_of_another_kind_is_refused(name: str) -> None:
    changed, said = BAD_CONFIGS[name]
    with pytest.raises(ParseError, match=f"config.json: {said}"):
        BertConfig.of(toy.config(**changed))


def tokenizers() -> dict[str, tuple[Any, int, str]]:
    cutting, filling, beside, second = (toy.tokenizer() for _ in range(4))
    cutting.enable_truncation(8)
    filling.enable_padding()
    beside.add_tokens(["one", "more"])
    processing = json.loads(second.to_str())
    processing["post_processor"]["single"] = [{"Sequence": {"id": "A", "type_id": 1}}]
    return {
        "one that cuts": (cutting.to_str(), len(WORDS), "truncation: expected null"),
        "one that fills up": (filling.to_str(), len(WORDS), "padding: expected null"),
        "one with more tokens": (beside.to_str(), len(WORDS), "expected token ids below"),
        "one of other kinds": (json.dumps(processing), len(WORDS), "expected tokens of the kind 0"),
        "no tokenizer": ("{}", len(WORDS), "expected a tokenizer"),
    }


@pytest.mark.parametrize("name", tokenizers())
def test_a_tokenizer_that_would_change_texts_is_refused(name: str) -> None:
    text, vocabulary, said = tokenizers()[name]
    with pytest.raises(ParseError, match=said):
        TextEncoder({"tokenizer.json": text.encode()}, vocabulary=vocabulary)


def test_weights_are_exactly_those_of_the_config() -> None:
    config = BertConfig.of(toy.config())
    whole = {name: torch.from_numpy(value) for name, value in toy.arrays().items()}
    name = "encoder.layer.1.output.dense.bias"
    wrong = [
        {key: value for key, value in whole.items() if key != name},
        {**whole, "more": torch.zeros(1)},
        {**whole, name: torch.zeros(3)},
    ]
    for weights in wrong:
        with pytest.raises(ParseError, match="exactly the names and shapes"):
            BertEncoder(config, weights)
    with pytest.raises(ParseError, match=f"{name}.*expected float32"):
        BertEncoder(config, {**whole, name: whole[name].half()})


def test_a_model_of_no_numbers_does_not_pass_the_self_test(model: ModelFiles) -> None:
    files = dict(model.files)
    files["model.safetensors"] = bytearray(files["model.safetensors"])
    files["model.safetensors"][-4:] = struct.pack("<f", float("nan"))
    engine = EmbeddingEngine(replace(model, files=files))

    async def start() -> None:
        with pytest.raises(EngineFailed, match="self-test"):
            await engine.start()
        await engine.close()

    asyncio.run(start())


# Running and ending


def test_an_engine_that_does_not_run(model: ModelFiles) -> None:
    async def body() -> None:
        engine = EmbeddingEngine(model)
        with pytest.raises(EngineFailed, match="was not started"):
            await engine.embed(asked("a"), client=b"")
        await engine.start()
        with pytest.raises(UsageError, match="expected a new engine"):
            await engine.start()
        await engine.close()
        with pytest.raises(EngineFailed, match="it was closed"):
            await engine.embed(asked("a"), client=b"")

    asyncio.run(body())


def test_what_breaks_a_step_is_the_end_of_the_engine_and_says_no_text(
    model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(encoder: BertEncoder, ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(SECRET)

    async def body(engine: EmbeddingEngine) -> None:
        monkeypatch.setattr(BertEncoder, "vectors", broken)
        waiting = asyncio.create_task(engine.embed(asked("b"), client=b""))
        results = await asyncio.gather(
            engine.embed(asked(SECRET), client=b""), waiting, return_exceptions=True
        )
        assert [str(error) for error in results] == ["engine: it was stopped by RuntimeError"] * 2
        assert isinstance(engine.failure(), EngineFailed)

    with_engine(model, body)


def test_a_step_that_never_ends_is_seen(model: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddingEngine(model)
    assert engine.failure() is None

    async def body(engine: EmbeddingEngine) -> None:
        assert engine.failure() is None
        monkeypatch.setattr(Worker, "busy_s", lambda _: 121.0)
        assert "more than 120 s" in str(engine.failure())

    with_engine(model, body)


class Gate:
    """Holds every step until `open`."""

    def __init__(self, engine: Any) -> None:
        self.order: list[int] = []
        self._step, self._gate = engine._step, asyncio.Event()
        engine._compute = self._compute

    async def _compute(self, step: Any) -> Any:
        (ids,) = step.args
        self.order.append(len(ids[0]))
        await self._gate.wait()
        return self._step(ids)

    def open(self) -> None:
        self._gate.set()


async def until(engine: EmbeddingEngine, running: int, waiting: int) -> None:
    """So many requests run and wait: their texts are read on another thread first."""
    while (engine.stats().running, engine.stats().waiting) != (running, waiting):
        await asyncio.sleep(0.002)


def test_a_long_request_delays_a_short_one_by_one_step(
    model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_engine, "STEP_TOKENS", 4)

    async def body(engine: EmbeddingEngine) -> None:
        known = engine._turns._names
        known.finished(b"long")
        known.finished(b"short")
        gate = Gate(engine)
        many = asyncio.create_task(engine.embed(asked(*["hello hello"] * 4), client=b"long"))
        await until(engine, 1, 0)
        one = asyncio.create_task(engine.embed(asked("hello"), client=b"short"))
        await until(engine, 1, 1)
        gate.open()
        await asyncio.gather(many, one)
        assert gate.order == [4, 3, 4, 4, 4]
        assert (engine.stats().finished, engine.stats().waiting) == (2, 0)

    with_engine(model, body)


def test_who_leaves_frees_its_place(model: ModelFiles) -> None:
    async def body(engine: EmbeddingEngine) -> None:
        gate = Gate(engine)
        tasks = [asyncio.create_task(engine.embed(asked("a"), client=b"")) for _ in range(3)]
        await until(engine, 1, 2)
        tasks[1].cancel()
        tasks[0].cancel()
        await until(engine, 1, 0)
        gate.open()
        assert (await tasks[2]).tokens == 3
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.finished, stats.cancelled) == (0, 0, 1, 2)

    with_engine(model, body)


class Unread(TextEncoder):
    """Whoever is refused has had no text read."""

    def __init__(self) -> None: ...

    def encode(self, request: EmbedRequest, *, most: int) -> list[list[int]]:
        raise AssertionError


def test_the_queue_is_bounded_and_a_client_that_waits_with_many_makes_room(
    model: ModelFiles,
) -> None:
    async def body(engine: EmbeddingEngine) -> None:
        engine._turns._names.finished(b"many")
        gate = Gate(engine)
        many = [asyncio.create_task(engine.embed(asked("a"), client=b"many")) for _ in range(3)]
        await until(engine, 1, 2)
        texts, engine._texts = engine._texts, Unread()
        with pytest.raises(QueueFull, match="expected a free place"):
            await engine.embed(asked("a"), client=b"many")
        engine._texts = texts
        other = asyncio.create_task(engine.embed(asked("a"), client=b"other"))
        with pytest.raises(QueueFull, match="fewer requests of one client"):
            await many[2]
        gate.open()
        assert {found.tokens for found in await asyncio.gather(*many[:2], other)} == {3}

    with_engine(model, body, EmbeddingSettings(max_waiting=3))


def test_whoever_waits_when_it_closes_is_told(model: ModelFiles) -> None:
    async def body(engine: EmbeddingEngine) -> None:
        Gate(engine)
        tasks = [asyncio.create_task(engine.embed(asked("a"), client=b"")) for _ in range(2)]
        await until(engine, 1, 1)
        await engine.close()
        with pytest.raises(EngineFailed, match="it was closed"):
            await tasks[1]
        tasks[0].cancel()

    with_engine(model, body)


def test_whoever_comes_to_wait_after_its_end_is_told(model: ModelFiles) -> None:
    """Its text was read on another thread while the engine was closed."""

    async def body(engine: EmbeddingEngine) -> None:
        Gate(engine)
        task = asyncio.create_task(engine.embed(asked("a"), client=b""))
        await until(engine, 1, 0)
        engine._texts = Slow(engine)
        late = asyncio.create_task(engine.embed(asked("b"), client=b""))
        with pytest.raises(EngineFailed, match="it was closed"):
            await late
        task.cancel()

    with_engine(model, body)


class Slow(TextEncoder):
    """The engine has ended when the text has been read."""

    def __init__(self, engine: EmbeddingEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()

    def encode(self, request: EmbedRequest, *, most: int) -> list[list[int]]:
        asyncio.run_coroutine_threadsafe(self._engine.close(), self._loop).result()
        return [[CLS, 7, SEP]]


def test_nothing_of_a_text_is_in_a_repr(model: ModelFiles) -> None:
    found = embedded(model, SECRET)
    assert SECRET not in repr(asked(SECRET))
    assert repr(found) == f"Embedded(tokens={found.tokens})"
    assert embedding.MOST_CHARS * 6 < embedding.MOST_BODY
