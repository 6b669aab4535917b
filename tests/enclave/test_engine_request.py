"""Requests: understood, harmless, or refused by name; never quoted."""

from __future__ import annotations

import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import chat as openai_chat
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chat_completions
from openai.types.shared_params import response_format_json_schema

from attestation.errors import UsageError
from enclave.guest.engines.base import (
    MAX_SCHEMA_CHARS,
    Delta,
    FieldRefused,
    GenerateRequest,
    Message,
    engine_config,
)
from enclave.guest.engines.fields import BODY, TABLES, of_kind
from enclave.guest.engines.openai_request import from_openai, stream_options
from scripts import api_fields

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
    "tools": [{"type": "function"}], "response_format": [], "n": 9,
    "logprobs": 1, "top_logprobs": 3, "functions": [{}], "audio": {}, "prediction": {},
    "modalities": ["audio"], "reasoning_effort": "high", "prompt": "x", "whatever": 1,
    "store": True, "web_search_options": {}, "moderation": {}, "verbosity": "low",
    "function_call": {"name": "f"}, "tool_choice": "required", "service_tier": "flex",
    "prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "1h", "user": 1,
    "metadata": "x", "safety_identifier": {}, "prompt_cache_key": 1,
    "best_of": 1, "parallel_tool_calls": 1, "suffix": "", "an odd: name": 1, "": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_is_refused_by_name(name):
    with pytest.raises(FieldRefused) as caught:
        parsed(**{name: UNSUPPORTED[name]})
    assert caught.value.param == name
    assert str(caught.value).startswith(f"{name}: expected ")


NOTHING = {
    "prompt_cache_key": "a", "safety_identifier": "b", "user": "c", "metadata": {"a": "b"},
    "top_logprobs": 0, "function_call": "none", "functions": [],
    "tools": [], "tool_choice": "auto", "n": 1, "store": False, "service_tier": "default",
    "stream_options": {"include_obfuscation": True}, "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit"}, "reasoning_effort": "none",
    "verbosity": "medium", "modalities": ["text"], "parallel_tool_calls": False,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NOTHING))
def test_what_asks_for_nothing_changes_nothing(name):
    assert parsed(**{name: NOTHING[name]}) == parsed()


def test_logprobs():
    assert parsed(logprobs=True).logprobs == 0
    assert parsed(logprobs=True, top_logprobs=20).logprobs == 20
    assert parsed(logprobs=False).logprobs is None
    completion = {"prompt": "x"}
    assert from_openai(completion | {"logprobs": 5}, kind="completion").logprobs == 5
    assert from_openai(completion | {"logprobs": 0}, kind="completion").logprobs == 0
    for value in (-1, 21, True, "1"):
        with pytest.raises(FieldRefused) as caught:
            parsed(logprobs=True, top_logprobs=value)
        assert caught.value.param == "top_logprobs"
        with pytest.raises(FieldRefused) as caught:
            from_openai(completion | {"logprobs": value}, kind="completion")
        assert caught.value.param == "logprobs"


SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": "\u00e4"}}}
FORMED = {"type": "json_schema", "json_schema": {"name": "x-1", "schema": SCHEMA}}


def formed(**more):
    return parsed(response_format={**FORMED, "json_schema": {**FORMED["json_schema"], **more}})


def test_a_response_format_is_a_schema_in_its_order():
    text = '{"type":"object","properties":{"b":{"type":"integer"},"a":{"const":"\\u00e4"}}}'
    assert formed().schema == formed(strict=True).schema == text
    assert formed(strict=None, description=SECRET) == formed(strict=False)
    assert parsed(response_format={"type": "json_object"}).schema == '{"type":"object"}'
    assert parsed(response_format={"type": "text"}) == parsed(response_format=None) == parsed()
    assert SECRET not in repr(formed(schema={"const": SECRET}))


