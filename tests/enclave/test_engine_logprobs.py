"""Log probabilities beside transformers' own log-softmax, and as OpenAI's types."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tokenizers import Tokenizer, decoders, models

import enclave.guest
from enclave.guest.engines.base import Delta, GenerateRequest, TokenLogprob
from enclave.guest.engines.logprobs import LEAST, Speller, score
from enclave.guest.engines.torch_engine import TorchEngine, TorchSettings
from enclave.guest.logprobs import Logprobs
from enclave.guest.model import read_model
from tests.helpers import guest_room
from tests.helpers.guest_room import CHAT, MODEL, PROMPT, Room, post, room, stream

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
FILES = read_model(DEMO)
TEXT = "<|user|>Tell me a story about a guardian.<|end|><|assistant|>"


def written(**settings: object) -> list[Delta]:
    async def body() -> list[Delta]:
        engine = TorchEngine(FILES, settings=TorchSettings(dtype="float32", slots=2))
        await engine.start()
        try:
            request = GenerateRequest(prompt=TEXT, **{"max_tokens": 24, **settings})
            other = engine.generate(GenerateRequest(prompt="hello", max_tokens=9))
            deltas = [delta async for delta in engine.generate(request)]
            await other.aclose()
            return deltas
        finally:
            await engine.close()

    return asyncio.run(body())


CASES = {
    "greedy": {"logprobs": 5},
    "drawn": {"logprobs": 20, "temperature": 1.5, "seed": 3},
    "of the model's logits whatever changes them": {
        "logprobs": 3, "temperature": 0.7, "seed": 1, "logit_bias": {40: 50.0},
        "repetition_penalty": 1.5, "presence_penalty": 1.0, "top_k": 3,
    },
    "no alternatives": {"logprobs": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_transformers(reference, name):
    deltas = written(**CASES[name])
    tokens = [token for delta in deltas for token in delta.token_ids]
    found = [one for delta in deltas for one in delta.logprobs]
    assert len(found) > 15 and tokens[len(found) :] in ([], [2])
    tokens = tokens[: len(found)]
    spell = Speller(Tokenizer.from_file(str(DEMO / "tokenizer.json")))
    prompt = TorchEngine(FILES)._encoder.encode_text(TEXT, max_tokens=1024)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits.float(), -1)
    for one, token, row in zip(found, tokens, expected, strict=True):
        assert one.token == spell(token)
        assert math.isclose(one.logprob, float(row[token]), abs_tol=1e-3)
        values = row.topk(CASES[name]["logprobs"]).values.tolist()
        assert [value for _, value in one.top] == pytest.approx(values, abs=1e-3)
    text = "".join(delta.text for delta in deltas)
    assert b"".join(one.token for one in found).decode(errors="replace") == text


def test_nobody_asked():
    assert not any(delta.logprobs for delta in written())


def test_the_end_token_has_none():
    deltas = written(logprobs=1, max_tokens=3, logit_bias={2: 100.0})
    assert deltas[-1].finish_reason == "stop" and deltas[-1].usage.completion == 1
    assert [one for delta in deltas for one in delta.logprobs] == []


def test_no_probability_is_a_number_and_a_small_vocabulary_is_told_whole():
    row = torch.tensor([0.0, -math.inf])
    found = score(row, 1, 3, lambda token: bytes([token]))
    assert found == TokenLogprob(b"\1", LEAST, ((b"\0", 0.0), (b"\1", LEAST)))


# The bytes of tokens


def test_bytes_of_a_byte_level_token():
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    spell = Speller(tokenizer)
    for text in ("Hello, world.\n", "naïve — 🙂 \t ½", "".join(map(chr, range(32, 300)))):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(map(spell, ids)) == text.encode()
    assert spell(2) == tokenizer.id_to_token(2).encode()
    assert spell(10**6) == b""


def test_bytes_of_a_token_that_stands_as_it_is():
    """Byte-level tokenizers may have tokens with characters that stand for no byte."""
    tokenizer = Tokenizer(models.BPE(vocab={"中": 0, " b": 1}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    spell = Speller(tokenizer)
    assert [spell(token) for token in (0, 1)] == ["中".encode(), b" b"]
    assert tokenizer.decode([0]) == "中"


def test_bytes_of_a_token_of_sentencepiece():
    tokenizer = Tokenizer(models.BPE({"▁a": 0, "<0xF0>": 1, "b▁": 2}, []))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    assert list(map(Speller(tokenizer), range(3))) == [b" a", b"\xf0", b"b "]


def test_bytes_of_another_token():
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    assert Speller(tokenizer)(0) == b"a"


# The answer

SCORES = (
    TokenLogprob(b"Hel", -0.5, ((b"Hel", -0.5), (b"x", -1.5))),
    TokenLogprob(b"\xc3", -2.0, ((b"\xc3", -2.0), (b"\xc4", -3.0))),
    TokenLogprob(b"\xa9", -0.25, ((b"\xa9", -0.25), (b"y", -4.0))),
)


class Scored(guest_room.ScriptedAnswer):
    async def __anext__(self) -> Delta:
        delta = await super().__anext__()
        return dataclasses.replace(delta, logprobs=SCORES if delta.text else ())


@pytest.fixture(scope="module")
def guest() -> Iterator[Room]:
    with pytest.MonkeyPatch.context() as patch, room() as opened:
        patch.setattr(guest_room, "ScriptedAnswer", Scored)
        opened.engine.script.pieces = ["Hel\u00e9"]
        yield opened


CONTENT = [
    {
        "token": token, "logprob": one.logprob, "bytes": list(one.token),
        "top_logprobs": [
            {"token": other.decode(errors="replace"), "logprob": value, "bytes": list(other)}
            for other, value in one.top
        ],
    }
    for token, one in zip(("Hel", "\ufffd", "\ufffd"), SCORES, strict=True)
]  # fmt: skip


def test_a_chat_has_them_as_openai_writes_them(guest):
    answer = guest.ask(post({**CHAT, "logprobs": True, "top_logprobs": 2})).json
    ChatCompletion.model_validate(answer, strict=True)
    assert answer["choices"][0]["logprobs"] == {"content": CONTENT, "refusal": None}
    assert guest.engine.asked[-1].logprobs == 2
    assert guest.ask(post(CHAT)).json["choices"][0]["logprobs"] is None


def test_events_of_a_chat_have_those_of_their_tokens(guest):
    answer = guest.ask(post(stream(logprobs=True, n=2)))
    lines = [line[6:] for line in answer.content.decode().split("\n") if line.startswith("data: {")]
    for line in lines:
        (choice,) = ChatCompletionChunk.model_validate_json(line, strict=True).choices
        told = json.loads(line)["choices"][0]["logprobs"]["content"]
        assert told == (CONTENT if choice.delta.content else [])


@pytest.mark.parametrize("streamed", [False, True])
def test_completions_have_lists_and_offsets(guest, streamed):
    body = {"model": MODEL, "prompt": PROMPT, "logprobs": 2, "stream": streamed}
    answer = guest.ask(post(body, path="/v1/completions"))
    bodies = [answer.content]
    if streamed:
        lines = answer.content.split(b"\n")
        bodies = [line[6:] for line in lines if line.startswith(b"data: {")]
    if not streamed:
        Completion.model_validate(answer.json, strict=True)
    told = [json.loads(found)["choices"][0]["logprobs"] for found in bodies]
    assert [token for one in told for token in one["tokens"]] == ["Hel", "\ufffd", "\ufffd"]
    assert [at for one in told for at in one["text_offset"]] == [0, 3, 3]
    assert [value for one in told for value in one["token_logprobs"]] == [-0.5, -2.0, -0.25]
    top = [found for one in told for found in one["top_logprobs"]]
    assert top == [{"Hel": -0.5, "x": -1.5}, {"\ufffd": -2.0}, {"\ufffd": -0.25, "y": -4.0}]


def test_completions_without_alternatives_have_no_list_of_them():
    shown = Logprobs("completion", 0).of(Delta("x", logprobs=(TokenLogprob(b"x", -1.0),)))
    assert shown == {
        "tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0],
    }  # fmt: skip


def test_nothing_of_them_is_written_anywhere(guest, capfd, caplog):
    caplog.set_level("DEBUG")
    guest.ask(post({**CHAT, "logprobs": True, "top_logprobs": 2}))
    written = "".join(capfd.readouterr()) + caplog.text
    assert "Hel" not in written and "-1.5" not in written


def test_no_token_in_reprs():
    assert "Hel" not in repr(SCORES) + repr(Delta("", logprobs=SCORES))
