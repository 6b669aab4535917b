"""Blocks: their identity, the header fields that matter here, and the signers of later blocks.

Invariant: everything is read from cells under a hash that the caller already trusts.
Source: TON crypto/block/block.tlb (Block, BlockInfo, McBlockExtra, ConfigParam 28, 34),
tl/generate/scheme/ton_api.tl (tonNode.blockIdExt).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pytoniq_core import Cell

from attestation.errors import NotAuthentic, ParseError
from contracts.light.boc import read_bag
from contracts.light.cells import STEP, Reader, items, lookup, proof_root
from contracts.light.tl import TlReader

MASTERCHAIN = -1
WHOLE_SHARD = 1 << 63
BLOCK_HEADER = 0x752D8219
MAX_VALIDATORS = 1024  # the configuration's own limit is below; mainnet has some 400
ED25519_TAG = bytes.fromhex("c6b41348")  # pub.ed25519 key:int256 = PublicKey


@dataclass(frozen=True)
class BlockId:
    """tonNode.blockIdExt, 80 bytes: shard is the unsigned 64-bit form, hashes are 32 bytes.

    root_hash is that of the block's cell, file_hash the SHA-256 of its bytes.
    """

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes

    @classmethod
    def read(cls, data: TlReader) -> BlockId:
        workchain, shard, seqno = data.int32(), data.uint(8), data.uint()
        return cls(workchain, shard, seqno, data.take(32), data.take(32))

    def to_bytes(self) -> bytes:
        place = self.workchain.to_bytes(4, "little", signed=True) + self.shard.to_bytes(8, "little")
        return place + self.seqno.to_bytes(4, "little") + self.root_hash + self.file_hash

    def __str__(self) -> str:
        return f"({self.workchain},{self.shard:016x},{self.seqno}):{self.root_hash.hex()}"


@dataclass(frozen=True)
class BlockHeader:
    """Fields of BlockInfo. utime is Unix seconds; validator_hash and catchain_seqno identify the
    session that signed the block."""

    workchain: int
    shard: int
    seqno: int
    utime: int
    key_block: bool
    validator_hash: int
    catchain_seqno: int


@dataclass(frozen=True)
class Validators:
    """Ed25519 key (32 bytes) and weight of each signer of masterchain blocks, by short id; `total`
    is the sum of the weights."""

    members: dict[bytes, tuple[bytes, int]]
    total: int


def short_id(key: bytes) -> bytes:
    """SHA-256 (32 bytes) of a public key in TL form."""
    return hashlib.sha256(ED25519_TAG + key).digest()


def read_header(block: Cell) -> BlockHeader:
    """The header of a Block cell. Raises ParseError, and NotAuthentic if the header is pruned."""
    root = Reader(block, "block").expect(0x11EF55AA, 32)
    info = Reader(root.ref(), "block info").expect(0x9BC7A987, 32)
    info.uint(32)  # version
    not_master = info.bit()
    info.uint(5)  # after_merge, before_split, after_split, want_split, want_merge
    key_block = info.bit()
    info.uint(1 + 8)  # vert_seqno_incr, flags
    seqno, _ = info.uint(32), info.uint(32)
    workchain, shard = read_shard(info)
    utime, _, _ = info.uint(32), info.uint(64), info.uint(64)
    if not_master != (workchain != MASTERCHAIN):
        raise ParseError(
            f"block info: not_master is {not_master}, which does not fit workchain {workchain}"
        )
    return BlockHeader(workchain, shard, seqno, utime, key_block, info.uint(32), info.uint(32))


def read_block_header(answer: bytes) -> tuple[BlockId, BlockHeader]:
    """The block that a liteServer.blockHeader names, and that block's header.

    The caller must prove that the block is part of the chain. Raises ParseError, NotAuthentic.
    """
    data = TlReader(answer, "block header")
    data.expect(BLOCK_HEADER)
    block = BlockId.read(data)
    data.uint()  # mode: what was asked for beside the header
    (proof,) = read_bag(data.blob())
    data.end()
    return block, check_header(proof_root(proof, block.root_hash, "header"), block)


def read_shard(data: Reader) -> tuple[int, int]:
    """ShardIdent: workchain and the shard in its 64-bit form."""
    size = data.expect(0, 2).uint(6)
    workchain, prefix = data.signed(32), data.uint(64)
    tag = 1 << (63 - size)
    if size > 60 or prefix & (2 * tag - 1):
        raise ParseError(f"{data.what}: expected a shard of at most 60 bits, got {size}")
    return workchain, prefix | tag


def check_header(block: Cell, block_id: BlockId) -> BlockHeader:
    """The header of this masterchain block. Raises NotAuthentic if it is of another block."""
    header = read_header(block)
    got = (header.workchain, header.shard, header.seqno)
    if got != (block_id.workchain, block_id.shard, block_id.seqno):
        raise NotAuthentic(
            STEP, "other-header", f"header: expected the one of {block_id}, got {got}"
        )
    return header


def same_block(got: BlockId, expected: BlockId, what: str) -> None:
    """Raises NotAuthentic, which names both blocks, if they differ."""
    if got != expected:
        raise NotAuthentic(STEP, "other-block", f"{what}: expected {expected}, got {got}")


def read_validators(key_block: Cell) -> Validators:
    """The validators that may sign masterchain blocks after this key block (ConfigParams 28, 34).

    The first `main` entries of the list are the masterchain's validators. Where param 28
    says shuffle_mc_validators, a session orders these same ones by its catchain number, and
    nothing more: order decides whose turn it is, not whose signature counts, and the weights
    go along. So the set is checked, and its order is not computed. Param 35, which would
    stand in for 34 and was never used, has to be provably absent.
    Raises ParseError, and NotAuthentic if a needed cell is pruned.
    """
    config = _config(key_block)
    catchain = Reader(_param(config, 28), "config param 28")
    if (tag := catchain.uint(8)) not in (0xC1, 0xC2):
        raise ParseError(
            f"config param 28: expected catchain_config (0xc1) or catchain_config_new (0xc2), got "
            f"{tag:#x}"
        )
    if lookup(config, 35, 32, "configuration") is not None:
        raise ParseError("configuration: expected no temporary validators (param 35), got some")
    data = Reader(_param(config, 34), "config param 34").expect(0x12, 8)
    _, _, total, main, weight = (data.uint(n) for n in (32, 32, 16, 16, 64))
    root = data.maybe_ref()
    if root is None or not 1 <= main <= total <= MAX_VALIDATORS:
        raise ParseError(
            f"config param 34: expected at most {MAX_VALIDATORS} validators and 1 to {total} of "
            "them "
            f"for the masterchain, got {total} and {main}"
        )
    members = [_validator(leaf) for _, leaf in _indexed(root, total)]
    if sum(value for _, value in members) != weight:
        raise ParseError(
            f"config param 34: expected weights that add up to {weight}, got another sum"
        )
    return _signers(members[:main])


def _signers(members: list[tuple[bytes, int]]) -> Validators:
    found = {short_id(key): (key, weight) for key, weight in members}
    if len(found) != len(members):
        raise ParseError("config param 34: expected each validator key once, got one twice")
    return Validators(found, sum(weight for _, weight in members))


def _indexed(root: Cell, total: int) -> list[tuple[int, Reader]]:
    entries = items(root, 16, total, "config param 34")
    if [index for index, _ in entries] != list(range(total)):
        raise ParseError(f"config param 34: expected {total} validators, got {len(entries)}")
    return entries


def _validator(leaf: Reader) -> tuple[bytes, int]:
    tag = leaf.uint(8)
    if tag not in (0x53, 0x73):
        raise ParseError(f"config param 34: expected a validator, tag 0x53 or 0x73, got {tag:#x}")
    return leaf.expect(0x8E81278A, 32).octets(32), leaf.uint(64)


def _config(block: Cell) -> Cell:
    """The root of the ConfigParams dictionary in a key block."""
    root = Reader(block, "block")
    for _ in range(3):
        root.ref()  # info, value flow, state update
    extra = Reader(root.ref(), "block extra").expect(0x4A33F6FD, 32)
    for _ in range(3):
        extra.ref()  # messages in, messages out, account blocks
    extra.octets(64)  # random seed, creator
    custom = extra.maybe_ref()
    if custom is None:
        raise ParseError(
            "block extra: expected a masterchain block, got one without its extra part"
        )
    return _config_of(Reader(custom, "masterchain extra").expect(0xCCA5, 16))


def _config_of(extra: Reader) -> Cell:
    if not extra.bit():
        text = "masterchain extra: expected a key block with a configuration, got another block"
        raise NotAuthentic(STEP, "not-a-key-block", text)
    extra.maybe_ref()  # shard hashes
    extra.maybe_ref()  # shard fees, then their sums
    extra.currency(), extra.currency()
    extra.ref()  # signatures of the block before, special messages
    extra.octets(32)  # address of the configuration contract
    return extra.ref()


def _param(config: Cell, number: int) -> Cell:
    leaf = lookup(config, number, 32, "configuration")
    if leaf is None:
        raise ParseError(f"configuration: expected parameter {number}, found no entry")
    return leaf.ref()
