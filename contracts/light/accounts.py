"""From a proven masterchain block to one account, through the answer of a lite server.

Plan:

1. the answer is about this head block;
2. the head's state is the one its state update leads to, and it is young enough;
3. for a basechain account, the head state's ShardHashes name the shard's last block, and that
   block leads to the shard's state; for a masterchain account, the head state is that state;
4. the dictionary of accounts has the account's hash, or the proof shows that it has no entry;
5. the account's cells have that hash, and their address is the requested one.

Source: TON crypto/block/block.tlb (ShardStateUnsplit, McStateExtra, ShardHashes,
ShardAccounts, Account), tl/generate/scheme/lite_api.tl (liteServer.accountState).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytoniq_core import Cell

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats.dates import in_future, too_old
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId, read_shard, same_block
from contracts.light.boc import MERKLE_UPDATE, read_bag, read_cell, write_bag
from contracts.light.cells import STEP, Reader, lookup, proof_root
from contracts.light.tl import TlReader

ACCOUNT_STATE = 0x7079C751
MAX_AHEAD = 60  # seconds a validator's clock may be ahead of the reader's

State = Literal["absent", "uninitialized", "frozen", "active"]


@dataclass(frozen=True)
class AccountAnswer:
    """liteServer.accountState: two block ids and three bags of cells."""

    block: BlockId
    shard_block: BlockId
    shard_proof: bytes
    proof: bytes
    state: bytes

    @classmethod
    def from_bytes(cls, answer: bytes) -> AccountAnswer:
        """Raises ParseError for anything else, trailing bytes included."""
        data = TlReader(answer, "account answer")
        data.expect(ACCOUNT_STATE)
        block, shard = BlockId.read(data), BlockId.read(data)
        parsed = cls(block, shard, data.blob(), data.blob(), data.blob())
        data.end()
        return parsed


@dataclass(frozen=True)
class ProvenAccount:
    """An account in the state of the head block.

    `code` and `data` are canonical bags of cells, empty unless active; balance in nano;
    read_at is the head's time (Unix seconds), seqno its number; `shard_block` is the last block of
    the account's own shard at that time.
    """

    address: str
    state: State
    balance: int
    code: bytes
    data: bytes
    read_at: int
    seqno: int
    shard_block: BlockId


@dataclass(frozen=True)
class ChainState:
    """A ShardStateUnsplit: its shard, number and time (Unix seconds), and the cells below it."""

    workchain: int
    shard: int
    seqno: int
    utime: int
    accounts: Cell
    custom: Cell | None


def read_account(
    head: BlockId, answer: bytes, address: str, *, max_age_s: int, now: int
) -> ProvenAccount:
    """The account at `address` (`workchain:hex`), proven by a liteServer.accountState in TL.

    `head` is a masterchain block known to be final; `now` is in Unix seconds. The state "absent"
    means that the chain provably has no such account. Raises ParseError for a malformed answer,
    NotAuthentic if a proof is not valid, Refused if the head is too old or in the future.
    """
    workchain, account_id = parse_address(address)
    given = AccountAnswer.from_bytes(answer)
    same_block(given.block, head, "answer")
    if workchain == MASTERCHAIN:
        top = state = _masterchain(given, head)
        shard_block = head
    else:
        top = _head_state(given.shard_proof, head)
        shard_block = find_shard(top, workchain, account_id)
        state = proven_state(given.proof, shard_block)
    check_age(top.utime, max_age_s, now)
    same_block(given.shard_block, shard_block, "answer's shard")
    cell = _account_cell(state, account_id, given.state)
    return _proven(cell, address, top, shard_block)


def proven_state(proof: bytes, block: BlockId) -> ChainState:
    """The state after `block`. `proof` is a bag with the two root cells of `state_after`."""
    first, second = read_bag(proof, roots=2)
    return state_after(first, second, block)


def state_after(first: Cell, second: Cell, block: BlockId) -> ChainState:
    """The state after `block`, from a proof of the block and a proof of that state.

    Raises ParseError, NotAuthentic.
    """
    root = Reader(proof_root(first, block.root_hash, "block"), "block").expect(0x11EF55AA, 32)
    root.ref(), root.ref()  # info, value flow
    update: Cell = root.ref()
    if update.type_ != MERKLE_UPDATE:
        raise NotAuthentic(
            STEP, "pruned", f"block {block}: expected its state update, got another cell"
        )
    new_hash = update.data[33:65]
    state = _read_state(proof_root(second, new_hash, "state"))
    got = (state.workchain, state.shard, state.seqno)
    if got != (block.workchain, block.shard, block.seqno):
        raise NotAuthentic(STEP, "other-header", f"state: expected the state of {block}, got {got}")
    return state


def find_shard(head: ChainState, workchain: int, account_id: bytes) -> BlockId:
    """The last block of the shard that has this account. Raises ParseError, NotAuthentic."""
    if head.custom is None:
        raise ParseError("state: expected a masterchain state, got one without its extra part")
    extra = Reader(head.custom, "masterchain state").expect(0xCC26, 16)
    shards = extra.maybe_ref()
    leaf = lookup(shards, workchain % (1 << 32), 32, "shards") if shards is not None else None
    if leaf is None:
        text = f"shards: expected the shards of workchain {workchain}, got no entry for it"
        raise NotAuthentic(STEP, "no-shard", text)
    node, path = Reader(leaf.ref(), "shards"), ""
    bits = f"{int.from_bytes(account_id):0256b}"
    while node.bit():
        if len(path) >= 60:
            raise ParseError("shards: expected at most 60 splits, got more")
        branches = node.ref(), node.ref()
        path = bits[: len(path) + 1]
        node = Reader(branches[int(path[-1])], "shards")
    return _shard_block(node, workchain, path)


def _shard_block(leaf: Reader, workchain: int, path: str) -> BlockId:
    """ShardDescr: the fields up to the hashes."""
    tag = leaf.uint(4)
    if tag not in (0xA, 0xB):
        raise ParseError(f"shards: expected a shard description, tag 0xa or 0xb, got {tag:#x}")
    seqno, _, _, _ = leaf.uint(32), leaf.uint(32), leaf.uint(64), leaf.uint(64)
    shard = int((path + "1").ljust(64, "0"), 2)
    return BlockId(workchain, shard, seqno, leaf.octets(32), leaf.octets(32))


def parse_address(address: str) -> tuple[int, bytes]:
    """Workchain and account id (32 bytes) of `workchain:hex`. Raises ParseError."""
    workchain, _, digits = address.partition(":")
    if workchain not in ("0", "-1") or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise ParseError(
            f"address: expected 0: or -1: followed by 64 lower-case hex digits, got {address!r}"
        )
    return int(workchain), bytes.fromhex(digits)


def check_age(utime: int, max_age_s: int, now: int) -> None:
    """Raises Refused if the head's time `utime` (Unix seconds) is too old or in the future."""
    if utime > now + MAX_AHEAD:
        raise Refused(STEP, "future-head", in_future("the chain's head", utime, now))
    if now - utime > max_age_s:
        text = too_old("the chain's head", utime, now, max_age_s)
        raise Refused(STEP, "stale-head", text)


