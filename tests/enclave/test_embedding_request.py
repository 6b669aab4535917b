"""Bodies of /v1/embeddings: understood, harmless, or refused by name; never quoted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import typing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.embedding_create_params import EmbeddingCreateParams

from attestation.errors import ParseError, UsageError
from enclave.guest.body import ApiError, read_embedding
from enclave.guest.engines import embedding
from enclave.guest.engines.base import FieldRefused
from enclave.guest.engines.embedding import MOST_CHARS, MOST_INPUTS, MOST_TOKENS, EmbedRequest
from enclave.guest.engines.fields import BODY, of_kind
from enclave.guest.engines.openai_request import embed_from_openai
from enclave.guest.parsing import INLINE_BYTES, Parsers

SECRET = "the lighthouse sleeps"


def parsed(value: Any = SECRET, **more: Any) -> EmbedRequest:
    return embed_from_openai({"model": "toy", "input": value, **more})


# What is understood


@pytest.mark.parametrize(
    ("value", "inputs", "alone"),
    [
        ("a", ("a",), True),
        (["a"], ("a",), False),
        (["a", "b"], ("a", "b"), False),
        ([1, 2], ((1, 2),), True),
        ([[1, 2], [3]], ((1, 2), (3,)), False),
    ],
)
def test_every_form_of_the_input(value: Any, inputs: tuple[Any, ...], alone: bool) -> None:
    assert parsed(value) == EmbedRequest(inputs=inputs, alone=alone)


def test_every_supported_field() -> None:
    request = parsed(dimensions=384, encoding_format="base64", user="somebody")
    assert (request.dimensions, request.encoding) == (384, "base64")
    assert parsed(dimensions=None, encoding_format=None, user=None, unknown=None) == parsed()
    assert parsed(encoding_format="float") == parsed()


def test_the_table_has_every_field_of_the_package_openai() -> None:
    assert typing.get_type_hints(EmbeddingCreateParams).keys() == of_kind(BODY, "embedding").keys()


# What is refused

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": None}, "input"),
    "an empty text": ({"input": ""}, "input"),
    "an empty list": ({"input": []}, "input"),
    "an empty text in a list": ({"input": ["a", ""]}, "input[1]"),
    "an empty list in a list": ({"input": [[1], []]}, "input[1]"),
    "a number": ({"input": 7}, "input"),
    "texts and numbers": ({"input": ["a", 1]}, "input[1]"),
    "numbers and texts": ({"input": [1, "a"]}, "input[1]"),
    "lists and texts": ({"input": [[1], "a"]}, "input[1]"),
    "texts and lists": ({"input": ["a", [1]]}, "input[1]"),
    "a list in a list in a list": ({"input": [[[1]]]}, "input[0][0]"),
    "true as a token": ({"input": [[True]]}, "input[0][0]"),
    "true alone": ({"input": [True]}, "input[0]"),
    "a fraction as a token": ({"input": [1, 2.0]}, "input[1]"),
    "a token below zero": ({"input": [[1, -1]]}, "input[0][1]"),
    "a token beyond all": ({"input": [1, 2**31]}, "input[1]"),
    "null in a list": ({"input": [None]}, "input[0]"),
    "a lone surrogate": ({"input": ["\ud800"]}, "input[0]"),
    "too many texts": ({"input": ["a"] * (MOST_INPUTS + 1)}, "input"),
    "too many lists": ({"input": [[1]] * (MOST_INPUTS + 1)}, "input"),
    "too many tokens": ({"input": [1] * (MOST_TOKENS + 1)}, "input"),
    "too many tokens together": ({"input": [[1] * MOST_TOKENS, [1]]}, "input"),
    "too many characters": ({"input": ["a" * MOST_CHARS, "b"]}, "input"),
    "another encoding": ({"encoding_format": "int8"}, "encoding_format"),
    "an encoding that is a list": ({"encoding_format": []}, "encoding_format"),
    "dimensions as a text": ({"dimensions": "384"}, "dimensions"),
    "dimensions that are true": ({"dimensions": True}, "dimensions"),
    "a user that is a number": ({"user": 1}, "user"),
    "an unknown field": ({"truncate": "END"}, "truncate"),
    "a field of another API": ({"temperature": 1}, "temperature"),
    "stream": ({"stream": True}, "stream"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_named(name: str) -> None:
    changed, param = BAD[name]
    with pytest.raises(FieldRefused) as caught:
        parsed(**({"value": changed.pop("input")} if "input" in changed else {}), **changed)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: expected ")
    assert SECRET not in str(caught.value) and len(str(caught.value)) < 200


def test_as_much_as_may_be() -> None:
    assert len(parsed(["a"] * MOST_INPUTS).inputs) == MOST_INPUTS
    assert len(parsed([1] * MOST_TOKENS).inputs[0]) == MOST_TOKENS
    assert len(parsed("a" * MOST_CHARS).inputs[0]) == MOST_CHARS


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["input", "dimensions", "encoding_format", "user"]), anything)
)
def test_arbitrary_bodies(body: dict[str, Any]) -> None:
    try:
        embed_from_openai(body)
    except FieldRefused as error:
        assert error.param


def test_the_model_is_the_one_that_runs() -> None:
    body = json.dumps({"model": "other", "input": "a"}).encode()
    with pytest.raises(ApiError, match="expected the model toy") as caught:
        read_embedding(body, model="toy")
    assert (caught.value.status, caught.value.param) == (404, "model")


# What comes back from the process that reads large bodies

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple)
requests = st.builds(
    lambda inputs, alone, dimensions, encoding: EmbedRequest(
        inputs=tuple(inputs), alone=alone, dimensions=dimensions, encoding=encoding
    ),
    st.lists(texts | ids, min_size=1, max_size=5),
    st.booleans(),
    st.none() | st.integers(0, 999),
    st.sampled_from(embedding.ENCODINGS),
)


@given(requests)
def test_what_was_asked_comes_back_whole(request_: EmbedRequest) -> None:
    assert EmbedRequest.from_bytes(b"x" + request_.to_bytes(), begin=1) == request_


WHOLE = EmbedRequest(inputs=("é", (7, 8)), dimensions=3).to_bytes()


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda at, by: WHOLE[: at % len(WHOLE)] + by + WHOLE[at % len(WHOLE) :],
        st.integers(0, 999),
        st.binary(min_size=1, max_size=3),
    )
)
@example(WHOLE[:-1])
@example(WHOLE + b"x")
def test_other_bytes_make_no_other_object(data: bytes) -> None:
    try:
        request = EmbedRequest.from_bytes(data)
    except (ParseError, UsageError):
        return
    assert all(isinstance(one, str | tuple) for one in request.inputs)


@pytest.mark.parametrize(
    "more",
    [
        {"alone": 1}, {"inputs": [1]}, {"inputs": [3, [7, 8]]}, {"inputs": [-1, 3]},
        {"inputs": [True, 1]}, {"inputs": [2, ["x"]]}, {"inputs": [2, [-1]]}, {"inputs": [2, []]},
        {"inputs": 2}, {"dimensions": "3"}, {"dimensions": -1}, {"encoding": "int8"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_head_that_the_worker_does_not_write(more: dict[str, Any]) -> None:
    end = 4 + int.from_bytes(WHOLE[:4], "big")
    head = json.dumps({**json.loads(WHOLE[4:end]), **more}).encode()
    with pytest.raises((ParseError, UsageError)):
        EmbedRequest.from_bytes(len(head).to_bytes(4, "big") + head + WHOLE[end:])


def test_a_large_body_is_read_as_a_small_one_is() -> None:
    long = "é" * INLINE_BYTES
    bodies: list[dict[str, Any]] = [
        {"input": [long, "b"], "encoding_format": "base64"},
        {"input": [[7] * INLINE_BYTES], "dimensions": 3},
        {"input": [long, ""]},
        {"input": [long], "frobnicate": 1},
        {"input": [long], "model": "other"},
    ]

    async def read(content: bytes) -> object:
        try:
            return await parsers.read_embedding(content, model="toy")
        except (ApiError, FieldRefused) as error:
            return type(error), str(error), error.param

    def here(content: bytes) -> object:
        try:
            return read_embedding(content, model="toy")
        except (ApiError, FieldRefused) as error:
            return type(error), str(error), error.param

    async def all_of_them() -> list[object]:
        return [await read(content) for content in contents]

    contents = [json.dumps({"model": "toy", **body}).encode() for body in bodies]
    assert min(map(len, contents)) > INLINE_BYTES
    with contextlib.closing(Parsers()) as parsers:
        assert asyncio.run(all_of_them()) == [here(content) for content in contents]
