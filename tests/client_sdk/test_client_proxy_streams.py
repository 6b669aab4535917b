"""Streams on loopback: no padding, a charset, and no line break that is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.channel.padding import sse_comment
from attestation.errors import ParseError
from client_sdk import sse
from tests.helpers.fake_enclave import DONE, FakeClient, FakeEnclave
from tests.helpers.proxies import BEARER, proxy_of

BREAKS = "\x85\u2028\u2029"
TEXTS = ["plain", f"a{BREAKS}b", "é\\u2028", "\\" + BREAKS, ""]


def event(text: str) -> bytes:
    chunk = {"choices": [{"delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def padded(texts: list[str], filler: bytes = b"") -> bytes:
    events = [*map(event, texts), DONE]
    return b"".join(one + sse_comment(len(one)) + filler for one in events)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


def read(stream: bytes) -> list[str]:
    """As a program reads it whose lines end wherever Unicode says so."""
    lines = [line for line in stream.decode().splitlines() if line]
    assert all(line.startswith("data:") for line in lines)
    assert lines.pop() == "data: [DONE]"
    found = [json.loads(line.removeprefix("data:")) for line in lines]
    return [chunk["choices"][0]["delta"]["content"] for chunk in found]


@given(st.lists(st.text() | st.sampled_from(TEXTS), max_size=5), st.lists(st.integers(0, 3000)))
def test_events_are_the_same_however_they_were_cut_and_padded(
    texts: list[str], cuts: list[int]
) -> None:
    bare = b"".join(sse.bare(split(padded(texts, b"\n\n"), cuts)))
    assert read(bare) == texts
    assert bare.count(b"\n\n") == len(texts) + 1 and b"\n\n\n" not in bare and b"\n:" not in bare


def test_padding_alone_makes_no_piece() -> None:
    assert list(sse.bare([b": " + b" " * 500, b"\n\n", b"\n\n:\n\n"])) == []


def test_the_event_of_a_last_line_ends() -> None:
    assert b"".join(sse.bare([b"data: 1\r\n", b"\r\ndata: 2"])) == b"data: 1\n\ndata: 2\n\n"


def test_other_fields_than_data_stay() -> None:
    stream = "event: a\x85\nid: 1\ndata: 2\n\n".encode()
    assert b"".join(sse.bare([stream])) == stream


@pytest.mark.parametrize("reader", [sse.bare, sse.done_last])
def test_an_endless_line_is_refused(reader: object) -> None:
    with pytest.raises(ParseError, match="lines of at most"):
        list(reader([b"data: "] + [b"x" * 1024] * 1025))  # type: ignore[operator]


def test_a_stream_that_does_not_end_after_its_end_mark_is_refused() -> None:
    with pytest.raises(ParseError, match="lines of at most"):
        list(sse.done_last([DONE] + [b": x\n\n" * 256] * 900))


@pytest.fixture(scope="module")
def enclave() -> Iterator[FakeEnclave]:
    fake = FakeEnclave()
    yield fake
    fake.close()


def test_a_stream_on_the_wire(enclave: FakeEnclave) -> None:
    enclave.script.pieces = [padded(TEXTS)]
    body = b'{"model":"demo","stream":true}'
    with proxy_of(FakeClient([enclave])) as address:
        answer = httpx.post(f"{address}/v1/chat/completions", content=body, headers=BEARER)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert read(answer.content) == TEXTS and b"  " not in answer.content
