"""A small TON chain of our own validators: key blocks, links in both forms, an account.

Everything is built as the network builds it, but for what no proof looks at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from nacl.signing import SigningKey
from pytoniq_core import Address, Builder, Cell, HashMap, begin_cell

from contracts.lite import links, tl
from contracts.lite.accounts import AccountAnswer
from contracts.lite.tl import BlockId

NOW = 1_795_000_000
KEYS = tuple(SigningKey(bytes([number + 1]) * 32) for number in range(5))
WEIGHTS = (30, 20, 20, 20, 10)
ACCOUNT = "0:" + "5a" * 32
EMPTY = begin_cell().end_cell()
SESSION = b"\x77" * 32


def short_id(key: SigningKey) -> bytes:
    return hashlib.sha256(links.PUBLIC_KEY.to_bytes(4, "little") + bytes(key.verify_key)).digest()


def validator_set(weights: tuple[int, ...] = WEIGHTS, main: int = len(KEYS)) -> Cell:
    listed = HashMap(16)
    for number, (key, weight) in enumerate(zip(KEYS, weights, strict=True)):
        descriptor = begin_cell().store_uint(0x53, 8).store_uint(0x8E81278A, 32)
        descriptor.store_bytes(bytes(key.verify_key)).store_uint(weight, 64)
        listed.set(number, descriptor.end_cell())
    body = begin_cell().store_uint(0x12, 8).store_uint(0, 64).store_uint(len(KEYS), 16)
    body.store_uint(main, 16).store_uint(sum(weights), 64)
    return body.store_dict(listed.serialize()).end_cell()


def config(weights: tuple[int, ...] = WEIGHTS) -> Cell:
    params = HashMap(32)
    catchain = begin_cell().store_uint(0xC2, 8).store_uint(1, 8).end_cell()
    for number, cell in ((28, catchain), (34, validator_set(weights))):
        params.set(number, begin_cell().store_ref(cell).end_cell())
    found = params.serialize()
    assert found is not None
    return found


def currency(body: Builder) -> Builder:
    return body.store_coins(0).store_bit(0)


def exotic(kind: int, content: bytes, refs: list[Cell]) -> Cell:
    bits = begin_cell().store_uint(kind, 8).store_bytes(content).end_cell().bits
    return Cell(bits, refs, kind)


def merkle_proof(cell: Cell) -> Cell:
    return exotic(3, cell.get_hash(0) + cell.get_depth(0).to_bytes(2), [cell])


def pruned(cell: Cell) -> Cell:
    return exotic(1, b"\1" + cell.get_hash(0) + cell.get_depth(0).to_bytes(2), [])


def update(new: Cell) -> Cell:
    hashes = EMPTY.get_hash(0) + new.get_hash(0)
    depths = EMPTY.get_depth(0).to_bytes(2) + new.get_depth(0).to_bytes(2)
    return exotic(4, hashes + depths, [EMPTY, new])


def block(
    seqno: int,
    *,
    key: bool = True,
    utime: int = NOW,
    workchain: int = -1,
    state: Cell = EMPTY,
    weights: tuple[int, ...] = WEIGHTS,
) -> Cell:
    info = begin_cell().store_uint(0x9BC7A987, 32).store_uint(0, 32)
    info.store_bits("000000" + str(int(key)) + "0").store_uint(0, 8).store_uint(seqno, 32)
    info.store_uint(0, 32).store_uint(0, 8).store_int(workchain, 32).store_uint(0, 64)
    info.store_uint(utime, 32)
    custom = begin_cell().store_uint(0xCCA5, 16).store_bit(int(key)).store_bit(0).store_bit(0)
    currency(currency(custom)).store_ref(EMPTY)
    if key:
        custom.store_bytes(bytes(32)).store_ref(config(weights))
    extra = begin_cell().store_uint(0x4A33F6FD, 32).store_ref(EMPTY).store_ref(EMPTY)
    extra.store_ref(EMPTY).store_bytes(bytes(64)).store_bit(1).store_ref(custom.end_cell())
    whole = begin_cell().store_uint(0x11EF55AA, 32).store_int(-239, 32)
    whole.store_ref(info.end_cell()).store_ref(EMPTY).store_ref(update(state))
    return whole.store_ref(extra.end_cell()).end_cell()


def block_id(cell: Cell, seqno: int, workchain: int = -1) -> BlockId:
    root: bytes = cell.get_hash(0)
    return BlockId(workchain, 1 << 63, seqno, root, hashlib.sha256(root).digest())


@dataclass(frozen=True)
class Link:
    """One forward link, each part to be changed by a test before it is written."""

    source: BlockId
    target: BlockId
    target_proof: bytes
    config_proof: bytes
    signatures: tuple[tuple[bytes, bytes], ...]
    to_key_block: bool = True
    session: bytes | None = None
    slot: int = 9
    candidate: bytes = b""

    def set_bytes(self) -> bytes:
        simplex = self.session is not None
        kind = tl.SIGNATURES_SIMPLEX if simplex else tl.SIGNATURES
        head = kind.to_bytes(4, "little") + bytes(8) + len(self.signatures).to_bytes(4, "little")
        pairs = b"".join(name + tl.write_bytes(value) for name, value in self.signatures)
        tail = (self.session or b"") + self.slot.to_bytes(4, "little")
        return head + pairs + (tail + tl.write_bytes(self.candidate) if simplex else b"")

    def to_bytes(self) -> bytes:
        flag = tl.BOOL_TRUE if self.to_key_block else tl.BOOL_FALSE
        ends = self.source.to_tl() + self.target.to_tl()
        head = tl.LINK_FORWARD.to_bytes(4, "little") + flag.to_bytes(4, "little") + ends
        proofs = tl.write_bytes(self.target_proof) + tl.write_bytes(self.config_proof)
        return head + proofs + self.set_bytes()


def candidate_of(target: BlockId) -> bytes:
    head = links.CANDIDATE.to_bytes(4, "little") + target.to_tl() + bytes(32)
    return head + links.NO_PARENT.to_bytes(4, "little")


def sign(link: Link, signers: tuple[SigningKey, ...]) -> Link:
    """The link signed by these, over what it says now."""
    given = tl.SignatureSet((), link.session, link.slot, link.candidate)
    payload = links.signed_payload(link.target, given)
    return replace(
        link, signatures=tuple((short_id(key), key.sign(payload).signature) for key in signers)
    )


def link(
    source: Cell,
    target: Cell,
    seqnos: tuple[int, int] = (1, 5),
    *,
    simplex: bool = False,
    signers: tuple[SigningKey, ...] = KEYS[:4],
    to_key_block: bool = True,
) -> Link:
    """A genuine link between two blocks; it holds unless `signers` are too few."""
    start, end = block_id(source, seqnos[0]), block_id(target, seqnos[1])
    made = Link(
        start,
        end,
        merkle_proof(target).to_boc(),
        merkle_proof(source).to_boc(),
        (),
        to_key_block,
        SESSION if simplex else None,
        candidate=candidate_of(end) if simplex else b"",
    )
    return sign(made, signers)


def answer(*steps: Link) -> bytes:
    head = tl.PARTIAL_PROOF.to_bytes(4, "little") + tl.BOOL_TRUE.to_bytes(4, "little")
    head += steps[0].source.to_tl() + steps[-1].target.to_tl()
    return head + len(steps).to_bytes(4, "little") + b"".join(one.to_bytes() for one in steps)


# ---- an account


def account(code: Cell, data: Cell, address: str = ACCOUNT) -> Cell:
    body = begin_cell().store_bit(1).store_address(Address(address)).store_uint(0, 9)
    body.store_uint(0, 32).store_bit(0).store_uint(7, 64)
    currency(body).store_bit(1).store_bits("00").store_bit(1).store_ref(code).store_bit(1)
    return body.store_ref(data).store_bit(0).end_cell()


def shard_state(accounts: Cell | None, *, utime: int = NOW, custom: Cell | None = None) -> Cell:
    held = begin_cell().store_bit(int(accounts is not None))
    if accounts is not None:
        held.store_ref(accounts)
    body = begin_cell().store_uint(0x9023AFE2, 32).store_int(-239, 32)
    body.store_uint(0, 8).store_int(0, 32).store_uint(0, 64)
    body.store_uint(8, 32).store_uint(0, 32).store_uint(utime, 32).store_uint(0, 96)
    body.store_ref(EMPTY).store_bit(0).store_ref(held.end_cell()).store_ref(EMPTY)
    return body.store_maybe_ref(custom).end_cell()


def accounts_of(cell: Cell, address: str = ACCOUNT) -> Cell:
    """ShardAccounts of one account: a single edge with a long label."""
    edge = begin_cell().store_bits("10").store_uint(256, 9)
    edge.store_bytes(bytes.fromhex(address.partition(":")[2])).store_uint(0, 5)
    return currency(edge).store_ref(cell).store_bytes(bytes(32)).store_uint(7, 64).end_cell()


def master_state(shard_root: bytes, *, utime: int = NOW) -> Cell:
    leaf = begin_cell().store_bit(0).store_uint(0xB, 4).store_bytes(bytes(24))
    leaf.store_bytes(shard_root)
    shards = HashMap(32)
    shards.set(0, begin_cell().store_ref(leaf.end_cell()).end_cell())
    extra = begin_cell().store_uint(0xCC26, 16).store_dict(shards.serialize())
    return shard_state(None, utime=utime, custom=extra.end_cell())


@dataclass(frozen=True)
class Read:
    """A head and the answer that proves an account under it."""

    head: BlockId
    answer: AccountAnswer


def read(
    cell: Cell | None, *, named: Cell | None = None, address: str = ACCOUNT, utime: int = NOW
) -> Read:
    """`cell` is what the answer carries, `named` what the state has (the same unless said)."""
    held = named if named is not None else cell
    state = shard_state(accounts_of(held, address) if held is not None else None)
    shard = block(8, key=False, workchain=0, state=state)
    master = master_state(shard.get_hash(0), utime=utime)
    top = block(20, key=False, state=master)
    return Read(
        block_id(top, 20),
        AccountAnswer(two(top, master), two(shard, state), cell.to_boc() if cell else b""),
    )


def head_block(cell: Cell, *, address: str = ACCOUNT, utime: int = NOW) -> Cell:
    """The masterchain block under which `read` proves this account."""
    state = shard_state(accounts_of(cell, address))
    shard = block(8, key=False, workchain=0, state=state)
    return block(20, key=False, state=master_state(shard.get_hash(0), utime=utime))


def two(first: Cell, second: Cell) -> bytes:
    """A bag of cells with two roots, Merkle proofs of these."""
    tops = [merkle_proof(first), merkle_proof(second)]
    after = dict.fromkeys(cell for top in tops for cell in _below(top))
    cells = list(reversed(after))  # every cell before those it refers to
    index = {cell: number for number, cell in enumerate(cells)}
    content = b"".join(bytes(cell.serialize(index, 2)) for cell in cells)
    head = bytes.fromhex("b5ee9c72") + bytes([2, 4])
    counts = [len(cells), 2, 0]
    numbers = b"".join(count.to_bytes(2) for count in counts) + len(content).to_bytes(4)
    return head + numbers + b"".join(index[top].to_bytes(2) for top in tops) + content


def _below(cell: Cell) -> list[Cell]:
    """The cells of a tree, each after all below it."""
    return [one for ref in cell.refs for one in _below(ref)] + [cell]
