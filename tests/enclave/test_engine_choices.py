"""Choices with draws of their own, and the draw itself beside a second implementation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import enclave.guest
from enclave.guest.engines import choices
from enclave.guest.engines.base import EngineFailed, GenerateRequest, QueueFull, Usage
from enclave.guest.engines.sampling import Sampler, Sampling, choose, seed_bytes, uniform
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import read_model
from tests.helpers.guest_room import PROMPT, Room, Script, ScriptedEngine, post, room, stream

MODEL = read_model(Path(enclave.guest.__file__).parent / "demo_model")
CPU = torch.device("cpu")


# The draw


def expected(logits: list[float], settings: Sampling, seed: int, choice: int, position: int) -> int:
    """docs/spec/engine.md in plain integers."""
    best = max(logits)
    weights = [math.floor(math.exp((z - best) / settings.temperature) * 2**32) for z in logits]
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    order = order[: settings.top_k or None]
    need = math.ceil(settings.top_p * sum(weights[token] for token in order))
    kept, total = [], 0
    for token in order:
        if total < need:
            kept.append(token)
            total += weights[token]
    least = math.floor(settings.min_p * weights[order[0]])
    kept = sorted(token for token in kept if weights[token] >= least)
    told = b"umay/draw/v1\0" + struct.pack(">q", seed) + struct.pack(">II", choice, position)
    point = (int.from_bytes(hashlib.sha256(told).digest(), "big") >> 203) / 2**53
    hit = min(math.floor(point * sum(weights[token] for token in kept)), 2**62)
    for token in kept:
        if hit < weights[token]:
            return token
        hit -= weights[token]
    return kept[-1]


SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.25, top_p=0.9),
    Sampling(temperature=2.0, top_k=7),
    Sampling(temperature=1.0, min_p=0.2),
    Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.01),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_draw_is_that_of_the_page(settings):
    source = random.Random(7)
    for seed in (0, -1, 2**63 - 1):
        sampler = Sampler(settings, seed=seed, logit_bias={}, device=CPU, choice=seed & 3)
        for position in range(40):
            logits = torch.tensor([source.gauss(0, 3) for _ in range(60)])
            token = expected(logits.tolist(), settings, seed, seed & 3, position)
            assert choose([sampler], logits[None]) == [token]


@pytest.mark.parametrize("spread", [0.1, 4.0])
def test_rows_drawn_together_are_drawn_as_if_alone(spread):
    """Also where more is kept than the few greatest weights, and where weights are equal."""
    settings = [*SETTINGS, Sampling(), Sampling(top_p=0.5), Sampling(temperature=1.0, top_k=400),
                Sampling(temperature=1.0, top_k=400, top_p=0.15)]  # fmt: skip
    source = random.Random(11)
    samplers, alone = (
        [Sampler(one, seed=n, logit_bias={}, device=CPU) for n, one in enumerate(settings)]
        for _ in range(2)
    )
    for position in range(20):
        rows = [[round(source.gauss(0, spread), 1) for _ in range(700)] for _ in settings]
        found = choose(samplers, torch.tensor(rows))
        for number, (one, row) in enumerate(zip(settings, rows, strict=True)):
            exact = torch.tensor(row).tolist()
            best = exact.index(max(exact))
            drawn = best if one.greedy else expected(exact, one, number, 0, position)
            assert found[number] == drawn
            assert choose([alone[number]], torch.tensor([row])) == [drawn]


def test_draws_fit_the_softmax():
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0, 0.5])
    sampler = Sampler(Sampling(temperature=1.0), seed=5, logit_bias={}, device=CPU)
    count = 10_000
    found = [0] * len(logits)
    for _ in range(count):
        found[choose([sampler], logits[None])[0]] += 1
    chances = torch.softmax(logits, 0).tolist()
    chi = sum((n - count * p) ** 2 / (count * p) for n, p in zip(found, chances, strict=True))
    assert chi < 20.5  # 0.1 % of 5 degrees of freedom


def test_the_number_of_a_draw():
    digest = hashlib.sha256(
        b"umay/draw/v1\0" + bytes(7) + b"\7" + bytes(3) + b"\1" + bytes(3) + b"\2"
    )
    first = int.from_bytes(digest.digest()[:8], "big") >> 11
    assert uniform(seed_bytes(7), 1, 2) == first / 2**53
    assert len(seed_bytes(None)) == 32 and seed_bytes(None) != seed_bytes(None)


# The engine


def asked(**more: object) -> GenerateRequest:
    settings = {"temperature": 1.5, "seed": 7, "max_tokens": 12, **more}
    return GenerateRequest(prompt="<|user|>Tell me a story.<|end|><|assistant|>", **settings)


def run(*requests: GenerateRequest, **settings: int) -> list[object]:
    """For each request, {choice: tokens}; or what it raised."""

    async def one(engine: TorchEngine, request: GenerateRequest) -> object:
        found: dict[int, list[int]] = {}
        ends: dict[int, Usage] = {}
        answer = await choices.start(engine, await engine.prepare(request))
        async for delta in answer:
            found.setdefault(delta.index, []).extend(delta.token_ids)
            if delta.finish_reason:
                ends[delta.index] = delta.usage
        await answer.aclose()
        assert {index: len(tokens) for index, tokens in found.items()} == {
            index: usage.completion for index, usage in ends.items()
        }
        return found

    async def whole() -> list[object]:
        engine = TorchEngine(MODEL, settings=TorchSettings(dtype="float32", **settings))
        await engine.start()
        try:
            tasks = [one(engine, request) for request in requests]
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            assert engine.stats().running == 0
            await engine.close()

    return asyncio.run(whole())


def test_each_choice_has_its_own_draws_in_any_company():
    (three,) = run(asked(n=3))
    assert sorted(three) == [0, 1, 2]
    assert len({tuple(tokens) for tokens in three.values()}) == 3
    one, eight = run(asked(), asked(n=8), slots=3)
    assert one == {0: three[0]}
    assert {index: eight[index] for index in three} == three
    assert len({tuple(tokens) for tokens in eight.values()}) == 8


def test_choices_without_a_seed_differ():
    (found,) = run(asked(n=4, seed=None, temperature=2.0))
    assert len({tuple(tokens) for tokens in found.values()}) == 4


def test_all_choices_are_taken_or_none():
    (error,) = run(asked(n=4), slots=1, max_waiting=2)
    assert isinstance(error, QueueFull)


# The answer


def scripted(**script: object) -> tuple[ScriptedEngine, GenerateRequest]:
    engine = ScriptedEngine()
    engine.script = Script(**script)
    return engine, GenerateRequest(prompt="x", n=3)


def test_closing_cancels_every_choice():
    engine, request = scripted(pause=0.01, pieces=["a"] * 10_000)

    async def body() -> None:
        answer = await choices.start(engine, request)
        seen = [(await answer.__anext__()).index for _ in range(9)]
        assert set(seen) == {0, 1, 2}
        await answer.aclose()
        await answer.aclose()
        with pytest.raises(StopAsyncIteration):
            while True:
                await answer.__anext__()

    asyncio.run(body())
    assert [answer.cancelled.is_set() for answer in engine.answers] == [True] * 3


def test_a_choice_that_fails_fails_the_answer():
    engine, request = scripted(fail=EngineFailed("stopped"), fail_at=1)

    async def body() -> None:
        answer = await choices.start(engine, request)
        with pytest.raises(EngineFailed):
            async for _ in answer:
                pass
        await answer.aclose()

    asyncio.run(body())


def test_one_choice_is_the_engines_own_answer():
    engine = ScriptedEngine()
    answer = asyncio.run(choices.start(engine, GenerateRequest(prompt="x")))
    assert answer is engine.answers[0]


@pytest.fixture(scope="module")
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


@pytest.mark.parametrize("kind", ["chat/completions", "completions"])
def test_a_body_has_every_choice_and_the_sum_of_their_tokens(guest, kind):
    body = {"model": "scripted", "n": 3}
    body |= {"prompt": PROMPT} if kind == "completions" else {
        "messages": [{"role": "user", "content": PROMPT}]
    }  # fmt: skip
    answer = guest.ask(post(body, path=f"/v1/{kind}"))
    told = answer.json
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    texts = [choice["text"] if "text" in choice else choice["message"]["content"]
             for choice in told["choices"]]  # fmt: skip
    assert texts == ["Hello, world."] * 3
    assert [choice["finish_reason"] for choice in told["choices"]] == ["stop"] * 3
    usage = told["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 9, 14)
    assert answer.receipt.receipt.tokens == (5, 0, 9, 0)
    assert answer.receipt.receipt.amount == 5 * 3 + 9 * 7


def test_events_name_their_choice(guest):
    answer = guest.ask(post(stream(n=2, stream_options={"include_usage": True})))
    lines = [line[6:] for line in answer.content.decode().split("\n") if line.startswith("data: ")]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]"
    for index in (0, 1):
        mine = [
            c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index
        ]
        assert "".join(choice["delta"]["content"] for choice in mine) == "Hello, world."
        assert [choice["delta"].get("role") for choice in mine] == ["assistant", None, None, None][
            : len(mine)
        ]
        assert [choice["finish_reason"] for choice in mine][-1] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert answer.receipt.receipt.tokens == (5, 0, 6, 0)


def test_the_reason_of_a_receipt_is_the_least_complete_one():
    from enclave.guest.api import Account

    for reasons, told in (
        (("stop", "stop"), "stop"), (("stop", "length"), "length"), (("length", "stop"), "length"),
        (("stop", "cancelled", "length"), "cancelled"),
    ):  # fmt: skip
        account = Account()
        for reason in reasons:
            account.add(reason, Usage(4, 1, 2, 1))
        assert account.finish_reason == told
        count = len(reasons)
        assert account.usage == Usage(4, 1, 2 * count, count)
