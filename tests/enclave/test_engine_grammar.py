"""Answers that fit a JSON schema, and schemas that are refused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
import torch
from openai.lib import _parsing

import enclave.guest
from attestation.errors import UsageError
from enclave.guest.engines import grammar
from enclave.guest.engines.base import (
    Delta,
    FieldRefused,
    GenerateRequest,
    Message,
    PrepareFailed,
    QueueFull,
)
from enclave.guest.engines.choices import start
from enclave.guest.engines.generation import Generation, read_generation
from enclave.guest.engines.grammar import Grammars, only_allowed
from enclave.guest.engines.openai_request import from_openai
from enclave.guest.engines.sampling import Rules
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import LIBRARIES, TorchSettings
from enclave.guest.model import read_model
from enclave.guest.parsing import Worker
from tests.helpers.random_schemas import random_schema
from tests.helpers.waiting import HANG_S

pytest.importorskip("llguidance", reason="`make dev` installs it")

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
FILES = read_model(DEMO)
ASKED = (Message("user", "Tell me a story about a guardian."),)
OBJECT = {"type": "object"}
SMALL = {"type": "integer", "minimum": 100, "maximum": 999}
SLOW = {"type": "integer", "multipleOf": 1234567}
SECRET = "lighthouse"


@pytest.fixture(scope="module", autouse=True)
def no_deadline() -> Iterator[None]:
    """On a busy machine, a second of processor time can take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enclave.guest.parsing.READ_S", HANG_S)
        yield


def run(body: Callable[[TorchEngine], Awaitable[Any]], **settings: Any) -> Any:
    async def started() -> Any:
        settings.setdefault("slots", 8)
        engine = TorchEngine(FILES, settings=TorchSettings(dtype="float32", **settings))
        await engine.start()
        try:
            return await body(engine)
        finally:
            await engine.close()

    return asyncio.run(started())


def asked(schema: object, **more: Any) -> GenerateRequest:
    text = None if schema is None else json.dumps(schema)
    return GenerateRequest(messages=ASKED, schema=text, **more)


async def written(engine: TorchEngine, request: GenerateRequest) -> list[Delta]:
    return [delta async for delta in await start(engine, await engine.prepare(request))]


async def all_written(engine: TorchEngine, *requests: GenerateRequest) -> list[Any]:
    tasks = (written(engine, request) for request in requests)
    return await asyncio.gather(*tasks, return_exceptions=True)


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def answers(*requests: GenerateRequest, **settings: Any) -> list[Any]:
    return run(lambda engine: all_written(engine, *requests), **settings)


# Answers


def check_random(seeds: range) -> None:
    schemas = {seed: random_schema(seed) for seed in seeds}
    found = answers(*(
        asked(schema, seed=seed, temperature=float(seed % 2)) for seed, schema in schemas.items()
    ), max_waiting=len(schemas))  # fmt: skip
    for (seed, schema), deltas in zip(schemas.items(), found, strict=True):
        assert deltas[-1].finish_reason == "stop", (seed, schema)
        jsonschema.validate(json.loads(text(deltas)), schema)


def test_random_schemas_are_fitted_and_end():
    check_random(range(10))


@pytest.mark.long
def test_200_random_schemas_are_fitted_and_end():
    check_random(range(10, 200))


class Step(pydantic.BaseModel):
    kind: Literal["walk", "wait"]
    minutes: int = pydantic.Field(ge=1, le=90)
    note: Annotated[str, pydantic.Field(max_length=12)] | None = pydantic.Field(description="x")


class Plan(pydantic.BaseModel):
    """A model of a program, as `chat.completions.parse` of the package openai sends it."""

    first: Step
    others: list[Step] = pydantic.Field(max_length=2)
    sure: bool


def test_a_model_of_pydantic_is_a_schema_and_reads_the_answer():
    sent = _parsing.type_to_response_format_param(Plan)
    body = {"messages": [{"role": "user", "content": "Plan."}], "response_format": sent}
    request = from_openai(body | {"seed": 2, "temperature": 1.0}, kind="chat")
    (deltas,) = answers(request)
    plan = Plan.model_validate_json(text(deltas), strict=True)
    assert deltas[-1].finish_reason == "stop" and plan.first.kind in ("walk", "wait")


