"""/v1/embeddings inside the seal, by a guest whose engine makes embeddings."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from attestation import wire
from attestation.channel import bhttp
from enclave.guest import api, metrics
from enclave.guest.engines.base import EngineFailed, QueueFull
from enclave.guest.engines.embedding import MOST_BODY, EmbedRequest
from tests.helpers import embedding_model as toy
from tests.helpers.guest_room import CHAT, MODEL, PROMPT, Room, post, room
from tests.helpers.waiting import HANG_S, wait_for

SECRET = "the lighthouse sleeps"
PROMPT_PRICE = 3


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    engine = toy.engine(tmp_path_factory.mktemp("models") / "toy")
    asyncio.run(engine.start())
    with room(engine=engine) as opened:
        yield opened
    asyncio.run(engine.close())


def ask(value: Any = SECRET, key: bytes | None = None, **more: Any) -> bhttp.Request:
    return post({"model": MODEL, "input": value, **more}, path=wire.EMBEDDINGS, key=key)


def vectors(guest: Room, *texts: str) -> list[tuple[float, ...]]:
    """What the engine itself computes."""
    request = EmbedRequest(inputs=texts)
    found = asyncio.run(guest.engine.embed(request, client=b""))
    return [struct.unpack(f"<{toy.WIDTH}f", vector) for vector in found.vectors]


# What is answered


def test_numbers_are_the_engines_to_the_last_bit(guest: Room) -> None:
    answer = guest.ask(ask(["hello", SECRET]))
    assert (answer.status, answer.media_type) == (200, b"application/json")
    found = CreateEmbeddingResponse.model_validate(answer.json, strict=True)
    expected = vectors(guest, "hello", SECRET)
    assert [item.index for item in found.data] == [0, 1]
    for item, vector in zip(found.data, expected, strict=True):
        packed = struct.pack(f"<{toy.WIDTH}f", *item.embedding)
        assert struct.unpack(f"<{toy.WIDTH}f", packed) == vector
    assert (found.object, found.model) == ("list", MODEL)
    assert found.data[0].object == "embedding"


def test_base64_is_float32_in_little_endian(guest: Room) -> None:
    answer = guest.ask(ask(encoding_format="base64"))
    data = base64.b64decode(answer.json["data"][0]["embedding"], validate=True)
    assert struct.unpack(f"<{toy.WIDTH}f", data) == vectors(guest, SECRET)[0]


def test_more_vectors_than_are_written_at_once(guest: Room) -> None:
    answer = guest.ask(ask(["a"] * 40))
    assert [item["index"] for item in answer.json["data"]] == list(range(40))


def test_what_was_read_is_counted_and_receipted(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 1)
    before = guest.guest.metrics.prompt.tokens
    answer = guest.ask(ask(["hello", "hello world"]))
    assert guest.guest.metrics.prompt.tokens == before + 7
    assert answer.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert answer.receipt is not None
    receipt = answer.receipt.receipt
    assert (receipt.tokens, receipt.finish_reason) == ((7, 0, 0, 0), "stop")
    assert receipt.amount == 7 * PROMPT_PRICE


def test_a_retry_gets_the_same_bytes_and_the_same_receipt(guest: Room) -> None:
    request = ask(key=b"0123456789abcdef")
    before = guest.engine.stats().finished
    first, second = guest.ask(request), guest.ask(request)
    assert (first.content, first.receipt) == (second.content, second.receipt)
    assert guest.engine.stats().finished == before + 1


def test_the_model_is_listed(guest: Room) -> None:
    answer = guest.ask(post(b"", path=wire.MODELS, method="GET"))
    assert [model["id"] for model in answer.json["data"]] == [MODEL]


# What is refused

BAD: dict[str, tuple[bhttp.Request, int, str, str | None]] = {
    "a chat": (post(CHAT), 404, "not_found", None),
    "a completion": (post({"model": MODEL, "prompt": "x"}, path=wire.COMPLETIONS), 404,
                     "not_found", None),
    "get": (post(b"", path=wire.EMBEDDINGS, method="GET"), 405, "method_not_allowed", None),
    "no json": (post(b"{", path=wire.EMBEDDINGS), 400, "invalid_json", None),
    "another model": (post({"model": "x", "input": "a"}, path=wire.EMBEDDINGS), 404,
                      "model_not_found", "model"),
    "another pacing": (post({"model": MODEL, "input": "a"}, path=wire.EMBEDDINGS, pacing="fast"),
                       400, "invalid_value", None),
    "a field": (ask(truncate=True), 400, "invalid_value", "truncate"),
    "dimensions": (ask(dimensions=2), 400, "invalid_value", "dimensions"),
    "an encoding": (ask(encoding_format="int8"), 400, "invalid_value", "encoding_format"),
    "an empty text": (ask(["a", ""]), 400, "invalid_value", "input[1]"),
    "a long text": (ask(SECRET * 9), 400, "context_length_exceeded", "input"),
    "a long body": (post(b" " * (MOST_BODY + 1), path=wire.EMBEDDINGS), 400,
                    "context_length_exceeded", "input"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_has_its_status_and_names_the_field(guest: Room, name: str) -> None:
    request, status, code, param = BAD[name]
    answer = guest.ask(request)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert answer.receipt is None
    assert PROMPT not in answer.error["message"] and SECRET not in answer.error["message"]
    if status == 404 and code == "not_found":
        assert answer.error["message"] == "expected /v1/embeddings or /v1/models"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFull("engine: full"), 429, "queue_full"),
        (EngineFailed("engine: stopped"), 503, "engine_failed"),
        (RuntimeError(SECRET), 500, "internal"),
    ],
)
def test_an_engine_that_refuses(
    guest: Room, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    async def embed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(guest.engine, "embed", embed)
    answer = guest.ask(ask())
    assert (answer.status, answer.error["code"], answer.receipt) == (status, code, None)
    assert SECRET not in json.dumps(answer.error)


def test_who_leaves_stops_the_engine(guest: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = [], []

    async def embed(*_: object, **__: object) -> None:
        begun.append(1)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(1)

    monkeypatch.setattr(guest.engine, "embed", embed)
    sealed = guest.client().seal(bhttp.encode_request(ask()))
    head = f"POST /umay/{guest.boot}/ohttp HTTP/1.1\r\nhost: x\r\ncontent-type: " + (
        f"{wire.CHUNKED_REQUEST}\r\ncontent-length: {len(sealed)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", guest.port), timeout=HANG_S) as connection:
        connection.sendall(head.encode() + sealed)
        wait_for(lambda: begun)
    wait_for(lambda: ended)
    wait_for(lambda: guest.open_requests == 0)


def test_an_engine_that_writes_makes_no_embeddings() -> None:
    with room() as writing:
        answer = writing.ask(ask())
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert wire.EMBEDDINGS not in answer.error["message"] and api.KINDS.keys() <= set(
        answer.error["message"].removeprefix("expected ").replace(" or ", ", ").split(", ")
    )
