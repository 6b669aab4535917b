"""Codec: cells both ways, canonical only, and nothing but ParseError for other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytoniq_core import Cell, begin_cell

from attestation.errors import ParseError, UmayError
from contracts.codec import (
    MAX_BOC,
    AnchorMessage,
    ForkMessage,
    LogState,
    RotateMessage,
    cell_from_boc,
    note_body,
    proof_from_cell,
    proof_to_cell,
    root_hash,
)

U64 = st.integers(0, (1 << 64) - 1)
HASH = st.binary(min_size=32, max_size=32)
SIGNATURE = st.binary(min_size=64, max_size=64)
PROOF = st.lists(HASH, max_size=12).map(tuple)
ORIGIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
RETIRED = st.dictionaries(HASH, U64, max_size=16).map(lambda keys: tuple(sorted(keys.items())))
STATES = st.builds(LogState, U64, U64, HASH, U64, st.booleans(), HASH, ORIGIN, RETIRED)
ANCHORS = st.builds(AnchorMessage, U64, HASH, SIGNATURE, PROOF, U64)
FORKS = st.builds(ForkMessage, U64, HASH, SIGNATURE, HASH, HASH, PROOF, U64)
ROTATIONS = st.builds(RotateMessage, HASH, SIGNATURE, SIGNATURE, U64)


@given(STATES)
def test_state_hypothesis(state: LogState) -> None:
    assert LogState.from_boc(state.to_cell().to_boc()) == state


@given(ANCHORS)
def test_anchor_hypothesis(message: AnchorMessage) -> None:
    assert AnchorMessage.from_boc(message.to_cell().to_boc()) == message


@given(FORKS)
def test_fork_hypothesis(message: ForkMessage) -> None:
    assert ForkMessage.from_boc(message.to_cell().to_boc()) == message


@given(ROTATIONS)
def test_rotation_hypothesis(message: RotateMessage) -> None:
    assert RotateMessage.from_boc(message.to_cell().to_boc()) == message


@given(PROOF)
def test_proof_hypothesis(proof: tuple[bytes, ...]) -> None:
    assert proof_from_cell(proof_to_cell(proof)) == proof


def read_all(boc: bytes) -> None:
    formats = (LogState, AnchorMessage, ForkMessage, RotateMessage)
    for read in (one.from_boc for one in formats):
        try:
            read(boc)
        except UmayError:
            pass


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    read_all(data)
    read_all(bytes.fromhex("b5ee9c72") + data)


@given(ANCHORS, st.integers(0, 10_000), st.integers(1, 255))
def test_arbitrary_damage(message: AnchorMessage, where: int, change: int) -> None:
    boc = bytearray(message.to_cell().to_boc())
    boc[where % len(boc)] ^= change
    read_all(bytes(boc))


GOOD = LogState.genesis(origin="a.example/log", log_key=bytes(32), size=1, root=bytes(32))


def replaced(bits: str, *refs: Cell) -> bytes:
    body = begin_cell().store_bits(bits)
    for ref in refs:
        body.store_ref(ref)
    return body.end_cell().to_boc()


def bad_states() -> dict[str, bytes]:
    cell = GOOD.to_cell()
    bits, identity = cell.bits.to01(), cell.refs[0]

    def named(origin: bytes, *, retired: int = 0) -> Cell:
        head = begin_cell().store_bytes(bytes(32)).store_bit(0).store_uint(retired, 8)
        return head.store_bytes(origin).end_cell()

    return {
        "empty": b"",
        "too long": bytes(MAX_BOC + 1),
        "empty cell": begin_cell().end_cell().to_boc(),
        "another version": replaced("00000011" + bits[8:], identity),
        "short by a bit": replaced(bits[:-1], identity),
        "long by a bit": replaced(bits + "0", identity),
        "no identity": replaced(bits),
        "two identities": replaced(bits, identity, identity),
        "origin empty": replaced(bits, named(b"")),
        "origin too long": replaced(bits, named(b"a" * 61)),
        "origin with a space": replaced(bits, named(b"a b")),
        "origin not ASCII": replaced(bits, named(b"\xff")),
        "retired keys miscounted": replaced(bits, named(b"a", retired=1)),
        "key short": replaced(bits, begin_cell().store_bytes(bytes(31)).end_cell()),
    }


@pytest.mark.parametrize("name", bad_states())
def test_bad_state(name: str) -> None:
    with pytest.raises(ParseError):
        LogState.from_boc(bad_states()[name])


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [("", 1, 32), ("a" * 61, 1, 32), ("é", 1, 32), ("a", 0, 32), ("a", 1 << 64, 32), ("a", 1, 31)],
)
def test_bad_genesis(origin: str, size: int, root: int) -> None:
    with pytest.raises(ParseError):
        LogState.genesis(origin=origin, log_key=bytes(32), size=size, root=bytes(root))


def test_proof_above_the_limit() -> None:
    with pytest.raises(ParseError, match="at most"):
        proof_from_cell(proof_to_cell((bytes(32),) * 131))


def test_two_roots_are_not_one() -> None:
    with pytest.raises(ParseError):
        cell_from_boc(b"\xb5\xee\x9c\x72" + bytes(60))


def test_note_body_is_the_checkpoint_text() -> None:
    assert note_body("log.example", 12, bytes(32)) == (
        b"log.example\n12\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    )


def test_a_kept_hash_is_of_these_bytes_alone() -> None:
    bocs = [begin_cell().store_uint(n, 32).end_cell().to_boc() for n in range(20)]
    for boc in bocs * 2:
        assert root_hash(boc) == cell_from_boc(boc).hash
    for _ in range(2):  # what failed is not kept as something good
        with pytest.raises(ParseError):
            root_hash(bocs[0][:-1])