def test_who_shares_the_batch_with_a_schema_writes_the_same():
    """With a seed and greedy; and log probabilities are the model's own also beside a schema."""
    plain = [asked(None, max_tokens=20), asked(None, max_tokens=20, seed=3, temperature=1.0)]
    schema = asked(SMALL, seed=1, temperature=1.0, logprobs=1)

    async def body(engine: TorchEngine) -> Any:
        alone = [await written(engine, request) for request in (*plain, schema)]
        return alone, await all_written(engine, *plain, schema)

    alone, together = run(body)
    assert [text(deltas) for deltas in together] == [text(deltas) for deltas in alone]
    assert 100 <= int(text(together[2])) <= 999
    (best, _), *_ = together[2][0].logprobs[0].top
    assert not best.isdigit() and together[2][0].logprobs[0].logprob < -1


def test_each_choice_fits_with_draws_of_its_own():
    schema = {"type": "object", "properties": {"n": SMALL}, "required": ["n"]}
    schema["additionalProperties"] = False
    deltas, again = answers(*2 * [asked(schema, n=3, seed=5, temperature=2.0)])
    values = [json.loads(text(deltas, index))["n"] for index in range(3)]
    assert all(100 <= value <= 999 for value in values) and len(set(values)) > 1
    assert [json.loads(text(again, index))["n"] for index in range(3)] == values


def test_an_answer_ends_by_its_limits_too():
    long = {"type": "string", "minLength": 500}
    cut, stopped, limit = answers(
        asked(long, max_tokens=9),
        asked({"const": "abcdef"}, stop=("cd",)),
        asked({"const": 12345}, max_tokens=1),
    )
    assert (cut[-1].finish_reason, cut[-1].usage.completion) == ("length", 9)
    assert (stopped[-1].finish_reason, text(stopped)) == ("stop", '"ab')
    assert limit[-1].finish_reason == "length"


def test_a_whole_answer_ends_without_the_end_token():
    (deltas,) = answers(asked({"const": [1, 2]}))
    assert text(deltas) == "[1,2]" and deltas[-1].finish_reason == "stop"
    assert 2 not in [token for delta in deltas for token in delta.token_ids]


def test_bias_penalties_and_defaults_choose_among_what_is_allowed():
    (deltas,) = answers(asked(
        SMALL, temperature=1.5, top_p=0.1, top_k=1, min_p=0.5, repetition_penalty=3.0,
        presence_penalty=2.0, logit_bias={2: 100.0, 500: 100.0},
    ))  # fmt: skip
    assert 100 <= int(text(deltas)) <= 999


