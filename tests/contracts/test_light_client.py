"""The light client as a whole: a transport that says what it likes, a trusted block on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError, Unavailable, UsageError
from contracts.codec import LogState
from contracts.light.blocks import BlockId
from contracts.light.chain import ProvenChain
from contracts.light.client import LightClient, TrustedBlock
from contracts.reader import read_anchor
from tests.helpers.ton_chain import (
    ABSENT,
    LOG_ADDRESS,
    UTIME,
    TonChain,
    answer_bytes,
    header_bytes,
    make_block,
    proof_bytes,
)

GENESIS = LogState.genesis(origin="a.example/log", log_key=bytes(32), size=7, root=bytes(32))
CHAIN = TonChain(data=GENESIS.to_cell())


class Replayed:
    """A liteserver's answers from memory: one link at a time, and what it says is the head."""

    def __init__(self) -> None:
        self.head, self.answer, self.asked = CHAIN.head.block, CHAIN.answer(), list[int]()
        made = ((CHAIN.first, CHAIN.second), (CHAIN.second, CHAIN.head))
        self.links = {source.block: CHAIN.link(source, target) for source, target in made}

    def masterchain_head(self) -> BlockId:
        return self.head

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        self.asked.append(known.seqno)
        return proof_bytes(self.links[known])

    def header(self, seqno: int) -> bytes:
        made = {m.block.seqno: m for m in (CHAIN.first, CHAIN.middle, CHAIN.second, CHAIN.head)}
        return header_bytes(made[seqno])

    def account(self, block: BlockId, address: str) -> bytes:
        return answer_bytes(self.answer)


def client(tmp_path: Path) -> tuple[LightClient, Replayed]:
    trusted = TrustedBlock(tmp_path / "trusted.json")
    trusted.pin(CHAIN.first.block)
    transport = Replayed()
    return LightClient(transport, trusted), transport


def test_an_account_is_proven_and_the_trusted_block_moves(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    account = light.account(LOG_ADDRESS, now=UTIME + 5)
    assert (account.state, account.read_at) == ("active", UTIME)
    assert light.trusted.read() == CHAIN.second.block
    light.account(LOG_ADDRESS, now=UTIME + 5)
    assert transport.asked == [100, 200]  # the head has not moved: proven once


def test_a_head_that_no_proof_reaches(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    transport.head = replace(CHAIN.head.block, seqno=211)
    with pytest.raises(NotAuthentic, match="they end at block 210") as caught:
        light.head()
    assert caught.value.code == "no-way"
    assert light.trusted.read() == CHAIN.second.block


@pytest.mark.parametrize(("most", "reached"), [(0, False), (1, False), (2, True)])
def test_a_head_that_too_many_proofs_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, reached: bool
) -> None:
    """The head is two answers away from the trusted block."""
    monkeypatch.setattr("contracts.light.client.MAX_ANSWERS", most)
    light, _ = client(tmp_path)
    if reached:
        assert light.head() == CHAIN.head.block
        return
    with pytest.raises(NotAuthentic, match=f"at most {most} answers") as caught:
        light.head()
    assert caught.value.code == "no-way"


def test_a_link_that_does_not_hold_moves_nothing(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    few = CHAIN.link(CHAIN.first, CHAIN.second, signers=3)
    transport.links[CHAIN.first.block] = few
    with pytest.raises(UmayError):
        light.head()
    assert light.trusted.read() == CHAIN.first.block


def test_a_head_that_is_the_trusted_block(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    transport.head = CHAIN.first.block
    assert light.head() == CHAIN.first.block
    assert transport.asked == []


def test_a_stale_head(tmp_path: Path) -> None:
    light, _ = client(tmp_path)
    with pytest.raises(Refused):
        light.account(LOG_ADDRESS, now=UTIME + 601)


def test_an_account_that_is_not_there(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    transport.answer = CHAIN.answer(ABSENT)
    assert light.account(ABSENT, now=UTIME).state == "absent"
    with pytest.raises(Unavailable, match="uninitialized"):
        read_anchor(ProvenChain(light, clock=lambda: UTIME), network="test", address=ABSENT)


def test_a_block_of_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    light, transport = client(tmp_path)
    monkeypatch.setattr(transport, "header", lambda seqno: header_bytes(CHAIN.first))
    with pytest.raises(NotAuthentic, match="expected block 150, got 100"):
        light.block(150)


def test_a_header_of_another_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    light, transport = client(tmp_path)
    other = replace(CHAIN.middle, cell=CHAIN.second.cell)
    monkeypatch.setattr(transport, "header", lambda seqno: header_bytes(other))
    with pytest.raises(NotAuthentic, match="expected a proof of"):
        light.block(150)


def test_another_block_of_the_trusted_number(tmp_path: Path) -> None:
    """Its header is its own, but it is no block of this chain."""
    light, transport = client(tmp_path)
    twin = make_block(100, utime=UTIME + 1)
    transport.links[CHAIN.first.block] = CHAIN.link(CHAIN.first, CHAIN.second)
    with pytest.raises((NotAuthentic, ParseError)):
        light.prove(twin.block)


def test_a_head_behind_the_trusted_block(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    light.trusted.move(CHAIN.second.block)
    transport.head = CHAIN.middle.block
    with pytest.raises(Refused, match="behind"):
        light.head()


def test_the_trusted_block_never_moves_back(tmp_path: Path) -> None:
    trusted = TrustedBlock(tmp_path / "trusted.json")
    trusted.pin(CHAIN.second.block)
    trusted.move(CHAIN.first.block)
    assert trusted.read() == CHAIN.second.block


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seqno": -1}', '{"seqno": true}'])
def test_a_damaged_trusted_block(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trusted.json"
    with pytest.raises(UsageError, match="pin"):
        TrustedBlock(path).read()
    path.write_text(content)
    with pytest.raises(UsageError, match="begin anew"):
        TrustedBlock(path).read()


def test_a_trusted_block_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        TrustedBlock(tmp_path / "missing" / "trusted.json").pin(CHAIN.first.block)
