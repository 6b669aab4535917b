"""Requests: understood, harmless, or refused by name; never quoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import UsageError
from enclave.guest.engines.base import Delta, GenerateRequest, Message, engine_config
from enclave.guest.engines.openai_request import from_openai

SECRET = "the lighthouse sleeps"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": SECRET}]}


def parsed(**more):
    return from_openai(CHAT | more, kind="chat")


def test_every_supported_field():
    request = parsed(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, stop=["a", "b"], max_tokens=9,
        presence_penalty=1, frequency_penalty=-1, logit_bias={"5": -100}, stream=True,
        stream_options={"include_usage": True}, user="x", n=1, tools=[], logprobs=False,
        response_format={"type": "text"},
    )  # fmt: skip
    assert request.messages == (Message("user", SECRET),)
    assert (request.temperature, request.top_p, request.top_k, request.min_p) == (0.5, 0.9, 40, 0.1)
    assert (request.seed, request.stop, request.max_tokens) == (7, ("a", "b"), 9)
    assert (request.presence_penalty, request.frequency_penalty) == (1.0, -1.0)
    assert request.logit_bias == {5: -100.0}


def test_null_means_absent():
    assert parsed(temperature=None, stop=None, tools=None, unknown=None) == parsed()


def test_developer_is_system_and_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"messages": [{"role": "developer", "content": parts}]}
    assert from_openai(body, kind="chat").messages == (Message("system", "ab"),)


def test_completion():
    assert from_openai({"prompt": "abc"}, kind="completion").prompt == "abc"
    assert from_openai({"prompt": ["abc"]}, kind="completion").prompt == "abc"
    for prompts in ([], ["a", "b"], [1], [["a"]], [1, 2]):
        with pytest.raises(UsageError, match="prompt"):
            from_openai({"prompt": prompts}, kind="completion")


UNSUPPORTED = {
    "tools": [{"type": "function"}], "response_format": {"type": "json_object"}, "n": 2,
    "logprobs": True, "top_logprobs": 3, "functions": [], "audio": {}, "prediction": {},
    "modalities": ["audio"], "reasoning_effort": "high", "prompt": "x", "whatever": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_is_refused_by_name(name):
    with pytest.raises(UsageError, match=rf"^{name}: expected a field that this engine supports"):
        parsed(**{name: UNSUPPORTED[name]})


BAD = [
    ("temperature", 2.5), ("temperature", -1), ("temperature", "hot"), ("temperature", True),
    ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1), ("top_k", -1), ("top_k", 1.5),
    ("min_p", 2), ("seed", 2**64), ("seed", "x"), ("max_tokens", 0), ("max_tokens", 1.0),
    ("stop", [""]), ("stop", ["x"] * 17), ("stop", [1]), ("stop", "y" * 300),
    ("presence_penalty", 3), ("frequency_penalty", "x"), ("logit_bias", [1]),
    ("logit_bias", {"a": 1}), ("logit_bias", {"1": 200}), ("logit_bias", {"1": "x"}),
    ("messages", []), ("messages", "x"), ("messages", [1]),
    ("messages", [{"role": "tool", "content": "x"}]),
    ("messages", [{"role": ["user"], "content": "x"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
    ("messages", [{"role": "user", "content": "\ud800"}]),
    ("messages", [{"role": "assistant", "content": "x", "tool_calls": [{}]}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_name_the_field(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        parsed(**{name: value})
    assert SECRET not in str(caught.value)


def test_two_limits_must_agree():
    with pytest.raises(UsageError, match="max_tokens"):
        parsed(max_tokens=1, max_completion_tokens=2)
    assert parsed(max_tokens=2, max_completion_tokens=2).max_tokens == 2


def test_either_messages_or_prompt():
    for bad in ({}, {"prompt": "x", "messages": (Message("user", "x"),)}, {"messages": ()}):
        with pytest.raises(UsageError):
            GenerateRequest(**bad)


def test_no_prompt_in_reprs():
    shown = repr(parsed(stop=[SECRET])) + repr(Message("user", SECRET)) + repr(Delta(SECRET, (77,)))
    assert SECRET not in shown
    assert "77" not in shown


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(["messages", "stop", "seed", "logit_bias", "tools", "n", "role", "top_p"])


@given(
    st.dictionaries(names | st.text(max_size=5), values), st.sampled_from(["chat", "completion"])
)
def test_arbitrary_bodies(body, kind):
    try:
        from_openai(body, kind=kind)
    except UsageError:
        pass


def test_engine_config_is_canonical():
    from enclave.guest.engines.base import EngineInfo

    info = EngineInfo(
        engine="e", version="1", libraries=(("b", "2"), ("a", "1")), device="cpu", dtype="float32",
        quantisation="none", flags=(("x", True),), slots=2, max_len=8, model_digest=bytes(32),
        features=frozenset(),
    )  # fmt: skip
    assert engine_config(info) == (
        b'{"device":"cpu","dtype":"float32","engine":"e","flags":{"x":true},'
        b'"libraries":{"a":"1","b":"2"},"max_len":8,"quantisation":"none","slots":2,"version":"1"}'
    )


@pytest.mark.parametrize("field", ["temperature", "top_p", "logit_bias"])
def test_a_number_of_four_hundred_digits_is_refused(field: str) -> None:
    huge = 10**400
    value = {"1": huge} if field == "logit_bias" else huge
    with pytest.raises(UsageError):
        from_openai({"messages": [{"role": "user", "content": "x"}], field: value}, kind="chat")