BAD_FORMATS = {
    "type": ({"type": "json"}, "response_format.type"),
    "no type": ({}, "response_format.type"),
    "unknown": ({"type": "text", "strict": True}, "response_format.strict"),
    "schema beside text": ({**FORMED, "type": "text"}, "response_format.json_schema"),
    "schema beside object": ({**FORMED, "type": "json_object"}, "response_format.json_schema"),
    "no schema": ({"type": "json_schema"}, "response_format.json_schema"),
}
BAD_SCHEMAS = {
    "no name": ({"name": None}, "name"),
    "long name": ({"name": "x" * 65}, "name"),
    "other name": ({"name": "\u00e4"}, "name"),
    "name with an end of line": ({"name": "x\n"}, "name"),
    "strict": ({"strict": 1}, "strict"),
    "description": ({"description": 1}, "description"),
    "unknown": ({"schemas": {}}, "schemas"),
    "none": ({"schema": None}, "schema"),
    "true": ({"schema": True}, "schema"),
    "options": ({"schema": {"x-guidance": {"lenient": True}}}, "schema"),
    "infinite": ({"schema": {"maximum": math.inf}}, "schema"),
}


@pytest.mark.parametrize("name", BAD_FORMATS)
def test_a_bad_format_is_refused_by_name(name):
    value, param = BAD_FORMATS[name]
    with pytest.raises(FieldRefused, match=": expected ") as caught:
        parsed(response_format=value)
    assert caught.value.param == param


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_a_bad_schema_is_refused_by_name(name):
    more, param = BAD_SCHEMAS[name]
    with pytest.raises(FieldRefused, match=": expected ") as caught:
        formed(**more)
    assert caught.value.param == f"response_format.json_schema.{param}"


def test_a_schema_has_a_greatest_length():
    most = MAX_SCHEMA_CHARS - len('{"const":""}')
    assert len(formed(schema={"const": "x" * most}).schema) == MAX_SCHEMA_CHARS
    with pytest.raises(FieldRefused, match="expected a schema of at most 65536") as caught:
        formed(schema={"const": "x" * (most + 1)})
    assert caught.value.param == "response_format"


def test_choices():
    assert parsed(n=8).n == 8
    prompt = {"prompt": "x"}
    assert from_openai(prompt | {"n": 3, "best_of": 3}, kind="completion").n == 3
    for bad in ({"best_of": 3}, {"n": 2, "best_of": 3}, {"n": 2, "best_of": "2"}):
        with pytest.raises(FieldRefused, match="best_of: expected the same number as n"):
            from_openai(prompt | bad, kind="completion")
    for value in (0, 9, "2", True, 2.0):
        with pytest.raises(FieldRefused) as caught:
            parsed(n=value)
        assert caught.value.param == "n"


def test_a_penalty_for_repetition_is_understood():
    assert parsed(repetition_penalty=1.0).repetition_penalty == 1.0
    assert parsed(repetition_penalty=1.1).repetition_penalty == 1.1
    for bad in (0, -1, 101, "x"):
        with pytest.raises(FieldRefused, match=r"^repetition_penalty"):
            parsed(repetition_penalty=bad)


def test_top_k_of_all_tokens_has_two_spellings():
    assert parsed(top_k=-1).top_k == parsed(top_k=0).top_k == 0


def turn(role="assistant", **more):
    return from_openai({"messages": [{"role": role, **more}]}, kind="chat").messages[0]


@pytest.mark.parametrize(
    "more", [{"content": None}, {}, {"content": "", "refusal": None, "tool_calls": [],
                                     "reasoning_content": "", "annotations": [], "audio": None}]
)  # fmt: skip
def test_an_assistant_that_said_nothing(more):
    assert turn(**more) == Message("assistant", "")


def test_a_name_stays_with_its_message():
    assert turn("user", content="x", name="Aylin") == Message("user", "x", "Aylin")


NESTED = {
    "messages[0].refusal": {"refusal": "no"},
    "messages[0].tool_calls": {"tool_calls": [{}]},
    "messages[0].function_call": {"function_call": {}},
    "messages[0].audio": {"audio": {}},
    "messages[0].reasoning_content": {"reasoning_content": "x"},
    "messages[0].whatever": {"whatever": []},
    "messages[0].name": {"name": 7},
    "messages[0].content": {"content": {}},
    "messages[0].content[1].type": {"content": [{"type": "text", "text": ""}, {"type": "file"}]},
    "messages[0].content[0].text": {"content": [{"type": "text"}]},
    "messages[0].content[0].image_url": {"content": [{"type": "text", "text": "", "image_url": 1}]},
    "messages[0].content[0].prompt_cache_breakpoint": {
        "content": [{"type": "text", "text": "", "prompt_cache_breakpoint": {"ttl": "12h"}}]
    },
}


