"""An account as a proven masterchain block has it.

Masterchain block → its state → the shard's block → that shard's state → the account; for an
account of the masterchain itself the first two alone. Every step is a Merkle proof under a
hash of the step before. "There is no such account" is proven the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytoniq_core import Cell, Slice

from attestation.errors import ParseError
from contracts.lite import proofs
from contracts.lite.links import MASTERCHAIN
from contracts.lite.proofs import ordinary, proven, refused
from contracts.lite.tl import BlockId

ACCOUNT_STATES = {"00": "uninitialized", "01": "frozen"}


@dataclass(frozen=True)
class AccountAnswer:
    """What a liteserver gives for an account: bags of cells; `state` is empty for an absent
    account, `shard_proof` for one of the masterchain."""

    shard_proof: bytes
    proof: bytes
    state: bytes


@dataclass(frozen=True)
class ProvenAccount:
    """`state` is "active", "frozen", "uninitialized" or "absent"; `utime` is the masterchain
    state's own time, Unix seconds; code and data are those of an active account."""

    state: str
    utime: int
    code: Cell | None = None
    data: Cell | None = None


def read_account(
    head: BlockId, answer: AccountAnswer, address: str, *, now: int, max_age_s: int
) -> ProvenAccount:
    """The account at `address` (raw) as the masterchain block `head`, itself proven, has it.

    Raises ParseError, or NotAuthentic("chain", …): "stale" where the block is older than
    `max_age_s` at `now`, "pruned" where data is left out, "other-root" for foreign proofs.
    """
    return proofs.reading(lambda: _read(head, answer, address, now, max_age_s))


def _read(
    head: BlockId, answer: AccountAnswer, address: str, now: int, max_age_s: int
) -> ProvenAccount:
    workchain, account_id = _address(address)
    if workchain == MASTERCHAIN:
        if answer.shard_proof:
            raise ParseError("account: expected no shard proof for the masterchain")
        state = _state_of(head.root_hash, answer.proof)
        utime = _utime(state)
    else:
        master = _state_of(head.root_hash, answer.shard_proof)
        utime = _utime(master)
        state = _state_of(_shard_root(master, workchain, account_id), answer.proof)
    if not now - max_age_s <= utime <= now + 60:
        raise refused(
            "stale", f"the block is of {utime}, expected at most {max_age_s} s before {now}"
        )
    return _account(state, account_id, workchain, answer.state, utime)


def _address(address: str) -> tuple[int, bytes]:
    workchain, _, account_id = address.partition(":")
    try:
        return int(workchain), bytes.fromhex(account_id)
    except ValueError:
        raise ParseError(f"address: expected workchain:hex, got {address}") from None


def _state_of(block_hash: bytes, boc: bytes) -> Cell:
    """The state after a block: two roots, a proof of the block and one of its state."""
    block_proof, state_proof = proofs.roots(boc, 2)
    block = proven(block_proof, block_hash)
    proofs.header_tag(block)
    return proven(state_proof, proofs.new_state_hash(block))


def _unsplit(state: Cell) -> tuple[Slice, int]:
    """shard_state#9023afe2 up to its time, and that time."""
    body = ordinary(state)
    proofs.tag(body, 32, 0x9023AFE2, "shard state")
    body.load_bits(32)
    proofs.shard_ident(body)
    body.load_bits(64)  # seq_no, vert_seq_no
    return body, body.load_uint(32)


def _utime(state: Cell) -> int:
    return _unsplit(state)[1]


def _shard_root(master: Cell, workchain: int, account_id: bytes) -> bytes:
    """The root hash of the shard block that the masterchain state names for this account."""
    extra = ordinary(master.refs[3])
    proofs.tag(extra, 16, 0xCC26, "masterchain state extra")
    if not extra.load_bit():
        raise refused("no-shard", "the masterchain names no shards")
    found = proofs.look_up(extra.load_ref(), f"{workchain & 0xFFFFFFFF:032b}")
    if found is None:
        raise refused("no-shard", f"the masterchain has no workchain {workchain}")
    leaf = _leaf(found.load_ref(), "".join(f"{byte:08b}" for byte in account_id))
    if leaf.load_uint(4) not in (0xA, 0xB):
        raise ParseError("shard: expected shard_descr")
    leaf.load_bits(32 + 32 + 64 + 64)  # seq_no, reg_mc_seqno, start_lt, end_lt
    root: bytes = leaf.load_bytes(32)
    return root


def _leaf(tree: Cell, key: str) -> Slice:
    """BinTree: bt_leaf$0, or bt_fork$1 with the shard's next bit."""
    body, depth = ordinary(tree), 0
    while body.load_bit():
        if depth == 60:
            raise ParseError("shards: expected a tree of at most 60 levels")
        left, right = body.load_ref(), body.load_ref()
        body, depth = ordinary(right if key[depth] == "1" else left), depth + 1
    return body


def _account(
    state: Cell, account_id: bytes, workchain: int, boc: bytes, utime: int
) -> ProvenAccount:
    accounts = ordinary(state.refs[1])
    key = "".join(f"{byte:08b}" for byte in account_id)
    entry = None
    if accounts.load_bit():
        entry = proofs.look_up(accounts.load_ref(), key, _skip_balance)
    if entry is None:
        if boc:
            raise refused("other-account", "the block has no such account, the answer has one")
        return ProvenAccount("absent", utime)
    named = entry.load_ref()
    (cell,) = proofs.roots(boc, 1)
    if cell.hash != named.get_hash(0):
        raise refused("other-account", "the account is not the one that the block has")
    return _contents(cell, workchain, account_id, utime)


def _skip_balance(body: Slice) -> None:
    """DepthBalanceInfo beside each account."""
    body.load_bits(5)
    proofs.skip_currency(body)


def _contents(cell: Cell, workchain: int, account_id: bytes, utime: int) -> ProvenAccount:
    """account$1: address, storage statistics, storage."""
    body = ordinary(cell)
    if not body.load_bit():
        return ProvenAccount("absent", utime)
    found = body.load_address()
    if found is None or (found.wc, found.hash_part) != (workchain, account_id):
        raise refused("other-account", "the account has another address")
    for _ in range(2):  # cells and bits used, VarUInteger 7
        body.load_bits(8 * body.load_uint(3))
    _skip_extra(body)
    body.load_bits(32)  # last paid
    if body.load_bit():
        body.load_coins()  # due payment
    body.load_bits(64)  # last transaction
    proofs.skip_currency(body)
    if not body.load_bit():
        return ProvenAccount(ACCOUNT_STATES["0" + str(int(body.load_bit()))], utime)
    return ProvenAccount("active", utime, *_code_and_data(body))


def _skip_extra(body: Slice) -> None:
    """StorageExtraInfo: none$000, or info$001 with a digest."""
    kind = body.load_uint(3)
    if kind == 1:
        body.load_bits(256)
    elif kind:
        raise ParseError("account: unknown storage statistics")


def _code_and_data(body: Slice) -> tuple[Cell | None, Cell | None]:
    """StateInit: both cells must be there whole, down to their last one."""
    if body.load_bit():
        body.load_bits(5)  # fixed prefix length
    if body.load_bit():
        body.load_bits(2)  # tick, tock
    code = body.load_ref() if body.load_bit() else None
    data = body.load_ref() if body.load_bit() else None
    for cell in (code, data):
        if cell is not None and cell.level_mask.mask:
            raise refused("pruned", "the answer leaves out a part of the account")
    return code, data