def _head_state(proof: bytes, head: BlockId) -> ChainState:
    if (head.workchain, head.shard) != (MASTERCHAIN, WHOLE_SHARD):
        raise NotAuthentic(STEP, "other-chain", f"head: expected the masterchain, got {head}")
    return proven_state(proof, head)


def _masterchain(given: AccountAnswer, head: BlockId) -> ChainState:
    if given.shard_proof:
        raise ParseError(
            "answer: expected no shard proof for a masterchain account, got "
            f"{len(given.shard_proof)} bytes"
        )
    return _head_state(given.proof, head)


def _read_state(cell: Cell) -> ChainState:
    data = Reader(cell, "state").expect(0x9023AFE2, 32)
    data.uint(32)  # global id
    workchain, shard = read_shard(data)
    seqno, _, utime = data.uint(32), data.uint(32), data.uint(32)
    data.uint(64 + 32)  # logical time, least masterchain block referred to
    data.ref()  # queue of messages out
    data.uint(1)  # before_split
    accounts = data.ref()
    data.ref()  # balances, libraries, reference to the masterchain
    return ChainState(workchain, shard, seqno, utime, accounts, data.maybe_ref())


def _account_cell(state: ChainState, account_id: bytes, bag: bytes) -> Cell | None:
    """The account's cell, which has the hash in the state; None if the account is proven absent."""
    expected = _account_hash(state.accounts, account_id)
    if expected is None:
        if bag:
            text = f"account: the state has no such account, but the answer has {len(bag)} bytes"
            raise NotAuthentic(STEP, "other-account", text)
        return None
    if not bag:
        text = f"account: expected cells with hash {expected.hex()}, got an empty answer"
        raise NotAuthentic(STEP, "no-account", text)
    cell = read_cell(bag)
    if cell.hash != expected:
        text = f"account: expected cells with hash {expected.hex()}, got {cell.hash.hex()}"
        raise NotAuthentic(STEP, "other-account", text)
    return cell


