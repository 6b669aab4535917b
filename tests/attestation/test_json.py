"""JSON from a server: no depth of brackets ends in a RecursionError, here or later."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError
from attestation.formats.json import MAX_DEPTH, decode
from scripts import rooms

NESTED: dict[str, Any] = {
    "200,000 lists": b"[" * 200_000,
    "200,000 closed lists": b"[" * 200_000 + b"]" * 200_000,
    "200,000 objects": b'{"a":' * 200_000,
    "what Python just stands": b"[" * 900 + b"]" * 900,
    "one too many": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "below a key": b'{"ok": true, "result": ' + b"[" * 90 + b"]" * 90 + b"}",
    "not UTF-8": b'"\xff"',
    "cut": b'{"ok": tr',
    "a number without end": b"9" * 5_000,
    "nothing": b"",
}


@pytest.mark.parametrize("data", NESTED.values(), ids=NESTED)
def test_what_is_no_json_of_ours_is_named(data: bytes) -> None:
    with pytest.raises(ParseError, match=r"^answer: expected JSON"):
        decode(data, what="answer")


def test_the_deepest_that_is_read() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(decode(data, what="answer")).encode() == data


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_every_value_is_read_as_it_is(value: Any) -> None:
    assert decode(json.dumps(value), what="answer") == value


READERS = ("json.loads", "json.load", "tomllib.loads", "tomllib.load")


def bare(tree: ast.AST, guarded: bool = False) -> list[int]:
    """Lines that parse nested text where no handler names RecursionError (or everything)."""
    lines = []
    for node in ast.iter_child_nodes(tree):
        inside = guarded
        if isinstance(node, ast.Try):
            handled = " ".join(ast.unparse(h.type) for h in node.handlers if h.type)
            inside = guarded or "RecursionError" in handled or "Exception" in handled.split()
        if isinstance(node, ast.Call) and not guarded:
            called = ast.unparse(node.func)
            if called in READERS:
                lines.append(node.lineno)
        lines += bare(node, inside)
    return lines


CALLER_GUARDS = {"attestation.vendors.validity", "enclave.guest.body"}
"""`window` and `Asked.from_bytes` turn every exception of their readers into a ParseError."""


@pytest.mark.parametrize("module", rooms.modules())
def test_no_reader_lets_a_recursion_error_out(module: str) -> None:
    if module not in CALLER_GUARDS:
        assert bare(ast.parse(rooms.modules()[module].read_text())) == []
