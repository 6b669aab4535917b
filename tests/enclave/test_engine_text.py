"""Pieces of text: whole characters, never a part of a stop string, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.guest.engines.text import Detokenizer, StopFilter


def decode_bytes(ids):
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(data: bytes) -> list[str]:
    text = Detokenizer(decode_bytes)
    return [text.push(byte) for byte in data] + [text.finish()]


@given(st.text())
def test_detokenizer_gives_the_whole_text(value):
    assert "".join(pieces(value.encode())) == value


@given(st.text(alphabet="aé漢🜂"))
def test_no_piece_ends_inside_a_character(value):
    assert not any("\ufffd" in piece for piece in pieces(value.encode()))


@given(st.binary(max_size=64))
def test_any_bytes_come_out(data):
    assert "".join(pieces(data)).count("\n") == data.count(b"\n")


def test_broken_end_is_shown_as_replacement():
    assert "".join(pieces("abc漢".encode()[:-1])) == "abc\ufffd"


def test_leading_space_of_word_tokens_is_kept():
    words = ["Hello", "big", "world"]
    text = Detokenizer(lambda ids: " ".join(words[i] for i in ids))
    assert [text.push(0), text.push(1), text.push(2)] == ["Hello", " big", " world"]


def filtered(stops, parts):
    stop = StopFilter(stops)
    return [stop.push(part) for part in parts] + [stop.finish()], stop.stopped


@pytest.mark.parametrize(
    ("stops", "parts", "expected", "stopped"),
    [
        (["END"], ["abE", "ND", "x"], "ab", True),
        (["END"], ["abE", "N", "x"], "abENx", False),
        (["aab"], ["aa", "ab"], "a", True),
        (["b", "abc"], ["ab"], "a", True),
        ([], ["abc"], "abc", False),
        (["x"], ["", "x"], "", True),
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb", True),
    ],
)
def test_stop_cases(stops, parts, expected, stopped):
    told, done = filtered(stops, parts)
    assert ("".join(told), done) == (expected, stopped)


def first_stop(value, stops):
    """Text before the stop that is complete first; among those, the one that begins first."""
    for end in range(len(value) + 1):
        begins = [end - len(stop) for stop in stops if value[:end].endswith(stop)]
        if begins:
            return value[: min(begins)]
    return value


@given(
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    st.text(alphabet="abc", max_size=30),
)
def test_stop_filter_by_single_characters(stops, value):
    told, done = filtered(stops, list(value))
    expected = first_stop(value, stops)
    assert "".join(told) == expected
    assert done == (expected != value or any(stop in value for stop in stops))
