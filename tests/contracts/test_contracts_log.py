"""AttestationLog in the real TVM: growth, every attack by name and exit code, money."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from pytoniq_core import Cell, Transaction, begin_cell

from attestation.log.merkle import Tree, consistency_proof, node_hash, tree_root
from contracts import node
from contracts.chain import ToncenterV2
from contracts.codec import (
    MAX_RETIRED,
    OP_ANCHOR,
    AnchoredEvent,
    AnchorMessage,
    Exit,
    ForkMessage,
    LogState,
    RotateMessage,
    note_body,
    proof_to_cell,
    rotation_text,
)
from contracts.deploy import deploy
from contracts.localnet.process import LocalChain
from contracts.reader import read_anchor
from contracts.wallet import Wallet
from tests.helpers import gas

pytestmark = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")

KEY = SigningKey(bytes(range(32)))
OTHER_KEY = SigningKey(bytes(range(1, 33)))
ORIGIN = "log.example.org/umay"
VALUE = 100_000_000
TREE = Tree()
for _index in range(64):
    TREE.append(f"leaf {_index}".encode())
FORKED_TREE = Tree()
for _index in range(64):
    FORKED_TREE.append(f"leaf {_index if _index < 5 else -_index}".encode())


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    gas: int
    fees: int


@dataclass(frozen=True)
class Bench:
    """A chain, a rich wallet and contracts on demand."""

    local: LocalChain
    chain: ToncenterV2
    wallet: Wallet

    def contract(self, *, tree: Tree = TREE, size: int = 5, origin: str = ORIGIN) -> str:
        return self.contract_at(size, tree.root(size), origin)

    def contract_at(self, size: int, root: bytes, origin: str = ORIGIN, key=KEY) -> str:
        genesis = LogState.genesis(
            origin=origin, log_key=bytes(key.verify_key), size=size, root=root
        )
        return deploy(self.chain, self.wallet, genesis).address

    def send(self, address: str, body: Cell, value: int = VALUE) -> Outcome:
        self.wallet.transfer(address, value, body)
        return self.last(address)

    def last(self, address: str) -> Outcome:
        (boc,) = self.chain.transactions(address, limit=1)
        transaction = Transaction.deserialize(Cell.one_from_boc(boc).begin_parse())
        phase = transaction.description.compute_ph
        return Outcome(
            getattr(phase, "exit_code", None),
            getattr(phase, "gas_used", 0),
            transaction.total_fees.grams,
        )

    def state(self, address: str) -> LogState:
        return LogState.from_boc(self.chain.account(address).data)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with LocalChain.start(tmp_path_factory.mktemp("chain of tests")) as local:
        chain = local.client()
        wallet = Wallet(chain, SigningKey.generate())
        local.faucet(wallet.address, 10**15)
        yield Bench(local, chain, wallet)


def signed(
    size: int,
    root: bytes,
    proof: tuple[bytes, ...] | list[bytes],
    *,
    key: SigningKey = KEY,
    origin: str = ORIGIN,
) -> AnchorMessage:
    signature = key.sign(note_body(origin, size, root)).signature
    return AnchorMessage(size, root, signature, tuple(proof), query_id=77)


def growth(old: int, new: int, tree: Tree = TREE, **keywords) -> AnchorMessage:
    return signed(new, tree.root(new), tree.consistency(old, new), **keywords)


def test_a_log_grows(bench: Bench) -> None:
    address = bench.contract(size=1)
    size = 1
    for sequence, new in enumerate((2, 3, 4, 7, 8, 9, 16, 33, 63, 64), start=1):
        outcome = bench.send(address, growth(size, new).to_cell())
        assert outcome.exit_code == Exit.OK
        anchor = read_anchor(bench.chain, network="test", address=address)
        assert (anchor.size, anchor.root) == (new, TREE.root(new))
        assert anchor.sequence == sequence
        assert 0 < anchor.time <= anchor.read_at
        size = new


def test_every_pair_of_small_sizes(bench: Bench) -> None:
    for old in range(1, 12):
        for new in range(old + 1, 12, 3):
            address = bench.contract(size=old, origin=f"pair.example/{old}-{new}")
            message = growth(old, new, origin=f"pair.example/{old}-{new}")
            assert bench.send(address, message.to_cell()).exit_code == Exit.OK, (old, new)


def test_the_get_method_says_what_the_storage_says(bench: Bench) -> None:
    address = bench.contract(size=6)
    bench.send(address, growth(6, 9).to_cell())
    state = bench.state(address)
    result = bench.chain.run_get_method(address, "state")
    assert result.exit_code == 0
    assert result.stack[:6] == (
        1,
        9,
        int.from_bytes(TREE.root(9), "big"),
        state.time,
        0,
        int.from_bytes(bytes(KEY.verify_key), "big"),
    )
    assert Cell.one_from_boc(result.stack[6]).begin_parse().load_bytes(20) == ORIGIN.encode()


def flipped(data: bytes, bit: int = 0) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


GOOD = growth(5, 9)  # the proof has four hashes


def with_proof(*hashes: bytes) -> Cell:
    return replace(GOOD, proof=hashes).to_cell()


def body_of(message: AnchorMessage, *, bits: int) -> Cell:
    whole = message.to_cell().begin_parse()
    return begin_cell().store_bits(whole.load_bits(bits)).end_cell()


def trailing(message: AnchorMessage) -> Cell:
    return begin_cell().store_cell(message.to_cell()).store_uint(0, 8).end_cell()


def raw_proof(cell: Cell) -> Cell:
    plain = replace(GOOD, proof=()).to_cell().begin_parse()
    bits = plain.load_bits(928)
    return begin_cell().store_bits(bits).store_maybe_ref(cell).end_cell()


P = GOOD.proof
ATTACKS = {
    "signature-flipped": (
        replace(GOOD, signature=flipped(GOOD.signature)).to_cell(),
        Exit.SIGNATURE,
    ),
    "signature-zero": (replace(GOOD, signature=bytes(64)).to_cell(), Exit.SIGNATURE),
    "other-key": (growth(5, 9, key=OTHER_KEY).to_cell(), Exit.SIGNATURE),
    "other-origin": (growth(5, 9, origin="log.example.org/other").to_cell(), Exit.SIGNATURE),
    "origin-prefix": (growth(5, 9, origin=ORIGIN[:-1]).to_cell(), Exit.SIGNATURE),
    "signature-of-another-size": (
        replace(GOOD, signature=growth(5, 10).signature).to_cell(),
        Exit.SIGNATURE,
    ),
    "root-not-signed": (replace(GOOD, root=flipped(GOOD.root)).to_cell(), Exit.SIGNATURE),
    "zero-root-signed": (signed(9, bytes(32), P).to_cell(), Exit.NEW_ROOT),
    "same-size": (signed(5, TREE.root(5), ()).to_cell(), Exit.SIZE),
    "same-size-other-root": (signed(5, FORKED_TREE.root(6), ()).to_cell(), Exit.SIZE),
    "smaller-size": (signed(4, TREE.root(4), ()).to_cell(), Exit.SIZE),
    "size-zero": (signed(0, TREE.root(1), ()).to_cell(), Exit.SIZE),
    "rewritten-history": (
        signed(9, FORKED_TREE.root(9), FORKED_TREE.consistency(4, 9)).to_cell(),
        Exit.PROOF_SHORT,
    ),
    "appended-to-another-tree": (
        signed(9, node_hash(TREE.root(8), bytes(32)), P).to_cell(),
        Exit.NEW_ROOT,
    ),
    "proof-absent": (with_proof(), Exit.PROOF_SHORT),
    "proof-one-short": (with_proof(*P[:-1]), Exit.PROOF_SHORT),
    "proof-one-long": (with_proof(*P, bytes(32)), Exit.PROOF_LONG),
    "proof-first-hash-flipped": (with_proof(flipped(P[0]), *P[1:]), Exit.OLD_ROOT),
    "proof-last-hash-flipped": (with_proof(*P[:-1], flipped(P[-1])), Exit.NEW_ROOT),
    "proof-old-only-hash-flipped": (with_proof(P[0], flipped(P[1]), *P[2:]), Exit.NEW_ROOT),
    "proof-reversed": (with_proof(*reversed(P)), Exit.OLD_ROOT),
    "proof-of-other-sizes": (with_proof(*TREE.consistency(6, 9)), Exit.PROOF_SHORT),
    "proof-not-whole-hashes": (
        raw_proof(begin_cell().store_bytes(b"".join(P[:3])).store_uint(0, 8).end_cell()),
        Exit.PROOF_SHORT,
    ),
    "proof-trailing-bits": (
        raw_proof(
            begin_cell()
            .store_bytes(b"".join(P[:3]))
            .store_ref(begin_cell().store_bytes(b"".join(P[3:])).store_bit(1).end_cell())
            .end_cell()
        ),
        Exit.PROOF_LONG,
    ),
    "proof-trailing-cell": (
        raw_proof(
            begin_cell()
            .store_bytes(b"".join(P[:3]))
            .store_ref(
                begin_cell()
                .store_bytes(b"".join(P[3:]))
                .store_ref(begin_cell().end_cell())
                .end_cell()
            )
            .end_cell()
        ),
        Exit.PROOF_LONG,
    ),
    "message-truncated": (body_of(GOOD, bits=900), Exit.CELL_UNDERFLOW),
    "message-op-only": (body_of(GOOD, bits=32), Exit.CELL_UNDERFLOW),
    "message-trailing-byte": (trailing(GOOD), Exit.CELL_UNDERFLOW),
    "unknown-op": (begin_cell().store_uint(OP_ANCHOR + 9, 32).end_cell(), Exit.UNKNOWN_OP),
    "text-comment": (begin_cell().store_uint(0, 32).store_bytes(b"hi").end_cell(), Exit.UNKNOWN_OP),
}


@pytest.fixture(scope="module")
def target(bench: Bench) -> str:
    return bench.contract(size=5, origin=ORIGIN)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(bench: Bench, target: str, name: str) -> None:
    body, expected = ATTACKS[name]
    before = bench.chain.account(target)
    outcome = bench.send(target, body)
    after = bench.chain.account(target)
    assert outcome.exit_code == expected, name
    assert after.data == before.data
    assert after.balance >= before.balance - 1000  # a second of rent at most


def test_replayed_anchor(bench: Bench) -> None:
    address = bench.contract(size=7)
    message = growth(7, 20).to_cell()
    assert bench.send(address, message).exit_code == Exit.OK
    assert bench.send(address, message).exit_code == Exit.SIZE


@pytest.mark.parametrize("value", [2_000_000, 10_000_000])
def test_underfunded(bench: Bench, value: int) -> None:
    address = bench.contract(size=8)
    before = bench.chain.account(address)
    outcome = bench.send(address, growth(8, 9).to_cell(), value)
    assert outcome.exit_code in (Exit.UNDERFUNDED, Exit.OUT_OF_GAS)
    assert bench.chain.account(address).data == before.data
    assert bench.chain.account(address).balance >= before.balance - 1000


def test_rent_is_kept_and_the_rest_returned(bench: Bench) -> None:
    address = bench.contract(size=9)
    kept, purse = bench.chain.account(address).balance, bench.wallet.balance()
    outcome = bench.send(address, growth(9, 40).to_cell(), 10**9)
    assert outcome.exit_code == Exit.OK
    assert kept - 1000 <= bench.chain.account(address).balance <= kept
    spent = purse - bench.wallet.balance()
    assert spent < 40_000_000  # of the 10^9 attached


def test_rent_floor_is_topped_up(bench: Bench) -> None:
    genesis = LogState.genesis(
        origin="poor.example/log",
        log_key=bytes(KEY.verify_key),
        size=5,
        root=TREE.root(5),
    )
    address = deploy(bench.chain, bench.wallet, genesis, endowment=2_000_000).address
    poor = bench.chain.account(address).balance
    message = growth(5, 9, origin="poor.example/log").to_cell()
    assert bench.send(address, message, 10**9).exit_code == Exit.OK
    floor = bench.chain.account(address).balance
    assert poor < floor
    assert bench.send(address, growth(9, 12, origin="poor.example/log").to_cell()).exit_code == 0
    assert floor - 1000 <= bench.chain.account(address).balance <= floor


def test_an_empty_message_is_a_gift(bench: Bench) -> None:
    address = bench.contract(size=10)
    before = bench.chain.account(address)
    bench.wallet.transfer(address, 50_000_000)
    after = bench.chain.account(address)
    assert after.balance > before.balance + 45_000_000
    assert after.data == before.data


def synthetic(old: int, new: int, rng: random.Random) -> tuple[bytes, bytes, list[bytes]]:
    """Roots and proof of trees of any size: subtrees are random hashes, made once."""
    nodes: dict[tuple[int, int], bytes] = {}

    def get(level: int, index: int) -> bytes:
        key = (level, index)
        if key not in nodes:
            start, end = index << level, (index + 1) << level
            inside = level and (start < old < end or start < new < end)
            nodes[key] = (
                node_hash(get(level - 1, 2 * index), get(level - 1, 2 * index + 1))
                if inside
                else rng.randbytes(32)
            )
        return nodes[key]

    proof = consistency_proof(old, new, get)
    return tree_root(old, get), tree_root(new, get), proof


def sizes() -> list[tuple[int, int]]:
    rng = random.Random(7)
    pairs = []
    for bits in (5, 10, 16, 24, 32, 40, 40, 48, 63):
        old = rng.randrange(1, 1 << bits)
        pairs.append((old, old + rng.randrange(1, 1 << bits)))
    edges = [(1, (1 << 40)), ((1 << 40) - 1, 1 << 40), (1 << 39, (1 << 40) + 1)]
    return pairs + edges


@pytest.mark.parametrize(("old", "new"), sizes())
def test_large_sizes(bench: Bench, old: int, new: int) -> None:
    rng = random.Random(old)
    old_root, new_root, proof = synthetic(old, new, rng)
    address = bench.contract_at(old, old_root)
    bad = list(proof)
    which = rng.randrange(len(bad))
    bad[which] = flipped(bad[which], rng.randrange(256))
    refused = bench.send(address, signed(new, new_root, bad).to_cell())
    assert refused.exit_code in (Exit.OLD_ROOT, Exit.NEW_ROOT)
    assert bench.send(address, signed(new, new_root, proof).to_cell()).exit_code == Exit.OK


def test_the_longest_note_and_proof_fit_the_gas(bench: Bench) -> None:
    """60 bytes of origin and 20 digits make the note body exactly 127 bytes."""
    old, new = (1 << 63) - 1, (1 << 64) - 1
    old_root, new_root, proof = synthetic(old, new, random.Random(1))
    origin = "o" * 60
    address = bench.contract_at(old, old_root, origin)
    outcome = bench.send(address, signed(new, new_root, proof, origin=origin).to_cell())
    assert outcome.exit_code == Exit.OK
    assert outcome.gas < GAS_RESERVED
    assert len(note_body(origin, new, new_root)) == 127


GAS_RESERVED = 120_000


def test_constants_of_the_source(bench: Bench) -> None:
    source = (Path(node.__file__).parent / "src" / "attestation_log.tolk").read_text()
    assert f"const GAS_RESERVED = {GAS_RESERVED}\n" in source
    address = bench.contract_at(5, TREE.root(5), "o" * 60)
    account = bench.chain.account(address)
    cells: dict[bytes, int] = {}

    def walk(cell: Cell) -> None:
        cells[cell.hash] = len(cell.bits)
        for ref in cell.refs:
            walk(ref)

    walk(Cell.one_from_boc(account.code))
    walk(Cell.one_from_boc(account.data))
    full = 16 * (600 + 64)  # bits that sixteen retired keys may add, edges of the map included
    assert sum(cells.values()) + full + 400 <= 38_000  # 400 bits: the account's own cell
    assert len(cells) + 2 * 16 + 1 <= 80


# ---- forks


def contradiction(size: int, tree: Tree, **keywords) -> ForkMessage:
    claim = signed(size, tree.root(size), ())
    signer = bytes(KEY.verify_key)
    return ForkMessage(claim.size, claim.root, claim.signature, signer, **keywords)


def test_fork_at_the_same_size(bench: Bench) -> None:
    address = bench.contract(size=20)
    report = contradiction(20, FORKED_TREE)
    assert bench.send(address, report.to_cell()).exit_code == Exit.OK
    assert bench.state(address).forked
    assert bench.state(address).size == 20
    assert bench.send(address, growth(20, 21).to_cell()).exit_code == Exit.FORKED
    assert bench.send(address, report.to_cell()).exit_code == Exit.FORKED


def test_fork_at_a_smaller_size(bench: Bench) -> None:
    address = bench.contract(size=21)
    report = contradiction(
        10, FORKED_TREE, other=TREE.root(10), proof=tuple(TREE.consistency(10, 21))
    )
    assert bench.send(address, report.to_cell()).exit_code == Exit.OK
    assert bench.state(address).forked


def test_fork_at_a_larger_size(bench: Bench) -> None:
    address = bench.contract(size=22)
    proof = tuple(FORKED_TREE.consistency(22, 30))
    report = contradiction(30, FORKED_TREE, other=FORKED_TREE.root(22), proof=proof)
    assert bench.send(address, report.to_cell()).exit_code == Exit.OK
    assert bench.state(address).forked


def no_forks() -> dict[str, tuple[ForkMessage, Exit]]:
    true_proof = tuple(TREE.consistency(10, 23))
    return {
        "the-anchored-checkpoint": (contradiction(23, TREE), Exit.NO_FORK),
        "an-older-true-checkpoint": (
            contradiction(10, TREE, other=TREE.root(10), proof=true_proof),
            Exit.NO_FORK,
        ),
        "an-older-one-with-a-false-other": (
            contradiction(10, TREE, other=FORKED_TREE.root(10), proof=true_proof),
            Exit.OLD_ROOT,
        ),
        "a-newer-true-checkpoint": (
            contradiction(30, TREE, other=TREE.root(23), proof=tuple(TREE.consistency(23, 30))),
            Exit.NO_FORK,
        ),
        "a-newer-one-with-a-false-other": (
            contradiction(
                30, TREE, other=FORKED_TREE.root(23), proof=tuple(TREE.consistency(23, 30))
            ),
            Exit.OLD_ROOT,
        ),
        "not-signed-by-the-log": (
            replace(contradiction(23, FORKED_TREE), signature=bytes(64)),
            Exit.SIGNATURE,
        ),
        "size-zero": (replace(contradiction(23, FORKED_TREE), size=0), Exit.SIZE),
        "of-a-key-that-never-was-the-logs": (
            replace(contradiction(23, FORKED_TREE), signer=bytes(OTHER_KEY.verify_key)),
            Exit.KEY,
        ),
    }


@pytest.mark.parametrize("name", no_forks())
def test_no_fork(bench: Bench, name: str) -> None:
    report, expected = no_forks()[name]
    address = bench.contract(size=23)
    assert bench.send(address, report.to_cell()).exit_code == expected
    assert not bench.state(address).forked


def test_proof_cells_hold_three_hashes_each() -> None:
    cell = proof_to_cell(tuple(bytes([n]) * 32 for n in range(7)))
    assert cell is not None
    depths = [len(cell.bits) // 256]
    while cell.refs:
        cell = cell.refs[0]
        depths.append(len(cell.bits) // 256)
    assert depths == [3, 3, 1]


# ---- rotation


def rotation(address: str, old: SigningKey, new: SigningKey) -> RotateMessage:
    key = bytes(new.verify_key)
    text = rotation_text(address, key)
    return RotateMessage(key, old.sign(text).signature, new.sign(text).signature, 5)


def test_the_next_key_takes_over(bench: Bench) -> None:
    address = bench.contract(size=24)
    assert bench.send(address, rotation(address, KEY, OTHER_KEY).to_cell()).exit_code == Exit.OK
    state = bench.state(address)
    assert state.log_key == bytes(OTHER_KEY.verify_key)
    assert state.retired == ((bytes(KEY.verify_key), 24),)
    assert bench.send(address, growth(24, 25).to_cell()).exit_code == Exit.SIGNATURE
    grown = growth(24, 25, key=OTHER_KEY)
    assert bench.send(address, grown.to_cell()).exit_code == Exit.OK


def test_a_retired_key_still_convicts_of_a_fork(bench: Bench) -> None:
    address = bench.contract(size=26)
    bench.send(address, rotation(address, KEY, OTHER_KEY).to_cell())
    assert bench.send(address, contradiction(26, FORKED_TREE).to_cell()).exit_code == Exit.OK
    assert bench.state(address).forked


def test_a_forked_log_does_not_rotate(bench: Bench) -> None:
    address = bench.contract(size=27)
    bench.send(address, contradiction(27, FORKED_TREE).to_cell())
    turned = bench.send(address, rotation(address, KEY, OTHER_KEY).to_cell())
    assert turned.exit_code == Exit.FORKED


def bad_rotations(address: str, other: str) -> dict[str, tuple[RotateMessage, Exit]]:
    good, third = rotation(address, KEY, OTHER_KEY), SigningKey(bytes([7]) * 32)
    return {
        "not signed by the log key": (rotation(address, third, OTHER_KEY), Exit.SIGNATURE),
        "signed for another contract": (rotation(other, KEY, OTHER_KEY), Exit.SIGNATURE),
        "the next key is not there": (
            replace(good, possession=third.sign(rotation_text(address, good.new_key)).signature),
            Exit.POSSESSION,
        ),
        "another key than was signed": (
            replace(good, new_key=bytes(third.verify_key)),
            Exit.SIGNATURE,
        ),
        "to the key that it has": (rotation(address, KEY, KEY), Exit.KEY),
        "a checkpoint's signature": (replace(good, signature=GOOD.signature), Exit.SIGNATURE),
    }


@pytest.mark.parametrize("name", bad_rotations("0:" + "0" * 64, "0:" + "1" * 64))
def test_bad_rotation(bench: Bench, name: str) -> None:
    address, other = bench.contract(size=28), bench.contract(size=29)
    message, expected = bad_rotations(address, other)[name]
    before = bench.chain.account(address).data
    assert bench.send(address, message.to_cell()).exit_code == expected
    assert bench.chain.account(address).data == before


def test_a_retired_key_never_comes_back(bench: Bench) -> None:
    address = bench.contract(size=30)
    there = rotation(address, KEY, OTHER_KEY)
    assert bench.send(address, there.to_cell()).exit_code == Exit.OK
    assert bench.send(address, rotation(address, OTHER_KEY, KEY).to_cell()).exit_code == Exit.KEY
    assert bench.send(address, there.to_cell()).exit_code == Exit.KEY


def test_sixteen_rotations_and_no_more(bench: Bench) -> None:
    address, keys = bench.contract(size=31), [KEY]
    keys += [SigningKey(bytes([100 + number]) * 32) for number in range(17)]
    for old, new in itertools.pairwise(keys[:17]):
        assert bench.send(address, rotation(address, old, new).to_cell()).exit_code == Exit.OK
    last = bench.send(address, rotation(address, keys[16], keys[17]).to_cell())
    assert last.exit_code == Exit.RETIRED_FULL
    state = bench.state(address)
    assert len(state.retired) == MAX_RETIRED and state.log_key == bytes(keys[16].verify_key)
    grown = bench.send(address, growth(31, 40, key=keys[16]).to_cell())
    assert grown.exit_code == Exit.OK


# ---- the event, the gas


def test_every_anchor_leaves_an_event(bench: Bench) -> None:
    address = bench.contract(size=32)
    bench.send(address, growth(32, 33).to_cell())
    (boc,) = bench.chain.transactions(address, limit=1)
    transaction = Transaction.deserialize(Cell.one_from_boc(boc).begin_parse())
    events = [message.body for message in transaction.out_msgs if message.is_external_out]
    state = bench.state(address)
    (event,) = (AnchoredEvent.from_cell(body) for body in events)
    assert event == AnchoredEvent(1, 33, TREE.root(33), state.time)


@pytest.mark.parametrize("pairs", [20, pytest.param(500, marks=pytest.mark.long)])
def test_a_proof_is_taken_and_a_corrupted_one_is_not(bench: Bench, pairs: int) -> None:
    rng = random.Random(pairs)
    for number in range(pairs):
        old = rng.randrange(1, 1 << rng.randrange(1, 41))
        new = old + rng.randrange(1, 1 << rng.randrange(1, 41))
        old_root, new_root, proof = synthetic(old, new, rng)
        address = bench.contract_at(old, old_root, f"many{pairs}.example/{number}")
        bad = list(proof)
        which = rng.randrange(len(bad))
        bad[which] = flipped(bad[which], rng.randrange(256))
        origin = f"many{pairs}.example/{number}"
        refused = bench.send(address, signed(new, new_root, bad, origin=origin).to_cell())
        assert refused.exit_code in (Exit.OLD_ROOT, Exit.NEW_ROOT), (old, new)
        grown = bench.send(address, signed(new, new_root, proof, origin=origin).to_cell())
        assert grown.exit_code == Exit.OK, (old, new)


MEASURED = {
    "anchor 876 million + 1667": (876_000_000, 876_001_667),
    "anchor 100000 + 1667": (100_000, 101_667),
    "anchor 5 + 4": (5, 9),
    "anchor 2^40 + 1": (1 << 40, (1 << 40) + 1),
    "anchor 2^40 - 1 + 2": ((1 << 40) - 1, (1 << 40) + 1),
}


@pytest.mark.parametrize("name", MEASURED)
def test_gas_is_as_recorded(bench: Bench, name: str) -> None:
    old, new = MEASURED[name]
    old_root, new_root, proof = synthetic(old, new, random.Random(3))
    address = bench.contract_at(old, old_root)
    outcome = bench.send(address, signed(new, new_root, proof).to_cell())
    gas.check("attestation_log", name, outcome.gas)


def test_an_anchor_at_876_million_is_within_its_target() -> None:
    assert gas.table("attestation_log")["anchor 876 million + 1667"] <= 36_000