@pytest.mark.parametrize("param", NESTED)
def test_what_is_nested_is_refused_by_its_path(param):
    with pytest.raises(FieldRefused) as caught:
        turn(**{"content": "x", **NESTED[param]})
    assert caught.value.param == param


@pytest.mark.parametrize("role", ["user", "system"])
def test_only_the_assistant_may_say_nothing(role):
    with pytest.raises(FieldRefused, match=r"messages\[0\]\.content: expected a string"):
        turn(role, content=None)


def test_too_many_parts():
    with pytest.raises(FieldRefused, match="expected at most 1024 parts"):
        turn("user", content=[{"type": "text", "text": ""}] * 1025)


def test_one_token_id_in_two_spellings():
    with pytest.raises(FieldRefused, match="logit_bias: expected each token id once"):
        parsed(logit_bias={"7": 1, "07": 2})


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": {"include_obfuscation": "x"}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
    ],
)
def test_stream_options_are_refused_by_name(more, param):
    with pytest.raises(FieldRefused) as caught:
        stream_options(more)
    assert caught.value.param == param


def test_stream_options():
    assert stream_options({}) == (False, False)
    options = {"include_usage": True, "include_obfuscation": False}
    assert stream_options({"stream": True, "stream_options": options}) == (True, True)


# The table


def typed_dicts(kind):
    """Every TypedDict in a type of the package openai, through its unions."""
    if hasattr(kind, "__annotations__"):
        return [kind]
    return [found for part in typing.get_args(kind) for found in typed_dicts(part)]


OPENAI = {
    ("", "chat"): chat_completions.CompletionCreateParams,
    ("", "completion"): completions.CompletionCreateParams,
    ("stream_options.", "chat"): openai_chat.ChatCompletionStreamOptionsParam,
    ("response_format.", "chat"): chat_completions.ResponseFormat,
    ("response_format.json_schema.", "chat"): response_format_json_schema.JSONSchema,
    ("messages[].", "chat"): openai_chat.ChatCompletionMessageParam,
    ("messages[].content[].", "chat"): openai_chat.ChatCompletionContentPartParam,
    ("messages[].content[] ", "chat"): openai_chat.ChatCompletionContentPartRefusalParam,
}


@pytest.mark.parametrize(("prefix", "kind"), OPENAI)
def test_the_table_has_every_field_of_the_package_openai(prefix, kind):
    ours = {field.name for field in TABLES[prefix.replace(" ", ".")] if kind in field.kinds}
    theirs = {
        name for found in typed_dicts(OPENAI[prefix, kind]) for name in typing.get_type_hints(found)
    }
    assert theirs
    assert not theirs - ours


def test_a_field_that_is_new_in_the_package_openai_is_found():
    class More(chat_completions.CompletionCreateParamsNonStreaming):
        tomorrow: int

    (found,) = typed_dicts(More | None)
    assert "tomorrow" in typing.get_type_hints(found)


def test_each_field_stands_once_for_each_api():
    for table in TABLES.values():
        named = [(field.name, kind) for field in table for kind in field.kinds]
        assert len(named) == len(set(named))


def test_the_page_has_the_table():
    committed = api_fields.PAGE.read_text()
    assert api_fields.page(committed) == committed
    with pytest.raises(ValueError, match="expected the two comments"):
        api_fields.page("")


def test_the_parser_reads_what_the_table_calls_honoured():
    """A field that is honoured changes the request, so its value of another type is refused."""
    by_the_api = {"model"}
    for kind, body in (("chat", CHAT), ("completion", {"prompt": "x"})):
        for name in {f.name for f in of_kind(BODY, kind).values() if f.honoured} - by_the_api:
            with pytest.raises(FieldRefused) as caught:
                stream_options(body | {name: {"x": 2}})
                from_openai(body | {name: {"x": 2}}, kind=kind)
            assert caught.value.param.startswith(name)


BAD = [
    ("temperature", 2.5), ("temperature", -1), ("temperature", "hot"), ("temperature", True),
    ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("top_k", 1.5),
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
