"""safetensors: every byte accounted for; views, not copies."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from attestation.errors import ParseError
from enclave.guest.engines.weights import parse_header, tensors

A = torch.arange(6, dtype=torch.float32).view(2, 3)
B = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)


def made(header: object, data: bytes = b"") -> bytearray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape,
            "data_offsets": [begin, end]}  # fmt: skip


def test_equal_to_the_library():
    data = bytearray(save({"a": A, "b": B}))
    views = tensors({"x.safetensors": data})
    assert torch.equal(views["a"], A)
    assert torch.equal(views["b"], B)


def test_views_share_the_bytes():
    data = bytearray(save({"a": A}))
    view = tensors({"x.safetensors": data})["a"]
    data[-4:] = b"\0\0\0\0"
    assert view[1, 2] == 0


BAD = {
    "short": bytearray(b"1234"),
    "header-too-long": bytearray((99).to_bytes(8, "little") + b"{}"),
    "not-json": made(b"{{"),
    "not-an-object": made([1]),
    "duplicate-name": made(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "gap": made({"a": entry(1, 2)}, b"xx"),
    "overlap": made({"a": entry(0, 2), "b": entry(1, 3)}, b"xxx"),
    "trailing": made({"a": entry(0, 1)}, b"xx"),
    "missing-data": made({"a": entry(0, 9)}, b"x"),
    "wrong-size": made({"a": entry(0, 2, shape=[3])}, b"xx"),
    "negative": made({"a": entry(0, 1, shape=[-1])}, b"x"),
    "boolean-shape": made({"a": entry(0, 1, shape=[True])}, b"x"),
    "unknown-dtype": made({"a": entry(0, 1, dtype="F4")}, b"x"),
    "extra-key": made({"a": entry(0, 1) | {"x": 1}}, b"x"),
    "unaligned": made({"a": entry(0, 1), "b": entry(1, 5, shape=[1], dtype="F32")}, b"xxxxx"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad(name):
    with pytest.raises(ParseError, match="safetensors"):
        parse_header(BAD[name])


def test_same_name_in_two_files():
    data = bytearray(save({"a": A}))
    with pytest.raises(ParseError, match="two files"):
        tensors({"x.safetensors": data, "y.safetensors": bytearray(data)})


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    try:
        spans = parse_header(data)
    except ParseError:
        return
    assert sum(span.end - span.start for span in spans) + 8 <= len(data)


json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_arbitrary_headers(value):
    try:
        parse_header(made({"a": value}, b"xxxx"))
    except ParseError:
        pass