def _account_hash(accounts: Cell, account_id: bytes) -> bytes | None:
    root = Reader(accounts, "accounts").maybe_ref()
    if root is None:
        return None
    leaf = lookup(root, int.from_bytes(account_id), 256, "accounts")
    if leaf is None:
        return None
    leaf.uint(5)  # DepthBalanceInfo: split depth and balance
    leaf.currency()
    digest: bytes = leaf.ref().get_hash(0)
    return digest


def _proven(
    cell: Cell | None, address: str, top: ChainState, shard_block: BlockId
) -> ProvenAccount:
    found: tuple[State, int, bytes, bytes] = ("absent", 0, b"", b"")
    if cell is not None:
        data = Reader(cell, "account")
        if data.bit():
            found = _contents(data, address)
        else:
            data.end()  # account_none
    return ProvenAccount(address, *found, top.utime, top.seqno, shard_block)


def _contents(data: Reader, address: str) -> tuple[State, int, bytes, bytes]:
    """State, balance, code and data, behind the first bit of an Account."""
    data.expect(0b100, 3)  # addr_std without anycast
    got = f"{data.signed(8)}:{data.octets(32).hex()}"
    if got != address:
        text = f"account: expected the address {address}, got {got}"
        raise NotAuthentic(STEP, "other-account", text)
    data.var_uint(3), data.var_uint(3)  # cells and bits in use
    _skip_extra(data)
    data.uint(32)  # last paid
    if data.bit():
        data.var_uint(4)  # due
    data.uint(64)  # logical time of the last transaction
    balance = data.currency()
    if not data.bit():
        state: State = "frozen" if data.bit() else "uninitialized"
        return state, balance, b"", b""
    return "active", balance, *_state_init(data)


def _skip_extra(data: Reader) -> None:
    """StorageExtraInfo: none, or the hash of a dictionary."""
    tag = data.uint(3)
    if tag > 1:
        raise ParseError(f"account: expected storage extra 0 or 1, got {tag}")
    data.octets(32 * tag)


def _state_init(data: Reader) -> tuple[bytes, bytes]:
    if data.bit():
        data.uint(5)  # fixed prefix length
    if data.bit():
        data.uint(2)  # tick, tock
    code, stored = data.maybe_ref(), data.maybe_ref()
    data.maybe_ref()  # libraries
    data.end()
    return (
        write_bag([code]) if code is not None else b"",
        write_bag([stored]) if stored is not None else b"",
    )
