"""A small TON: validators with keys, key blocks, states with accounts, and proofs of them.

Everything is built bit by bit from the schema, with no line of the code under test but its
dataclasses and its canonical bag of cells. Blocks are as thin as the schema allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from bitarray import bitarray
from nacl.signing import SigningKey
from pytoniq_core import Cell

from contracts.light.accounts import AccountAnswer
from contracts.light.back import BackLink
from contracts.light.blocks import BlockId, short_id
from contracts.light.boc import write_bag
from contracts.light.links import ForwardLink, SignatureSet, Simplex

WHOLE = 1 << 63
BEFORE = 60  # seconds from block 150 to the head
UTIME = 1_800_000_000
VALIDATOR_HASH, CATCHAIN = 0x1234, 77
SESSION, SLOT = b"\x5e" * 32, (3000).to_bytes(4, "little")
LOG_ADDRESS, ABSENT = "0:" + "c1" * 32, "0:" + "d7" * 32
Leaf = tuple[str, tuple[Cell, ...]]


def uint(value: int, bits: int) -> str:
    return f"{value % (1 << bits):0{bits}b}" if bits else ""


def octets(data: bytes) -> str:
    return uint(int.from_bytes(data), 8 * len(data))


def cell(bits: str, *refs: Cell, kind: int = -1) -> Cell:
    return Cell(bitarray(bits), list(refs), kind)


def stuff(name: str) -> Cell:
    """A cell whose content matters to nobody here."""
    return cell(octets(hashlib.sha256(name.encode()).digest()))


def pruned(of: Cell) -> Cell:
    return cell(octets(b"\1\1" + of.get_hash(0) + of.get_depth(0).to_bytes(2)), kind=1)


def merkle_proof(root: Cell, cut: Collection[Cell]) -> Cell:
    """A proof of everything under `root` but the cells in `cut`."""
    hashes = {one.hash for one in cut}

    def left(one: Cell) -> Cell:
        if one.hash in hashes:
            return pruned(one)
        return one if one.is_exotic else Cell(one.bits, [left(r) for r in one.refs], one.type_)

    text = b"\3" + root.hash + root.get_depth(0).to_bytes(2)
    return cell(octets(text), left(root), kind=3)


def merkle_update(old: Cell, new: Cell) -> Cell:
    text = b"\4" + old.hash + new.hash
    text += old.get_depth(0).to_bytes(2) + new.get_depth(0).to_bytes(2)
    return cell(octets(text), pruned(old), pruned(new), kind=4)


def hashmap(entries: Mapping[str, Leaf], room: int, extra: str = "") -> Cell:
    """Hashmap, or HashmapAug where forks have `extra` (leaves bring theirs)."""
    low, high = min(entries), max(entries)
    size = next((i for i, bit in enumerate(low) if bit != high[i]), len(low))
    label = low[:size]
    bits = "10" + uint(len(label), room.bit_length()) + label
    if len(label) == room:
        leaf, refs = entries[label]
        return cell(bits + leaf, *refs)
    at = len(label)
    sides = [{k[at + 1 :]: v for k, v in entries.items() if k[at] == side} for side in "01"]
    return cell(bits + extra, *(hashmap(side, room - at - 1, extra) for side in sides))


def shard_ident(workchain: int, shard: int) -> str:
    size = 63 - (shard & -shard).bit_length() + 1
    return "00" + uint(size, 6) + uint(workchain, 32) + uint(shard & (shard - 1), 64)


@dataclass(frozen=True)
class Made:
    """A block as it was made; `cut` is what its thin proofs leave out."""

    cell: Cell
    block: BlockId
    cut: tuple[Cell, ...]

    def header_proof(self) -> bytes:
        return write_bag([merkle_proof(self.cell, (*self.cut, *self.cell.refs[2:]))])

    def config_proof(self, *more: Cell) -> bytes:
        return write_bag([merkle_proof(self.cell, (*self.cut, self.cell.refs[2], *more))])


@dataclass(frozen=True)
class Validator:
    key: SigningKey
    weight: int

    @cached_property
    def public(self) -> bytes:
        return bytes(self.key.verify_key)


def validator_set(validators: Sequence[Validator], main: int) -> Cell:
    leaves: dict[str, Leaf] = {
        uint(i, 16): ("01010011" + uint(0x8E81278A, 32) + octets(v.public) + uint(v.weight, 64), ())
        for i, v in enumerate(validators)
    }
    total = sum(v.weight for v in validators)
    head = uint(0x12, 8) + uint(UTIME, 32) + uint(UTIME + 65536, 32)
    head += uint(len(validators), 16) + uint(main, 16) + uint(total, 64)
    return cell(head + "1", hashmap(leaves, 16))


def make_block(
    seqno: int,
    *,
    config: Mapping[int, Cell] | None = None,
    state: Cell | None = None,
    workchain: int = -1,
    shard: int = WHOLE,
    utime: int = UTIME,
) -> Made:
    """A block; a key block where it has a configuration."""
    info = uint(0x9BC7A987, 32) + uint(0, 32) + uint(workchain != -1, 1) + "00000"
    info += uint(config is not None, 1) + "0" + uint(0, 8) + uint(seqno, 32) + uint(0, 32)
    info += shard_ident(workchain, shard) + uint(utime, 32) + uint(0, 128)
    info += uint(VALIDATOR_HASH, 32) + uint(CATCHAIN, 32) + uint(0, 64)
    cut = tuple(stuff(f"{name} {seqno}") for name in ("flow", "in", "out", "accounts"))
    update = merkle_update(stuff(f"state before {seqno}"), state or stuff(f"state {seqno}"))
    extra = cell(
        uint(0x4A33F6FD, 32) + uint(0, 512) + "1", *cut[1:], _masterchain_extra(seqno, config)
    )
    block = uint(0x11EF55AA, 32) + uint(-3, 32)
    root = cell(block, cell(info, stuff(f"previous {seqno}")), cut[0], update, extra)
    file_hash = hashlib.sha256(b"file" + root.hash).digest()
    return Made(root, BlockId(workchain, shard, seqno, root.hash, file_hash), cut)


def _masterchain_extra(seqno: int, config: Mapping[int, Cell] | None) -> Cell:
    fees = "0" + "00000" * 2
    bits, refs = uint(0xCCA5, 16) + uint(config is not None, 1) + "0" + fees, [stuff(f"s {seqno}")]
    if config is None:
        return cell(bits, *refs)
    params = {uint(n, 32): ("", (value,)) for n, value in config.items()}
    return cell(bits + octets(b"\x55" * 32), *refs, hashmap(params, 32))


def account_cell(address: str, code: Cell, data: Cell) -> Cell:
    """An active account with a balance of 200 nano."""
    workchain, _, digits = address.partition(":")
    bits = "1" + "100" + uint(int(workchain), 8) + octets(bytes.fromhex(digits))
    bits += ("001" + uint(5, 8)) * 2 + "000" + uint(UTIME, 32) + "0"
    bits += uint(9, 64) + "0001" + uint(200, 8) + "0" + "1" + "00110"
    return cell(bits, code, data)


def shard_state(
    seqno: int,
    accounts: Mapping[str, Cell],
    *,
    workchain: int = 0,
    shard: int = WHOLE,
    utime: int = UTIME,
    custom: Cell | None = None,
) -> Cell:
    extra = uint(0, 5) + "0000" + "0"
    leaves: dict[str, Leaf] = {
        octets(bytes.fromhex(address.partition(":")[2])): (extra + uint(7, 320), (one,))
        for address, one in accounts.items()
    }
    table = cell("1" + extra, hashmap(leaves, 256, extra)) if leaves else cell("0" + extra)
    bits = uint(0x9023AFE2, 32) + uint(-3, 32) + shard_ident(workchain, shard) + uint(seqno, 32)
    bits += uint(0, 32) + uint(utime, 32) + uint(0, 96) + "0" + uint(custom is not None, 1)
    tail = (custom,) if custom is not None else ()
    return cell(bits, stuff("queue"), table, stuff("sums"), *tail)


def shard_tree(left: BlockId, right: BlockId) -> Cell:
    """ShardHashes with one workchain in two shards."""

    def leaf(block: BlockId) -> Cell:
        bits = "0" + uint(0xB, 4) + uint(block.seqno, 32) + uint(0, 160)
        return cell(bits + octets(block.root_hash) + octets(block.file_hash) + uint(0, 64))

    return hashmap({uint(0, 32): ("", (cell("1", leaf(left), leaf(right)),))}, 32)


def masterchain_extra(
    shards: Cell, old: Sequence[Made] = (), key_blocks: Sequence[int] = ()
) -> Cell:
    """McStateExtra: the shards, a configuration, and the old blocks."""

    def entry(made: Made) -> Leaf:
        block, key = made.block, uint(made.block.seqno in key_blocks, 1)
        bits = key + uint(9, 64) + key + uint(9, 64) + uint(block.seqno, 32)
        return bits + octets(block.root_hash) + octets(block.file_hash), ()

    extra = "1" + uint(9, 64)
    known = {uint(made.block.seqno, 32): entry(made) for made in old}
    bits = uint(0, 16) + uint(0, 65) + uint(bool(known), 1) + extra + "00"
    rest = cell(bits, *([hashmap(known, 32, extra)] if known else []))
    head = uint(0xCC26, 16) + "1" + octets(b"\x55" * 32) + "00000"
    return cell(head, shards, stuff("configuration"), rest)


@dataclass
class TonChain:
    """Key block 100, block 150, key block 200 and head 210; three shards' worth of accounts.

    Ten validators of weight 10; the first `main_count` are the masterchain's.
    """

    data: Cell = field(default_factory=lambda: stuff("data"))
    code: Cell = field(default_factory=lambda: stuff("code"))
    utime: int = UTIME
    main_count: int = 8

    def __post_init__(self) -> None:
        seeds = (hashlib.sha256(bytes([i])).digest() for i in range(10))
        self.validators = [Validator(SigningKey(seed), 10) for seed in seeds]
        self.main = self.validators[: self.main_count]
        self.first = make_block(100, config=self.config())
        self.middle = make_block(150, utime=self.utime - BEFORE)
        self.second_state = shard_state(
            200,
            {},
            workchain=-1,
            custom=masterchain_extra(stuff("shards"), (self.first, self.middle), (100,)),
        )
        self.second = make_block(200, config=self.config(), state=self.second_state)
        self.account = account_cell(LOG_ADDRESS, self.code, self.data)
        self.other = account_cell("0:" + "e1" * 32, stuff("other code"), stuff("other data"))
        self.config_account = account_cell("-1:" + "55" * 32, self.code, self.data)
        self._make_states()

    def _make_states(self) -> None:
        accounts = {LOG_ADDRESS: self.account, "0:" + "e1" * 32: self.other}
        high = 0xC << 60
        self.shard_state = shard_state(50, accounts, shard=high)
        self.shard = make_block(50, state=self.shard_state, workchain=0, shard=high)
        low = make_block(49, workchain=0, shard=1 << 62)
        self.state = shard_state(
            210,
            {"-1:" + "55" * 32: self.config_account},
            workchain=-1,
            utime=self.utime,
            custom=masterchain_extra(shard_tree(low.block, self.shard.block)),
        )
        self.head = make_block(210, state=self.state, utime=self.utime)

    def config(self) -> dict[int, Cell]:
        catchain = cell(uint(0xC2, 8) + uint(1, 8) + uint(250, 128))
        return {28: catchain, 34: validator_set(self.validators, self.main_count)}

    def sign(self, text: bytes, who: Sequence[Validator]) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((short_id(v.public), v.key.sign(text).signature) for v in who)

    def link(
        self, source: Made, target: Made, *, simplex: bool = False, signers: int = 6
    ) -> ForwardLink:
        signed = self.simplex(target.block) if simplex else self.ordinary(target.block)
        is_key = target in (self.first, self.second)
        signed = replace(signed, signatures=signed.signatures[:signers])
        return ForwardLink(
            is_key,
            source.block,
            target.block,
            target.header_proof(),
            source.config_proof(),
            signed,
        )

    def back(self, target: Made, *, source: Made | None = None) -> BackLink:
        """From key block 200, as a lite server proves an old block."""
        source = source or self.second
        thin = merkle_proof(source.cell, (*source.cut, source.cell.refs[0], source.cell.refs[3]))
        state = merkle_proof(self.second_state, self.second_state.refs[:3])
        return BackLink(
            target is self.first,
            source.block,
            target.block,
            target.header_proof(),
            write_bag([thin]),
            write_bag([state]),
        )

    def ordinary(self, target: BlockId, who: Sequence[Validator] | None = None) -> SignatureSet:
        text = bytes.fromhex("706e0bc5") + target.root_hash + target.file_hash
        pairs = self.sign(text, who or self.main)
        return SignatureSet(VALIDATOR_HASH, CATCHAIN, pairs, None)

    def simplex(
        self, target: BlockId, *, named: BlockId | None = None, empty: bool = False
    ) -> SignatureSet:
        """`named` is the block the candidate says, where it is not the target."""
        text = candidate(named or target, empty=empty)
        vote = bytes.fromhex("05e1a740" + "3fcd91b6") + SLOT + hashlib.sha256(text).digest()
        signed = bytes.fromhex("f83de3a8") + SESSION + tl_blob(vote)
        pairs = self.sign(signed, self.main)
        return SignatureSet(VALIDATOR_HASH, CATCHAIN, pairs, Simplex(SESSION, SLOT, text))

    def answer(self, address: str = LOG_ADDRESS) -> AccountAnswer:
        """What an honest lite server says about this account at the head."""
        if address.startswith("-1:"):
            proof = self._state_proof(self.head, self.state)
            return AccountAnswer(
                self.head.block, self.head.block, b"", proof, write_bag([self.config_account])
            )
        state = {LOG_ADDRESS: self.account, "0:" + "e1" * 32: self.other}.get(address)
        return AccountAnswer(
            self.head.block,
            self.shard.block,
            self._state_proof(self.head, self.state),
            self._state_proof(self.shard, self.shard_state),
            b"" if state is None else write_bag([state]),
        )

    def _state_proof(self, block: Made, state: Cell, *cut: Cell) -> bytes:
        thin = merkle_proof(block.cell, (*block.cut, block.cell.refs[0], block.cell.refs[3]))
        out = (state.refs[0], state.refs[2], self.account, self.other, self.config_account, *cut)
        return write_bag([thin, merkle_proof(state, out)])


def candidate(block: BlockId, *, empty: bool = False) -> bytes:
    if empty:
        return bytes.fromhex("33d9b472") + block.to_bytes() + SLOT + b"\7" * 32
    parent = bytes.fromhex("f19a4b1a" + "3fcd91b6") + SLOT + b"\7" * 32
    return bytes.fromhex("dcbcf9e8") + block.to_bytes() + b"\6" * 32 + parent


def tl_blob(data: bytes) -> bytes:
    head = bytes([len(data)]) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def tl_bool(value: bool) -> bytes:
    return bytes.fromhex("b5757299" if value else "379779bc")


def tl_int(value: int) -> bytes:
    return value.to_bytes(4, "little")


def set_bytes(signed: SignatureSet) -> bytes:
    pairs = b"".join(who + tl_blob(signature) for who, signature in signed.signatures)
    pairs = tl_int(len(signed.signatures)) + pairs
    whose, when = tl_int(signed.validator_hash), tl_int(signed.catchain_seqno)
    if signed.simplex is None:
        return bytes.fromhex("e6a644f6") + whose + when + pairs
    vote = signed.simplex
    tail = vote.session + vote.slot + tl_blob(vote.candidate)
    return bytes.fromhex("009824ac") + when + whose + pairs + tail


def link_bytes(link: ForwardLink) -> bytes:
    head = bytes.fromhex("1cce0f52") + tl_bool(link.to_key_block)
    ends = link.source.to_bytes() + link.target.to_bytes()
    return (
        head + ends + tl_blob(link.dest_proof) + tl_blob(link.config_proof)
        + set_bytes(link.signatures)
    )  # fmt: skip


def back_bytes(link: BackLink) -> bytes:
    """A partialBlockProof of this one link."""
    ends = link.source.to_bytes() + link.target.to_bytes()
    head = bytes.fromhex("c1d2d08e") + tl_bool(True) + ends + tl_int(1)
    blobs = (link.dest_proof, link.proof, link.state_proof)
    return (
        head
        + bytes.fromhex("ef1b7eef")
        + tl_bool(link.to_key_block)
        + ends
        + b"".join(map(tl_blob, blobs))
    )


def header_bytes(made: Made) -> bytes:
    """liteServer.blockHeader."""
    return (
        bytes.fromhex("19822d75") + made.block.to_bytes() + tl_int(1) + tl_blob(made.header_proof())
    )


def proof_bytes(*links: ForwardLink, complete: bool = True) -> bytes:
    ends = links[0].source.to_bytes() + links[-1].target.to_bytes()
    head = bytes.fromhex("c1d2d08e") + tl_bool(complete) + ends
    return head + tl_int(len(links)) + b"".join(link_bytes(link) for link in links)


def answer_bytes(answer: AccountAnswer) -> bytes:
    head = bytes.fromhex("51c77970") + answer.block.to_bytes() + answer.shard_block.to_bytes()
    return head + b"".join(tl_blob(b) for b in (answer.shard_proof, answer.proof, answer.state))
