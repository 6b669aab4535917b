"""The API inside the channel: what is answered, what is refused and in which words."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from attestation.channel import bhttp
from attestation.channel.padding import pad_request
from attestation.errors import Truncated
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SignedReceipt,
    matches,
)
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.transport import Transport
from enclave.guest.engines.base import (
    ContextOverflow,
    EngineFailed,
    PrepareFailed,
    QueueFull,
    Usage,
)
from tests.helpers.guest_room import CHAT, MODEL, PROMPT, Room, Script, post, room, stream
from tests.helpers.waiting import HANG_S

SECRET = "the engine quotes: " + PROMPT


@pytest.fixture(scope="module")
def shared() -> Iterator[Room]:
    with room() as opened:
        yield opened


@pytest.fixture
def guest(shared: Room) -> Iterator[Room]:
    shared.engine.script = Script()
    shared.engine.asked.clear()
    shared.engine.answers.clear()
    yield shared
    assert shared.open_requests == 0


def events(content: bytes) -> list[Any]:
    """The JSON of each event; the end mark must be the last."""
    *chunks, last = sse.data_of([content])
    assert last == b"[DONE]"
    return [json.loads(chunk) for chunk in chunks]


# What is answered


@pytest.mark.parametrize("pacing", [None, "none", "clock", "strict"])
def test_a_chat_that_streams(guest: Room, pacing: str | None) -> None:
    answer = guest.ask(post(stream(), pacing=pacing))
    assert (answer.status, answer.media_type) == (200, b"text/event-stream")
    chunks = events(answer.content)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta["content"] for delta in deltas] == ["Hello", ", ", "world.", ""]
    assert [delta.get("role") for delta in deltas] == ["assistant", None, None, None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {MODEL}
    assert not any("usage" in chunk for chunk in chunks)


def test_a_whole_chat(guest: Room) -> None:
    answer = guest.ask(post(CHAT))
    assert (answer.status, answer.media_type) == (200, b"application/json")
    assert answer.json["object"] == "chat.completion"
    assert answer.json["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer.json["usage"]["total_tokens"] == 8


def test_a_completion_that_streams(guest: Room) -> None:
    body = {"model": MODEL, "prompt": PROMPT, "stream": True}
    chunks = events(guest.ask(post(body, path="/v1/completions")).content)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hello", ", ", "world.", ""]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert guest.engine.asked[0].prompt == PROMPT


def test_a_whole_completion(guest: Room) -> None:
    body = {"model": MODEL, "prompt": PROMPT}
    answer = guest.ask(post(body, path="/v1/completions"))
    assert answer.json["object"] == "text_completion"
    assert answer.json["choices"][0]["text"] == "Hello, world."


def test_an_answer_without_a_word(guest: Room) -> None:
    guest.engine.script = Script(pieces=[], usage=Usage(5, 0, 1))
    chunks = events(guest.ask(post(stream())).content)
    assert chunks[0]["choices"][0]["delta"] == {"content": "", "role": "assistant"}
    assert chunks[0]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("kind", ["chat/completions", "completions"])
def test_a_last_chunk_counts_where_it_is_asked_for(guest: Room, kind: str) -> None:
    guest.engine.script.usage = Usage(prompt=9, cached=4, completion=6, reasoning=2)
    body = stream(stream_options={"include_usage": True})
    if kind == "completions":
        body["prompt"] = body.pop("messages") and PROMPT
    chunks = events(guest.ask(post(body, path=f"/v1/{kind}")).content)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert not any("usage" in chunk for chunk in chunks[:-1])


def test_the_models(guest: Room) -> None:
    listed = guest.ask(bhttp.Request("GET", "/v1/models")).json
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == [MODEL]
    one = guest.ask(bhttp.Request("GET", f"/v1/models/{MODEL}?x=1"))
    assert one.json == listed["data"][0]
    assert one.receipt and (one.receipt.receipt.tokens, one.receipt.receipt.amount) == ((0,) * 4, 0)


def test_text_beyond_ascii(guest: Room) -> None:
    guest.engine.script.pieces = ["schö", "n \U0001f600", "\x00\u2028\n\r\n"]
    chunks = events(guest.ask(post(stream())).content)
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == "schön \U0001f600\x00\u2028\n\r\n"


# Receipts


@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
@pytest.mark.parametrize("pacing", ["none", "clock", "strict"])
def test_a_receipt_holds(guest: Room, body: dict[str, Any], pacing: str) -> None:
    """`ask` has checked signature, both hashes, names and amount through the client."""
    guest.engine.script.usage = Usage(prompt=11, cached=2, completion=13, reasoning=1)
    guest.engine.script.reason = "length"
    began = time.time()
    checked = guest.ask(post(body, pacing=pacing)).receipt
    assert checked is not None
    receipt = checked.receipt
    assert receipt.tokens == (11, 2, 13, 1)
    assert receipt.amount == 3 * 11 + 7 * 13
    assert receipt.finish_reason == "length"
    assert began - 91 <= receipt.time <= time.time()  # the beacon is 30 s old, and minutes count


def test_receipts_are_numbered_in_one_sequence(guest: Room) -> None:
    found = [guest.ask(post(CHAT)).receipt for _ in range(3)]
    numbers = [checked.receipt.sequence for checked in found if checked]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_the_hash_is_of_the_request_without_its_padding(guest: Room) -> None:
    request = post({**CHAT, "user": "u" * 5000})
    checked = guest.ask(request).receipt
    assert checked is not None
    message = bhttp.encode_request(request)
    assert matches(checked.receipt.request_hash, checked.request_salt, message)


def test_errors_have_no_receipt(guest: Room) -> None:
    answer = guest.open(post({"model": "other"}))
    assert answer.status == 404 and answer.read() and answer.receipt is None


# What is refused


def paced(*values: bytes) -> bhttp.Request:
    headers = tuple((b"umay-pacing", value) for value in values)
    return dataclasses.replace(post(CHAT), headers=headers)


OK = json.dumps(CHAT).encode()
DEEP = b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
SURROGATE = OK.replace(PROMPT.encode(), rb"\ud800")
BAD: dict[str, tuple[bhttp.Request, int, str]] = {
    "unknown path": (post(CHAT, path="/v1/embeddings"), 404, "not_found"),
    "path in another case": (post(CHAT, path="/V1/chat/completions"), 404, "not_found"),
    "path with a slash more": (post(CHAT, path="/v1/chat/completions/"), 404, "not_found"),
    "path of an asterisk": (post(CHAT, path="*"), 404, "not_found"),
    "get of a chat": (post(b"", method="GET"), 405, "method_not_allowed"),
    "post to models": (post(CHAT, path="/v1/models"), 405, "method_not_allowed"),
    "method in lower case": (post(CHAT, method="post"), 405, "method_not_allowed"),
    "no such model to show": (
        post(b"", path="/v1/models/other", method="GET"),
        404,
        "model_not_found",
    ),
    "no body": (post(b""), 400, "invalid_json"),
    "bad json": (post(OK[:-1]), 400, "invalid_json"),
    "not utf-8": (post(b'{"model":"\xff"}'), 400, "invalid_json"),
    "json that is a list": (post([CHAT]), 400, "invalid_json"),
    "json that is null": (post(None), 400, "invalid_json"),
    "deeply nested json": (post(DEEP), 400, "invalid_json"),
    "number longer than python converts": (
        post(b'{"model":' + b"1" * 5000 + b"}"),
        400,
        "invalid_json",
    ),
    "nan": (post(OK[:-1] + b',"temperature":NaN}'), 400, "invalid_json"),
    "infinity": (post(OK[:-1] + b',"temperature":Infinity}'), 400, "invalid_json"),
    "minus infinity": (post(OK[:-1] + b',"top_p":-Infinity}'), 400, "invalid_json"),
    "number that overflows": (post(OK[:-1] + b',"temperature":1e999}'), 400, "invalid_value"),
    "utf-16": (post(OK.decode().encode("utf-16")), 400, "invalid_json"),
    "byte order mark": (post(b"\xef\xbb\xbf" + OK), 400, "invalid_json"),
    "a field twice": (post(OK[:-1] + b',"model":"scripted"}'), 400, "invalid_json"),
    "a field twice within": (
        post(OK.replace(b'"role"', b'"role":"user","role"')),
        400,
        "invalid_json",
    ),
    "no model": (post({"messages": CHAT["messages"]}), 404, "model_not_found"),
    "unknown model": (post({**CHAT, "model": "gpt-4"}), 404, "model_not_found"),
    "model that is a list": (post({**CHAT, "model": [MODEL]}), 404, "model_not_found"),
    "unknown pacing": (post(CHAT, pacing="fast"), 400, "invalid_value"),
    "pacing beyond ascii": (paced(b"\xff"), 400, "invalid_value"),
    "pacing that is empty": (paced(b""), 400, "invalid_value"),
    "pacing in capitals": (paced(b"None"), 400, "invalid_value"),
    "pacing twice": (paced(b"none", b"strict"), 400, "invalid_value"),
    "pacing twice alike": (paced(b"none", b"none"), 400, "invalid_value"),
    "unsupported field": (post({**CHAT, "tools": [{}]}), 400, "invalid_value"),
    "unknown field": (post({**CHAT, "frobnicate": 1}), 400, "invalid_value"),
    "unknown field of a lone surrogate": (
        post(OK[:-1] + rb',"\ud800":1}'),
        400,
        "invalid_value",
    ),
    "lone surrogate in content": (post(SURROGATE), 400, "invalid_value"),
    "no messages": (post({"model": MODEL}), 400, "invalid_value"),
    "stream that is a word": (post({**CHAT, "stream": "yes"}), 400, "invalid_value"),
    "stream that is a number": (post({**CHAT, "stream": 0}), 400, "invalid_value"),
    "stream options that are a list": (
        post(stream(stream_options=[])),
        400,
        "invalid_value",
    ),
    "unknown stream option": (post(stream(stream_options={"x": 1})), 400, "invalid_value"),
    "usage that is a number": (
        post(stream(stream_options={"include_usage": 1})),
        400,
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request(guest: Room, name: str) -> None:
    request, status, code = BAD[name]
    answer = guest.ask(request)
    assert (answer.status, answer.media_type) == (status, b"application/json")
    assert answer.error["code"] == code
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["message"] and answer.error.keys() >= {"message", "type", "param", "code"}
    assert PROMPT not in answer.error["message"]
    assert not guest.engine.answers


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"temperature": "hot"}, "temperature", "temperature: expected a number, got str"),
        ({"messages": [{"role": "x"}]}, "messages[0].role", "expected system"),
        ({"model": "gpt-4"}, "model", f"expected the model {MODEL}, got gpt-4"),
        ({"model": "x" * 500}, "model", "got " + "x" * 80),
        ({"model": "a\x1b[2Jb"}, "model", "got a [2Jb"),
        ({"model": ""}, "model", "got an empty name"),
        ({"model": None}, "model", "got NoneType"),
    ],
)
def test_an_error_names_the_field_as_its_param(
    guest: Room, more: dict[str, Any], param: str, said: str
) -> None:
    error = guest.ask(post({**CHAT, **more})).error
    assert error["param"] == param and said in error["message"] and len(error["message"]) < 200


def test_an_error_of_the_engine_names_the_field_too(guest: Room) -> None:
    guest.engine.script.refuse = ContextOverflow("messages: too long", param="messages")
    error = guest.ask(post(CHAT)).error
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_an_error_of_no_field_has_no_param(guest: Room) -> None:
    assert guest.ask(post(b"")).error["param"] is None


# Failures of the engine, before and after the first token

BEFORE = {
    "context overflow": (ContextOverflow("too long"), 400, "context_length_exceeded"),
    "queue full": (QueueFull("wait"), 429, "queue_full"),
    "engine failed": (EngineFailed(SECRET), 503, "engine_failed"),
    "not prepared": (PrepareFailed("wait"), 503, "prepare_failed"),
    "anything else": (RuntimeError(SECRET), 500, "internal"),
    "a key": (KeyError(SECRET), 500, "internal"),
}


@pytest.mark.parametrize("pacing", ["none", "clock", "strict"])
@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
@pytest.mark.parametrize("when", ["at once", "at the first token"])
@pytest.mark.parametrize("name", BEFORE)
def test_a_failure_before_the_first_token(
    guest: Room, name: str, when: str, body: dict[str, Any], pacing: str
) -> None:
    failure, status, code = BEFORE[name]
    script = guest.engine.script
    script.refuse, script.fail = (failure, None) if when == "at once" else (None, failure)
    answer = guest.ask(post(body, pacing=pacing))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert PROMPT.encode() not in answer.content
    if status == 500:
        assert answer.error["message"] == "the request could not be answered"


@pytest.mark.parametrize("pacing", ["none", "clock", "strict"])
@pytest.mark.parametrize("failure", [EngineFailed(SECRET), RuntimeError(SECRET)])
def test_a_failure_amid_a_stream_is_a_truncated_answer(
    guest: Room, failure: Exception, pacing: str
) -> None:
    guest.engine.script.fail, guest.engine.script.fail_at = failure, 2
    guest.engine.script.pause = 0.08
    answer = guest.open(post(stream(), pacing=pacing))
    assert answer.status == 200
    received = b""
    with pytest.raises(Truncated):
        for piece in answer:
            received += piece
    assert b"Hello" in received and b"DONE" not in received and answer.receipt is None


@pytest.mark.parametrize("pacing", ["none", "clock", "strict"])
def test_a_late_failure_before_the_first_token(guest: Room, pacing: str) -> None:
    """Strict has sent filling by then, under a status."""
    guest.engine.script.fail, guest.engine.script.pause = QueueFull("wait"), 0.2
    if pacing == "strict":
        with pytest.raises(Truncated):
            guest.ask(post(stream(), pacing=pacing))
    else:
        assert guest.ask(post(stream(), pacing=pacing)).status == 429


def test_a_whole_answer_that_fails_midway_is_an_error(guest: Room) -> None:
    guest.engine.script.fail, guest.engine.script.fail_at = EngineFailed("x"), 2
    assert guest.ask(post(CHAT)).status == 503


def test_an_answer_that_ends_without_counts_is_not_whole(guest: Room) -> None:
    guest.engine.script.usage = None  # type: ignore[assignment]
    assert guest.ask(post(CHAT)).status == 503
    with pytest.raises(Truncated):
        guest.ask(post(stream()))


# Messages that are no request, within a channel that is sound


def sealed_to(guest: Room, message: bytes, *, chunked: bool = True) -> bhttp.Response:
    client = guest.client(chunked=chunked)
    headers = {"content-type": client.media_type}
    answer = Transport().stream(f"{guest.base}ohttp", client.seal(message), headers)
    assert (answer.status, answer.media_type) == (200, client.response_media_type)
    return bhttp.decode_response(client.response().open(b"".join(answer)))


GOOD_MESSAGE = bhttp.encode_request(post(CHAT))
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(1024),
    "a response": bhttp.encode_response(bhttp.Response(200)),
    "noise": bytes(range(256)),
    "cut": GOOD_MESSAGE[:-20],
    "one byte": GOOD_MESSAGE[:1],
    "padding that is not zero": pad_request(GOOD_MESSAGE, limit=1 << 20) + b"\1",
}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_inside_the_channel(guest: Room, name: str, chunked: bool) -> None:
    answer = sealed_to(guest, GARBAGE[name], chunked=chunked)
    assert answer.status == 400
    assert json.loads(answer.content)["error"]["code"] == "bad_message"
    assert not guest.engine.asked


# Whole, unchunked Oblivious HTTP (RFC 9458)


@pytest.mark.parametrize("body", [stream(), CHAT], ids=["streamed", "whole"])
def test_a_request_that_is_not_chunked(guest: Room, body: dict[str, Any]) -> None:
    client, request = guest.client(chunked=False), post(body)
    message = bhttp.encode_request(request)
    sealed = client.seal(pad_request(message, limit=1 << 20))
    reply = Transport().stream(f"{guest.base}ohttp", sealed, {"content-type": "message/ohttp-req"})
    assert (reply.status, reply.media_type) == (200, "message/ohttp-res")
    answer = bhttp.decode_response(client.response().open(b"".join(reply)))
    assert answer.status == 200 and b"world." in answer.content
    (name, value), *_ = answer.trailers
    assert name == b"umay-receipt"
    signed = SignedReceipt.from_bytes(base64.b64decode(value))
    receipt = signed.open(guest.verified.bundle.receipt_key)
    salts = [client.export(label, 32) for label in (REQUEST_SALT_LABEL, RESPONSE_SALT_LABEL)]
    assert matches(receipt.request_hash, salts[0], message)
    assert matches(receipt.response_hash, salts[1], answer.content)


def test_a_request_of_indeterminate_length(guest: Room) -> None:
    message = bhttp.encode_request(post(CHAT), indeterminate=True)
    assert sealed_to(guest, message).status == 200


# Cancelling


def test_every_failure_before_the_end_closes_the_engines_answer(guest: Room) -> None:
    guest.engine.script.pause = 0.02
    guest.engine.script.pieces = ["word "] * 1000
    for pacing in ("none", "clock", "strict"):
        answer: Answer = guest.open(post(stream(), pacing=pacing))
        next(iter(answer))
        answer.close()
        assert guest.engine.answers[-1].cancelled.wait(HANG_S), pacing
