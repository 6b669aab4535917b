"""Sealed bodies by themselves, over a sealer that adds 16 bytes: lengths, order, limits."""

from __future__ import annotations

from typing import cast

import pytest

from attestation.channel import chunks, varint
from attestation.channel.hpke import Sequence
from attestation.errors import ChannelError, Truncated, UsageError

MOST = 16 * 1024 + 16
TAG = b"\7" * 16
BOTH = pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "plain"])


class Tagged:
    """Seals nothing: it puts a tag behind the data, and looks for it."""

    def seal(self, data: bytes, aad: bytes = b"") -> bytes:
        return data + TAG

    def open(self, sealed: bytes, aad: bytes = b"") -> bytes:
        assert sealed.endswith(TAG)
        return sealed[:-16]


SEALER = cast(Sequence, Tagged())


def reader(*, limit: int = 100_000, chunked: bool = True) -> chunks.Reader:
    return chunks.reader(SEALER, limit=limit, chunked=chunked)


@pytest.mark.parametrize("length", [1, 15, MOST + 1, 2**30])
def test_a_chunk_of_a_length_that_none_has(length: int) -> None:
    with pytest.raises(ChannelError, match=f"expected 16 to {MOST} bytes"):
        reader().push(varint.encode(length))


@pytest.mark.parametrize("size", [0, 1, 16 * 1024])
def test_the_shortest_and_the_longest_chunk(size: int) -> None:
    sealed = bytes(size) + TAG
    assert reader().push(varint.encode(len(sealed)) + sealed) == [bytes(size)]


def test_the_longest_chunk_in_pieces() -> None:
    taker = reader()
    assert taker.push(varint.encode(MOST) + bytes(MOST - 17)) == []
    assert taker.push(TAG) == []
    assert taker.push(b"\7") == [bytes(MOST - 17) + b"\7"]


@pytest.mark.parametrize("size", [0, 48, 16 * 1024], ids=["1", "2", "4"])
def test_the_length_of_a_chunk_byte_by_byte(size: int) -> None:
    taker, sealed = reader(), bytes(size) + TAG
    for byte in varint.encode(len(sealed)):
        assert taker.push(bytes([byte])) == []
    assert taker.push(sealed) == [bytes(size)]


def test_a_final_chunk_has_a_limit() -> None:
    final = reader()
    assert final.push(b"\0" + bytes(MOST - 16) + TAG) == []
    assert final.finish() == bytes(MOST - 16)
    with pytest.raises(ChannelError, match="final chunk"):
        reader().push(b"\0" + bytes(MOST + 1))


@BOTH
def test_nothing_is_written_after_the_end(chunked: bool) -> None:
    writer = chunks.writer(SEALER, head=b"head", chunked=chunked)
    writer.write(b"data")
    writer.finish()
    for again in (lambda: writer.write(b"more"), lambda: writer.write(b""), writer.finish):
        with pytest.raises(UsageError, match="no write or finish after finish"):
            again()


@BOTH
def test_nothing_is_read_after_the_end(chunked: bool) -> None:
    done = reader(chunked=chunked)
    done.push(b"\0" * chunked + b"data" + TAG)
    assert done.finish() == b"data"
    for again in (lambda: done.push(b""), done.finish):
        with pytest.raises(UsageError, match="no push or finish after finish"):
            again()


@BOTH
def test_a_message_of_its_limit_and_one_of_a_byte_more(chunked: bool) -> None:
    for size, passes in ((100, True), (101, False)):
        message = b"\0" * chunked + bytes(size) + TAG
        taker = reader(limit=100, chunked=chunked)
        if passes:
            assert taker.push(message) == []
            assert taker.finish() == bytes(100)
            continue
        with pytest.raises(ChannelError, match="within the limit"):
            taker.push(message)
            taker.finish()


def test_a_plain_message_above_its_limit_is_refused_before_its_end() -> None:
    taker = reader(limit=100, chunked=False)
    assert taker.push(bytes(116)) == []
    with pytest.raises(ChannelError, match="within the limit"):
        taker.push(b"\0")


@BOTH
def test_nothing_written_is_nothing_sent(chunked: bool) -> None:
    writer = chunks.writer(SEALER, head=b"head", chunked=chunked)
    assert writer.write(b"") == b""
    assert writer.finish() == b"head" + b"\0" * chunked + TAG


def test_endless_empty_chunks_are_ended() -> None:
    """What comes over the wire is bounded even where no byte of it is plaintext."""
    taker, empty = reader(limit=100), varint.encode(16) + TAG
    count, rest = divmod(2 * 100 + MOST, len(empty))
    for _ in range(count):
        taker.push(empty)
    taker.push(empty[:rest])
    with pytest.raises(ChannelError, match="within the limit"):
        taker.push(empty[rest : rest + 1])
    with pytest.raises(UsageError):
        taker.push(b"")


@BOTH
def test_a_tag_that_is_cut(chunked: bool) -> None:
    for size in (0, 15):
        taker = reader(chunked=chunked)
        taker.push(b"\0" * chunked + TAG[:size])
        with pytest.raises(Truncated, match="it ends too early"):
            taker.finish()