def test_a_mask_is_the_matchers_own_for_its_row_only():
    generation = read_generation({"eos_token_id": [2, 5]}, {"vocab_size": 1100})
    data = (DEMO / "tokenizer.json").read_text()
    grammars = Grammars(data, vocabulary=1100, generation=generation)
    matcher = grammars._compiled(json.dumps(SMALL))
    logits = torch.randn(3, 1100)
    masked = only_allowed(logits, [(1, matcher)])
    bits = matcher.compute_bitmask()
    allowed = torch.tensor([bool(bits[at // 8] >> at % 8 & 1) for at in range(1100)])
    assert 0 < int(allowed.sum()) < 50 and not allowed[2]
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    assert torch.equal(masked[1], torch.where(allowed, logits[1], -math.inf))


# Refusals

REFUSED = {
    "too slow, before all the others": (SLOW, "processor time"),
    "unknown keyword": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "not": ({"not": {"type": "string"}}, "not"),
    "unknown type": ({"type": "text"}, "Invalid type"),
    "unknown format": ({"type": "string", "format": "f00"}, "Unknown format"),
    "other place": ({"$ref": "https://example.com/schema"}, "retrieving it failed"),
    "no place": ({"$ref": "#/$defs/none"}, "expected a schema"),
    "nothing fits": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable"),
    "itself": ({"$ref": "#"}, "that this engine can hold to"),
    "no pattern": ({"type": "string", "pattern": "("}, "regex"),
    "looks around": ({"type": "string", "pattern": "(?=a)b"}, "regex"),
    "overlapping": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    "surrogate": ({"const": "\ud800"}, "expected a schema"),
    "deep": (json.loads('{"items":' * 200 + "{}" + "}" * 200), "recursion limit"),
}


@pytest.fixture(scope="module")
def refusals() -> dict[str, FieldRefused]:
    return dict(zip(REFUSED, answers(*(asked(schema) for schema, _ in REFUSED.values())),
                    strict=True))  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name, refusals):
    error = refusals[name]
    assert isinstance(error, FieldRefused) and error.param == "response_format"
    assert str(error).startswith("response_format: expected ") and REFUSED[name][1] in str(error)
    assert len(str(error)) < 400 and "\n" not in str(error)


def test_a_schema_that_needs_too_much_in_the_middle_ends_one_answer_only():
    many = {f"p{at}": {"type": "integer"} for at in range(1200)}
    wide = {"type": "object", "properties": many}

    async def body(engine: TorchEngine) -> None:
        failed, other = await all_written(engine, asked(wide), asked(None, max_tokens=12))
        assert isinstance(failed, FieldRefused) and failed.param == "response_format"
        assert "beyond this engine's limits" in str(failed) and len(text(other)) > 10
        again = await written(engine, asked({"const": True}))
        assert text(again) == "true" and engine.stats().running == 0

    run(body, slots=2)


def test_a_schema_as_text_is_not_run():
    async def body(engine: TorchEngine) -> None:
        with pytest.raises(UsageError, match="expected a schema that `prepare` compiled"):
            engine.generate(asked(OBJECT))

    run(body)


GENERATIONS = {
    "forbids tokens": ({"suppress_tokens": [5]}, {}),
    "first tokens": ({"begin_suppress_tokens": [5]}, {}),
    "at least": ({"min_new_tokens": 5}, {}),
    "no end": ({"eos_token_id": None}, {"eos_token_id": None}),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_model_whose_rules_could_break_a_schema_writes_only_text(name):
    found, config = GENERATIONS[name]
    generation = read_generation({"eos_token_id": 2} | found, {"vocab_size": 1024} | config)
    with pytest.raises(FieldRefused, match="response_format: expected only text, because this mod"):
        asyncio.run(Grammars("", vocabulary=9, generation=generation).compile("{}", b"a"))


def test_a_guest_without_the_library_writes_only_text(monkeypatch):
    monkeypatch.setattr(grammar, "LIBRARY", "not_there")
    with pytest.raises(FieldRefused, match="built without a library for schemas"):
        asyncio.run(Grammars("", vocabulary=9, generation=GENERATION).compile("{}", b"a"))


def test_the_engine_config_names_the_library():
    assert grammar.LIBRARY in LIBRARIES
    assert grammar.LIBRARY in dict(TorchEngine(FILES).info.libraries)


# The process that tries schemas

GENERATION = Generation(
    defaults=read_generation({}, {"vocab_size": 9}).defaults, rules=Rules(stop_ids=(2,)),
    stop_ids=frozenset({2}), max_new_tokens=None, max_length=None,
)  # fmt: skip
TOKENIZER = (DEMO / "tokenizer.json").read_text()


def compiling(body: Callable[[Grammars], Awaitable[Any]], data: str = TOKENIZER) -> Any:
    async def started() -> Any:
        grammars = Grammars(data, vocabulary=1024, generation=GENERATION)
        try:
            return await body(grammars)
        finally:
            grammars.close()

    return asyncio.run(started())


def test_one_process_tries_every_schema_and_nothing_is_kept(monkeypatch):
    tried: list[tuple[int, bytes]] = []
    ask = Worker.ask

    async def noted(worker: Worker, head: bytes, content: bytes) -> bytearray:
        tried.append((worker.pid, content))
        return await ask(worker, head, content)

    monkeypatch.setattr(Worker, "ask", noted)

    async def body(grammars: Grammars) -> None:
        await asyncio.gather(*(grammars.compile('{"const":1}', b"a") for _ in range(2)))

    compiling(body)
    assert [content for _, content in tried] == [TOKENIZER.encode(), *[b'{"const":1}'] * 2]
    assert len({pid for pid, _ in tried}) == 1


def test_a_process_that_died_while_idle_costs_no_request():
    async def body(grammars: Grammars) -> None:
        await grammars.compile("{}", b"a")
        grammars._worker._process.kill()
        grammars._worker._process.wait()
        await grammars.compile("{}", b"a")

    compiling(body)


@pytest.mark.parametrize("command", [("false",), ("sleep", "1000")])
def test_a_process_that_cannot_be_used_is_no_fault_of_the_schema(monkeypatch, command):
    monkeypatch.setattr(grammar, "COMMAND", command)
    monkeypatch.setattr("enclave.guest.parsing.READ_S", 0.05)
    with pytest.raises(PrepareFailed, match="has ended; try again") as caught:
        compiling(lambda grammars: grammars.compile("{}", b"a"))
    assert caught.value.code == "prepare-failed"


def test_a_process_that_takes_too_long_is_killed(monkeypatch):
    async def body(grammars: Grammars) -> None:
        await grammars.compile("{}", b"a")
        process = grammars._worker._process
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr("enclave.guest.parsing.READ_S", 0.05)
        with pytest.raises(PrepareFailed):
            await grammars.compile("{}", b"a")
        assert process.poll() is not None and grammars._worker is None

    compiling(body)


def test_whoever_leaves_takes_the_process_along(monkeypatch):
    async def body(grammars: Grammars) -> None:
        task = asyncio.create_task(grammars.compile(json.dumps(SLOW), b"a"))
        while grammars._worker is None:
            await asyncio.sleep(0.01)
        process = grammars._worker._process
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert process.poll() is not None
        await grammars.compile("{}", b"a")

    compiling(body)


def test_a_tokenizer_that_the_library_cannot_read_ends_the_process():
    with pytest.raises(PrepareFailed):
        compiling(lambda grammars: grammars.compile("{}", b"a"), data="{}")


def test_others_are_served_while_a_schema_is_tried(monkeypatch):
    ask = Worker.ask

    async def body(engine: TorchEngine) -> None:
        gate = asyncio.Event()

        async def held(worker: Worker, head: bytes, content: bytes) -> bytearray:
            await gate.wait()
            return await ask(worker, head, content)

        monkeypatch.setattr(Worker, "ask", held)
        waiting = asyncio.create_task(written(engine, asked({"const": 1})))
        other = await written(engine, asked(None, max_tokens=5))
        assert len(other) and not waiting.done()
        gate.set()
        assert text(await waiting) == "1"

    run(body)


def test_the_limit_is_on_processor_time(monkeypatch):
    from enclave.guest.engines import schema_worker

    set_to: list[float] = []
    monkeypatch.setattr(schema_worker.signal, "setitimer", lambda _, after: set_to.append(after))
    checker = schema_worker.Checker()
    head = json.dumps({"vocabulary": 1024, "stop_ids": [2]}).encode()
    assert checker.answered(head, TOKENIZER.encode())
    for schema in (b"{}", b'{"type":"x"}'):
        assert checker.answered(schema_worker.SCHEMA, schema)
    assert set_to == [schema_worker.COMPILE_S, 0] * 2


def test_nothing_of_a_schema_is_written_anywhere(capfd, caplog):
    caplog.set_level("DEBUG")
    schemas = [{"enum": [SECRET]}, {"type": SECRET}, {"pattern": f"({SECRET}", "type": "string"}]
    fitted, *failed = answers(*map(asked, schemas))
    assert text(fitted) == f'"{SECRET}"' and all(SECRET in str(error) for error in failed)
    request = dataclasses.replace(asked(schemas[0]), token_ids=(1,))
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text + repr(request)


def test_schemas_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each could take a second; all of a guest's requests would wait behind them."""

    async def whole() -> None:
        grammars = Grammars("", vocabulary=9, generation=GENERATION)
        free, compiled = asyncio.Event(), []

        async def slow(schema: str) -> None:
            await free.wait()
            compiled.append(schema)

        monkeypatch.setattr(grammars, "_try", slow)
        monkeypatch.setattr(grammars, "_compiled", lambda schema: schema)
        many = [asyncio.create_task(grammars.compile("many", b"a")) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await grammars.compile("one more", b"a")
        free.set()
        assert await asyncio.gather(*many) == compiled == ["many"] * 16

    asyncio.run(whole())
