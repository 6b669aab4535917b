"""Links back: an older block is proven by the state of a trusted one, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attestation.errors import NotAuthentic, ParseError, UmayError
from contracts.light import back
from contracts.light.accounts import ChainState
from contracts.light.back import BackLink, check_back, read_back
from contracts.light.boc import write_bag
from tests.helpers import ton_chain
from tests.helpers.ton_chain import (
    Made,
    TonChain,
    back_bytes,
    cell,
    hashmap,
    make_block,
    merkle_proof,
    octets,
    uint,
)

CHAIN = TonChain()
GOOD = CHAIN.back(CHAIN.first)


def state_of(chain: TonChain, *cut: object) -> bytes:
    return write_bag([merkle_proof(chain.second_state, (*chain.second_state.refs[:3], *cut))])


def with_state(old: tuple[Made, ...], keys: tuple[int, ...]) -> TonChain:
    """Another chain, whose key block 200 lists these old blocks; it has no validators of ours."""
    chain = TonChain()
    extra = ton_chain.masterchain_extra(ton_chain.stuff("shards"), old, keys)
    chain.second_state = ton_chain.shard_state(200, {}, workchain=-1, custom=extra)
    chain.second = make_block(200, config=chain.config(), state=chain.second_state)
    return chain


TWIN = make_block(100, config=CHAIN.config(), utime=1)
"""Another block of number 100: everything of it is true of itself."""

MINE = with_state((TWIN,), (100,))
"""A chain where the twin is the old block."""


MINE_STATE = state_of(MINE)

BAD: dict[str, tuple[Callable[[BackLink], BackLink], str]] = {
    "another-trusted-block": (lambda link: replace(link, source=MINE.second.block), "other-block"),
    "another-target": (lambda link: replace(link, target=CHAIN.middle.block), "other-block"),
    "state-of-another-chain": (lambda link: replace(link, state_proof=MINE_STATE), "wrong-root"),
    "block-of-another-chain": (
        lambda link: replace(link, proof=MINE.back(CHAIN.first).proof),
        "wrong-root",
    ),
    "header-of-another-block": (
        lambda link: replace(link, dest_proof=CHAIN.middle.header_proof()),
        "wrong-root",
    ),
    "no-key-block-said": (lambda link: replace(link, to_key_block=False), "other-header"),
    "pruned-list": (
        lambda link: replace(
            link, state_proof=state_of(CHAIN, CHAIN.second_state.refs[3].refs[2].refs[0])
        ),
        "pruned",
    ),
    "pruned-rest": (
        lambda link: replace(link, state_proof=state_of(CHAIN, CHAIN.second_state.refs[3].refs[2])),
        "pruned",
    ),
    "pruned-extra": (
        lambda link: replace(link, state_proof=state_of(CHAIN, CHAIN.second_state.refs[3])),
        "pruned",
    ),
}


@pytest.mark.parametrize("made", [CHAIN.first, CHAIN.middle], ids=["key block", "block"])
def test_an_old_block_is_proven(made: Made) -> None:
    check_back(CHAIN.second.block, made.block, back_bytes(CHAIN.back(made)))


@pytest.mark.parametrize("how", BAD)
def test_a_link_that_does_not_hold(how: str) -> None:
    change, code = BAD[how]
    with pytest.raises(NotAuthentic) as caught:
        check_back(CHAIN.second.block, CHAIN.first.block, back_bytes(change(GOOD)))
    assert caught.value.code == code, caught.value


def test_a_twin_of_an_old_block_is_none() -> None:
    """The right number and an own true header, but the state lists another hash."""
    link = replace(GOOD, target=TWIN.block, dest_proof=TWIN.header_proof())
    with pytest.raises(NotAuthentic, match="old blocks") as caught:
        check_back(CHAIN.second.block, TWIN.block, back_bytes(link))
    assert caught.value.code == "other-block"


def test_the_file_hash_counts_too() -> None:
    target = replace(CHAIN.first.block, file_hash=bytes(32))
    with pytest.raises(NotAuthentic, match="old blocks"):
        check_back(CHAIN.second.block, target, back_bytes(replace(GOOD, target=target)))


def test_a_number_that_is_not_listed() -> None:
    gone = make_block(120)
    with pytest.raises(NotAuthentic) as caught:
        check_back(CHAIN.second.block, gone.block, back_bytes(CHAIN.back(gone)))
    assert caught.value.code == "no-such-block"


def test_a_state_that_lists_none() -> None:
    chain = with_state((), ())
    with pytest.raises(NotAuthentic) as caught:
        check_back(chain.second.block, CHAIN.first.block, back_bytes(chain.back(CHAIN.first)))
    assert caught.value.code == "no-such-block"


@pytest.mark.parametrize("flags", [0, 1, 2, 0xFFFF])
def test_flags_of_the_masterchain_that_are_known(flags: int) -> None:
    extra = CHAIN.second_state.refs[3]
    rest = extra.refs[2]
    rest = cell(uint(flags, 16) + rest.bits.to01()[16:], *rest.refs)
    custom = cell(extra.bits.to01(), *extra.refs[:2], rest)
    state = ChainState(-1, ton_chain.WHOLE, 200, 0, rest, custom)
    if flags <= 1:
        assert back._old_blocks(state).hash == rest.refs[0].hash
    else:
        with pytest.raises(ParseError, match=f"expected the flags 0 or 1, got {flags}"):
            back._old_blocks(state)


def test_an_entry_of_an_old_block_with_more_behind_it() -> None:
    block = CHAIN.first.block
    entry = uint(0, 65) + "1" + uint(9, 64) + uint(block.seqno, 32)
    entry += octets(block.root_hash) + octets(block.file_hash)
    for more in ("", "0"):
        listed = hashmap({uint(block.seqno, 32): (entry + more, ())}, 32)
        rest = cell(uint(0, 16 + 65) + "1", listed)
        extra = CHAIN.second_state.refs[3]
        custom = cell(extra.bits.to01(), *extra.refs[:2], rest)
        state = ChainState(-1, ton_chain.WHOLE, 200, 0, rest, custom)
        if not more:
            assert back._listed(state, block)
            continue
        with pytest.raises(ParseError, match="expected the end of the cell"):
            back._listed(state, block)


def test_a_listed_key_block_that_is_none() -> None:
    chain = with_state((CHAIN.middle,), (150,))
    with pytest.raises(NotAuthentic) as caught:
        check_back(chain.second.block, CHAIN.middle.block, back_bytes(chain.back(CHAIN.middle)))
    assert caught.value.code == "other-header"


@pytest.mark.parametrize("target", [CHAIN.second, CHAIN.head], ids=["itself", "later"])
def test_a_block_that_is_not_older(target: Made) -> None:
    with pytest.raises(NotAuthentic) as caught:
        check_back(CHAIN.second.block, target.block, back_bytes(CHAIN.back(target)))
    assert caught.value.code == "not-older"


def test_a_state_of_the_basechain() -> None:
    chain = TonChain()
    chain.second_state = ton_chain.shard_state(200, {}, workchain=-1)
    chain.second = make_block(200, config=chain.config(), state=chain.second_state)
    with pytest.raises(ParseError, match="masterchain"):
        check_back(chain.second.block, CHAIN.first.block, back_bytes(chain.back(CHAIN.first)))


@pytest.mark.parametrize("count", [0, 2])
def test_one_link_and_no_other_number(count: int) -> None:
    answer = bytearray(back_bytes(GOOD))
    answer[168] = count
    with pytest.raises(ParseError, match="exactly 1 link back"):
        read_back(bytes(answer))


@pytest.mark.parametrize("tail", [bytes(4), b"\1\2\3\4"], ids=["zeros", "word"])
def test_bytes_after_the_link(tail: bytes) -> None:
    with pytest.raises(ParseError):
        read_back(back_bytes(GOOD) + tail)


def test_a_link_forward_is_none_back() -> None:
    answer = ton_chain.proof_bytes(CHAIN.link(CHAIN.first, CHAIN.second))
    with pytest.raises(ParseError):
        check_back(CHAIN.second.block, CHAIN.first.block, answer)


def test_every_flipped_bit_is_refused() -> None:
    answer = back_bytes(GOOD)
    check_back(CHAIN.second.block, CHAIN.first.block, answer)
    for at in range(0, 8 * len(answer), 5):
        flipped = bytearray(answer)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(UmayError):
            check_back(CHAIN.second.block, CHAIN.first.block, bytes(flipped))
