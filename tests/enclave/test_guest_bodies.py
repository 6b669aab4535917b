"""Bodies: their limit, and the processes that read the large ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attestation import wire
from attestation.errors import ParseError, UmayError, UsageError
from enclave.guest import parsing
from enclave.guest.body import ApiError, Asked, most_bytes, read_body
from enclave.guest.engines.base import FieldRefused, GenerateRequest, Message
from enclave.guest.parse_worker import LENGTH_BYTES, answered, frame, serve
from enclave.guest.parsing import INLINE_BYTES, ParserFailed, Parsers, Worker
from tests.helpers.guest_room import CHAT, INFO, MODEL, PROMPT, Room, post, room, stream
from tests.helpers.waiting import wait_for

LARGE = "é" * INLINE_BYTES


def body(content: str = LARGE, **more: object) -> bytes:
    told = {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}
    return json.dumps(told).encode()


def read(*bodies: bytes, kind: str = "chat", before=lambda parsers: None) -> list[object]:
    """What each body comes to, by one pool, one after the other; or the error."""

    async def all_of_them() -> list[object]:
        parsers, found = Parsers(), []
        with contextlib.closing(parsers):
            for content in bodies:
                before(parsers)
                try:
                    found.append(
                        await parsers.read(content, kind=kind, model=MODEL, request_id="r7")
                    )
                except UmayError as error:
                    found.append(error)
        return found

    return asyncio.run(all_of_them())


# What comes back from the other process

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=9)
numbers = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.1, 1),
    "top_k": st.integers(0, 99),
    "min_p": st.floats(0, 1),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 8),
    "logprobs": st.integers(0, 20),
    "max_tokens": st.integers(1, 99),
    "repetition_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
}
turns = st.builds(
    Message, st.sampled_from(["system", "user", "assistant"]), texts, st.none() | texts
)
sources = st.fixed_dictionaries({"prompt": texts}) | st.fixed_dictionaries(
    {"messages": st.lists(turns, min_size=1, max_size=4).map(tuple)}
)
requests = st.builds(
    lambda source, settings, stop, bias: GenerateRequest(
        request_id="r7", stop=tuple(stop), logit_bias=bias, **source, **settings
    ),
    sources,
    st.fixed_dictionaries({}, optional={**numbers, "schema": texts}),
    st.lists(texts.filter(len), max_size=3),
    st.dictionaries(st.integers(0, 9999), st.floats(-100, 100), max_size=3),
)


@given(requests, st.booleans(), st.booleans())
def test_what_was_asked_comes_back_whole(request_, streamed, counted):
    asked = Asked(streamed, counted, request_)
    assert Asked.from_bytes(asked.to_bytes(), request_id="r7") == asked


WHOLE = Asked(True, False, GenerateRequest(prompt="é", stop=("a",), temperature=1.0)).to_bytes()


@given(st.binary(max_size=300) | st.builds(
    lambda at, by: WHOLE[: at % len(WHOLE)] + by + WHOLE[at % len(WHOLE) :],
    st.integers(0, 999), st.binary(min_size=1, max_size=3)))  # fmt: skip
@example(WHOLE[:-1])
@example(WHOLE + b"x")
def test_other_bytes_make_no_other_object(data):
    try:
        asked = Asked.from_bytes(data, request_id="")
    except (ParseError, UsageError):
        return
    assert isinstance(asked.request, GenerateRequest)
    assert type(asked.streamed) is type(asked.counted) is bool


def changed(**more: object) -> bytes:
    end = 4 + int.from_bytes(WHOLE[:4], "big")
    head = json.dumps({**json.loads(WHOLE[4:end]), **more}).encode()
    return len(head).to_bytes(4, "big") + head + WHOLE[end:]


@pytest.mark.parametrize(
    "more",
    [
        {"streamed": 1}, {"formed": 0},
        {"lengths": [2]}, {"lengths": [4, -1]}, {"lengths": [5, -2]},
        {"turns": [["root", False]]}, {"turns": [["user", True], ["user", True]]}, {"more": 1},
        {"bias": [1]}, {"temperature": "x"}, {"turns": []},
    ],
)  # fmt: skip
def test_a_head_that_the_worker_does_not_write(more):
    with pytest.raises((ParseError, UsageError)):
        Asked.from_bytes(changed(**more), request_id="")


# The pool


def test_a_large_body_is_read_as_a_small_one_is():
    for more in ({"seed": 7, "stop": ["x"], "stream": True}, {"temperature": 0.25}):
        content = body(**more)
        (asked,) = read(content)
        assert asked == read_body(content, kind="chat", model=MODEL, request_id="r7")


ERRORS = {
    "invalid json": (body()[:-1], 400, "invalid_json", None),
    "twice": (body()[:-1] + b',"model":"scripted"}', 400, "invalid_json", None),
    "brackets": (b"[" * (INLINE_BYTES + 1), 400, "invalid_json", None),
    "other model": (body(model="gpt-4"), 404, "model_not_found", "model"),
    "unknown": (body(frobnicate=1), None, "field-refused", "frobnicate"),
    "nested": (body(messages=[{"role": "x" * INLINE_BYTES}]), None, "field-refused",
               "messages[0].role"),
    "surrogate": (body(model=MODEL, messages=[{"role": "user", "content": LARGE + "\ud800"}]), None,
                  "field-refused", "messages[0].content"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_a_refusal_of_a_large_body_is_the_same_as_of_a_small_one(name):
    content, status, code, param = ERRORS[name]
    (error,) = read(content)
    with pytest.raises((ApiError, FieldRefused)) as caught:
        read_body(content, kind="chat", model=MODEL, request_id="r7")
    assert (type(error), str(error)) == (type(caught.value), str(caught.value))
    assert (getattr(error, "status", None), error.code, error.param) == (status, code, param)


def test_large_bodies_are_read_in_another_process_and_small_ones_here(monkeypatch):
    pids: list[int] = []
    ask = Worker.ask

    async def noted(worker, head, content):
        pids.append(worker.pid)
        return await ask(worker, head, content)

    monkeypatch.setattr(Worker, "ask", noted)
    small, large = body("x"), body()
    assert len(small) <= INLINE_BYTES < len(large)
    read(small, large, small, large)
    assert len(pids) == 2 and len(set(pids)) == 1
    assert pids[0] != os.getpid()


def test_a_worker_that_was_killed_while_idle_costs_no_request():
    def kill(parsers):
        for worker in parsers._idle:
            worker._process.kill()
            worker._process.wait()

    assert [type(found) for found in read(body(), body(), before=kill)] == [Asked, Asked]


def test_a_worker_that_ends_fails_one_request_and_is_replaced(monkeypatch):
    ask = Worker.ask
    killed: list[int] = []

    async def dying(worker, head, content):
        if not killed:
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return await ask(worker, head, content)

    monkeypatch.setattr(Worker, "ask", dying)
    first, second = read(body(), body())
    assert isinstance(first, ParserFailed) and PROMPT not in str(first)
    assert isinstance(second, Asked)


def test_a_worker_that_takes_too_long_is_killed(monkeypatch):
    monkeypatch.setattr(parsing, "COMMAND", ("sleep", "1000"))
    monkeypatch.setattr(parsing, "READ_S", 0.05)
    (error,) = read(body())
    assert isinstance(error, ParserFailed)


@pytest.mark.parametrize("length", [0, parsing.MAX_ANSWER + 1])
def test_an_answer_of_no_length_or_too_much_is_none(monkeypatch, length):
    answer = "\\\\x%02x" * 4 % tuple(length.to_bytes(4, "big"))
    script = f"printf '{answer}' >&0; sleep 1000".replace("\\\\", "\\")
    monkeypatch.setattr(parsing, "COMMAND", ("bash", "-c", script))
    (error,) = read(body())
    assert isinstance(error, ParserFailed)


def test_whoever_leaves_takes_the_worker_along(monkeypatch):
    monkeypatch.setattr(parsing, "COMMAND", ("sleep", "1000"))
    started: list[Worker] = []
    start = Worker.start

    async def noted():
        started.append(await start())
        return started[-1]

    monkeypatch.setattr(Worker, "start", noted)

    async def leave():
        parsers = Parsers()
        task = asyncio.create_task(parsers.read(body(), kind="chat", model=MODEL, request_id=""))
        while not started:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not started[0].alive and not parsers._idle

    asyncio.run(leave())


def test_a_worker_ends_when_the_guest_does():
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    question = {"kind": "chat", "model": MODEL}
    ours.sendall(frame(json.dumps(question).encode()) + frame(body("x")))
    head = ours.recv(LENGTH_BYTES, socket.MSG_WAITALL)
    answer = ours.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
    assert answer == answered(json.dumps(question).encode(), body("x"))
    ours.sendall(frame(b"{}"))
    ours.close()
    thread.join()
    theirs.close()


# Through the seal


@pytest.fixture(scope="module")
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


MOST = most_bytes(INFO.max_len)


def of_length(length: int) -> bytes:
    empty = json.dumps({**CHAT, "messages": [{"role": "user", "content": ""}]}).encode()
    return empty.replace(b'"content": ""', b'"content": "' + b"x" * (length - len(empty)) + b'"')


def test_a_body_that_the_context_cannot_use_is_refused_before_it_is_read(guest, monkeypatch):
    assert len(of_length(MOST)) == MOST
    assert guest.ask(post(of_length(MOST))).status == 200
    asked = len(guest.engine.asked)
    monkeypatch.setattr(guest.guest.parsers, "read", None)
    answer = guest.ask(post(b"[" * (MOST + 1)))
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert answer.error["param"] == "messages" and str(MOST) in answer.error["message"]
    answer = guest.ask(post(b"[" * (MOST + 1), path=wire.COMPLETIONS))
    assert answer.error["param"] == "prompt"
    assert len(guest.engine.asked) == asked


def test_a_worker_that_ends_is_a_503_inside_the_seal(guest, monkeypatch):
    monkeypatch.setattr(parsing, "COMMAND", ("false",))
    guest.guest.parsers.close()
    answer = guest.ask(post(body()))
    assert (answer.status, answer.error["code"]) == (503, "parser_failed")
    monkeypatch.undo()
    assert guest.ask(post(body())).status == 200


def test_others_are_served_while_a_body_is_read(guest, monkeypatch):
    """The worker does not answer before the other stream has ended."""
    gate = threading.Event()
    ask = Worker.ask

    async def held(worker, head, content):
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return await ask(worker, head, content)

    monkeypatch.setattr(Worker, "ask", held)
    large: list[int] = []
    thread = threading.Thread(target=lambda: large.append(guest.ask(post(body())).status))
    thread.start()
    wait_for(lambda: guest.open_requests == 1)
    assert guest.ask(post(stream())).status == 200
    assert not large
    gate.set()
    thread.join()
    assert large == [200]
