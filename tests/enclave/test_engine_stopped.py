"""An engine that has stopped, or hangs, ends its guest; what would stop it is refused at load, as
is what has no room in memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import enclave.guest
from attestation.errors import ParseError, UsageError
from enclave.guest.command import _while_it_works
from enclave.guest.engines import loading, torch_engine
from enclave.guest.engines.base import (
    EngineFailed,
    EngineSettings,
    GenerateRequest,
    until_failed,
)
from enclave.guest.engines.kv_cache import Shape, SlotCache
from enclave.guest.engines.loading import check_config
from enclave.guest.engines.registry import engines
from enclave.guest.engines.slots import Scheduler
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import ModelFiles, read_model
from tests.helpers.guest_room import ScriptedEngine

MODEL = read_model(Path(enclave.guest.__file__).parent / "demo_model")
FAILURE = EngineFailed("engine: it was stopped by RuntimeError")


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("server")


def test_a_guest_ends_with_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.guest.command.TOLD_S", 0)
    engine, ended = ScriptedEngine(), list[str]()
    engine.failed = FAILURE
    with pytest.raises(EngineFailed, match="RuntimeError"):
        asyncio.run(_while_it_works(engine, forever(ended)))
    assert ended == ["server"]


def test_a_server_that_ends_is_no_failure_of_the_engine() -> None:
    async def served() -> None:
        pass

    async def broken() -> None:
        raise OSError("no")

    asyncio.run(_while_it_works(ScriptedEngine(), served()))
    with pytest.raises(OSError, match="no"):
        asyncio.run(_while_it_works(ScriptedEngine(), broken()))


async def started() -> TorchEngine:
    engine = TorchEngine(MODEL)
    await engine.start()
    assert engine.failure() is None
    return engine


def test_a_step_that_fails_is_the_engines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Scheduler) -> None:
        raise RuntimeError("the prompt")

    async def body() -> None:
        engine = await started()
        monkeypatch.setattr(Scheduler, "step", broken)
        engine.generate(GenerateRequest(prompt="hello"))
        failure = await until_failed(engine, every=0.01)
        assert str(failure) == "engine: it was stopped by RuntimeError"
        await engine.close()

    asyncio.run(body())


def test_a_step_that_hangs_is_the_engines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    async def body() -> None:
        engine = await started()
        monkeypatch.setattr(Scheduler, "step", lambda _: release.wait())
        monkeypatch.setattr(torch_engine, "STALL_S", 0.05)
        monkeypatch.setattr(torch_engine, "JOIN_S", 0.05)
        engine.generate(GenerateRequest(prompt="hello"))
        failure = await until_failed(engine, every=0.01)
        assert "one step has taken more than" in str(failure)
        await engine.close()  # although its worker still hangs
        release.set()

    asyncio.run(body())


def test_an_idle_engine_has_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        engine = await started()
        async for _ in engine.generate(GenerateRequest(prompt="hello", max_tokens=1)):
            pass
        monkeypatch.setattr(torch_engine, "STALL_S", 0.0)
        while engine._step_began is not None:
            await asyncio.sleep(0.01)
        assert engine.failure() is None
        await engine.close()

    asyncio.run(body())


def one_more_row(value: dict[str, Any]) -> None:
    vocabulary = value["model"]["vocab"]
    vocabulary["zzz"] = max(vocabulary.values()) + 1


def one_more_added(value: dict[str, Any]) -> None:
    last = value["added_tokens"][-1]
    value["added_tokens"].append({**last, "id": 99_999, "content": "<|more|>"})


def fewer_rows(value: dict[str, Any]) -> None:
    value["vocab_size"] -= 1


TOO_GREAT: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a token of the vocabulary": ("tokenizer.json", one_more_row),
    "an added token": ("tokenizer.json", one_more_added),
    "fewer rows than tokens": ("config.json", fewer_rows),
}


@pytest.mark.parametrize(("name", "change"), TOO_GREAT.values(), ids=TOO_GREAT)
def test_a_token_without_a_row_is_refused_at_load(
    name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """One text with it would stop the engine for everybody."""
    value = json.loads(bytes(MODEL.files[name]))
    change(value)
    files = MODEL.files | {name: bytearray(json.dumps(value).encode())}
    with pytest.raises(ParseError, match=r"tokenizer\.json: expected token ids below"):
        TorchEngine(ModelFiles(files, MODEL.manifest, MODEL.digest))


def test_the_host_config_sets_the_engine() -> None:
    chosen = EngineSettings(name="torch", slots=3, max_len=100, dtype="float32", threads=1)
    info = engines()["torch"](MODEL, chosen).info
    assert (info.slots, info.max_len, info.dtype) == (3, 100, "float32")
    assert engines()["torch"](MODEL, EngineSettings(name="torch")).info.slots == 8


def test_a_dtype_or_length_that_the_model_has_not_is_refused() -> None:
    for bad in ({"dtype": "int8"}, {"max_len": 10**6}):
        with pytest.raises(UsageError, match="expected"):
            engines()["torch"](MODEL, EngineSettings(name="torch", **bad))


def test_the_memory_that_is_stated_is_what_the_slots_take() -> None:
    chosen = EngineSettings(name="torch", slots=3, max_len=100, dtype="float32")
    engine = engines()["torch"](MODEL, chosen)
    kept = Shape.of(check_config(json.loads(bytes(MODEL.files["config.json"]))))
    cache = SlotCache(kept, slots=3, max_len=100, dtype=torch.float32, device=torch.device("cpu"))
    assert engine.info.kv_bytes == sum(tensor.nbytes for tensor in cache.layers)


def test_an_engine_that_has_no_room_for_its_slots_does_not_start() -> None:
    engine = TorchEngine(MODEL, settings=TorchSettings(slots=4096))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EngineFailed, match="fewer slots"):
        patch.setattr(loading, "_free", lambda _: engine.info.kv_bytes - 1)
        asyncio.run(engine.start())


def test_free_memory_is_read() -> None:
    assert 1 << 20 < loading._free(torch.device("cpu")) < 1 << 50
