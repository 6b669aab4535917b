"""The light client as a whole: a transport that says what it likes, a trusted block on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError, Unavailable, UsageError
from contracts.codec import LogState
from contracts.light.blocks import BlockId
from contracts.light.chain import ProvenChain
from contracts.light.client import LightClient, MemoryStore, TrustedBlock
from contracts.light.links import Walk
from contracts.reader import read_anchor
from tests.helpers.ton_chain import (
    ABSENT,
    LOG_ADDRESS,
    UTIME,
    TonChain,
    answer_bytes,
    back_bytes,
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


def test_a_block_of_another_chain_with_the_number_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    light, transport = client(tmp_path)
    twin = make_block(150, utime=UTIME + 1)
    monkeypatch.setattr(transport, "header", lambda seqno: header_bytes(twin))
    with pytest.raises(UmayError):
        light.block(150)


def test_a_block_of_the_trusted_number_needs_a_way_back(tmp_path: Path) -> None:
    """And none leads from a block to another one of its own number."""
    light, transport = client(tmp_path)
    light.trusted.move(CHAIN.second.block)
    twin = make_block(200, utime=UTIME + 1)
    transport.block_proof = lambda known, target: back_bytes(CHAIN.back(twin))  # type: ignore[method-assign]
    with pytest.raises(NotAuthentic) as caught:
        light.prove(twin.block)
    assert caught.value.code == "not-older"


def test_at_most_256_answers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server whose every answer leads to one more key block."""
    light, transport = client(tmp_path)

    def one_further(at: BlockId, _: bytes) -> Walk:
        block = replace(at, seqno=at.seqno + 1)
        return Walk(block, block, (), complete=False)

    monkeypatch.setattr("contracts.light.client.walk", one_further)
    transport.links = dict.fromkeys(
        (replace(CHAIN.first.block, seqno=100 + number) for number in range(300)),
        CHAIN.link(CHAIN.first, CHAIN.second),
    )
    with pytest.raises(NotAuthentic, match="at most 256 answers"):
        light.prove(replace(CHAIN.head.block, seqno=1000))
    assert transport.asked == list(range(100, 356))


def test_the_last_blocks_that_were_proven_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.light.client.MAX_PROVEN", 2)
    light, _ = client(tmp_path)
    for made in (CHAIN.first, CHAIN.second, CHAIN.head):
        light.prove(made.block)
    assert list(light.proven) == [CHAIN.second.block, CHAIN.head.block]


def test_a_head_behind_the_trusted_block(tmp_path: Path) -> None:
    light, transport = client(tmp_path)
    light.trusted.move(CHAIN.second.block)
    transport.head = CHAIN.middle.block
    with pytest.raises(Refused, match="behind"):
        light.head()


HASHES = f'"root_hash": "{bytes(32).hex()}", "file_hash": "{CHAIN.first.block.file_hash.hex()}"'
SHORT = HASHES.replace("0000", "00", 1)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[]", '{"seqno": -1}', '{"seqno": true}'),
        *(f'{{"seqno": {seqno}, {HASHES}}}' for seqno in ("-1", "true", "1.0", '"1"', "null")),
        f'{{"seqno": 1, {SHORT}}}',
    ],
)
def test_a_damaged_trusted_block(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trusted.json"
    with pytest.raises(UsageError, match="pin"):
        TrustedBlock(path).read()
    path.write_text(content)
    with pytest.raises(UsageError, match="begin anew"):
        TrustedBlock(path).read()


@pytest.mark.parametrize("seqno", [0, 1])
def test_a_trusted_block_is_read_as_it_was_written(tmp_path: Path, seqno: int) -> None:
    path = tmp_path / "trusted.json"
    path.write_text(f'{{"seqno": {seqno}, {HASHES}}}')
    found = TrustedBlock(path).read()
    assert (found.seqno, found.root_hash, found.file_hash) == (
        seqno,
        bytes(32),
        CHAIN.first.block.file_hash,
    )


@pytest.mark.parametrize("store", ["memory", "file"])
def test_a_trusted_block_moves_to_a_later_one_alone(tmp_path: Path, store: str) -> None:
    trusted: MemoryStore | TrustedBlock = MemoryStore(CHAIN.first.block)
    if store == "file":
        trusted = TrustedBlock(tmp_path / "trusted.json")
        trusted.pin(CHAIN.first.block)
    trusted.move(replace(CHAIN.first.block, root_hash=bytes(32)))
    assert trusted.read() == CHAIN.first.block
    trusted.move(CHAIN.second.block)
    assert trusted.read() == CHAIN.second.block
    trusted.move(CHAIN.first.block)
    assert trusted.read() == CHAIN.second.block


def test_a_trusted_block_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        TrustedBlock(tmp_path / "missing" / "trusted.json").pin(CHAIN.first.block)
