"""Cells under a hash that is known: Merkle proofs, and reading them without being fooled.

A pruned branch stands for a subtree by its hash alone; it is never read as data here. TL-B:
ton/crypto/block/block.tlb.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytoniq_core import Cell, Slice

from attestation.errors import NotAuthentic, ParseError, UmayError
from contracts.lite.boc import read_bag

ORDINARY, PRUNED, MERKLE_PROOF, MERKLE_UPDATE = -1, 1, 3, 4
STEP = "chain"
T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """Of a block: what BlockInfo says."""

    seqno: int
    workchain: int
    shard: int
    is_key_block: bool
    utime: int


def refused(code: str, text: str) -> NotAuthentic:
    return NotAuthentic(STEP, code, text)


def roots(bag: bytes, count: int) -> list[Cell]:
    """The roots of a bag of cells. Raises ParseError."""
    return read_bag(bag, roots=count)


def proven(proof: Cell, root_hash: bytes) -> Cell:
    """The tree under a Merkle proof cell of this hash. Raises NotAuthentic."""
    if proof.type_ != MERKLE_PROOF or len(proof.bits) != 8 + 256 + 16 or len(proof.refs) != 1:
        raise refused("no-proof", "expected a Merkle proof")
    named = proof.bits.tobytes()[1:33]
    below: Cell = proof.refs[0]
    if named != root_hash or below.get_hash(0) != root_hash:
        raise refused("other-root", f"expected a proof of {root_hash.hex()}")
    return below


def ordinary(cell: Cell) -> Slice:
    """A cell that may be read. Raises NotAuthentic for pruned branches and other exotics."""
    if cell.type_ != ORDINARY:
        raise refused("pruned", "the proof leaves out a cell that has to be read")
    return cell.begin_parse()


def reading(read: Callable[[], T]) -> T:
    """Turns whatever a library raises for cells of another form into ParseError."""
    try:
        return read()
    except UmayError:
        raise
    except Exception as error:
        raise ParseError(f"cells: {type(error).__name__}: {error}") from None


def tag(body: Slice, bits: int, wanted: int, what: str) -> None:
    if (found := body.load_uint(bits)) != wanted:
        raise ParseError(f"{what}: expected tag {wanted:#x}, got {found:#x}")


def header_tag(block: Cell) -> None:
    """Raises ParseError unless the cell begins as block#11ef55aa."""
    tag(ordinary(block), 32, 0x11EF55AA, "block")


def header(block: Cell) -> Header:
    """block_info#9bc7a987 of block#11ef55aa."""
    header_tag(block)
    info = ordinary(block.refs[0])
    tag(info, 32, 0x9BC7A987, "block info")
    info.load_uint(32)  # version
    flags = [info.load_bit() for _ in range(8)]  # not_master … key_block is the seventh
    info.load_uint(8)
    seqno = info.load_uint(32)
    info.load_uint(32)  # vert_seq_no
    workchain, shard = shard_ident(info)
    return Header(seqno, workchain, shard, bool(flags[6]), info.load_uint(32))


def shard_ident(body: Slice) -> tuple[int, int]:
    """shard_ident$00: (workchain, shard as 64 bits with its marker bit)."""
    tag(body, 2, 0, "shard")
    bits, workchain, prefix = body.load_uint(6), body.load_int(32), body.load_uint(64)
    if bits > 60 or prefix & ((1 << (64 - bits)) - 1):
        raise ParseError("shard: expected a prefix of at most 60 bits")
    return workchain, prefix | 1 << (63 - bits)


def new_state_hash(block: Cell) -> bytes:
    """What the block says its state's hash is: the second hash of its Merkle update."""
    update = block.refs[2]
    if update.type_ != MERKLE_UPDATE or len(update.bits) != 8 + 2 * (256 + 16):
        raise refused("no-update", "expected the block's state update")
    found: bytes = update.bits.tobytes()[33:65]
    return found


def skip_currency(body: Slice) -> None:
    """CurrencyCollection: an amount, and perhaps a dictionary of others."""
    body.load_coins()
    if body.load_bit():
        body.load_ref()


Skip = Callable[[Slice], None]


def look_up(root: Cell, key: str, skip: Skip | None = None) -> Slice | None:
    """The value under a key (as "0" and "1") of a Hashmap, of a HashmapAug where `skip`
    reads past an extra. None where the proof shows that there is none.

    Raises NotAuthentic where the way leads into a pruned branch.
    """
    cell, rest = root, key
    while True:
        body = ordinary(cell)
        label = _label(body, len(rest))
        if not rest.startswith(label):
            return None
        rest = rest[len(label) :]
        if not rest:
            if skip:
                skip(body)
            return body
        left, right = body.load_ref(), body.load_ref()
        cell, rest = (right if rest[0] == "1" else left), rest[1:]


def _label(body: Slice, most: int) -> str:
    """HmLabel: short$0 unary, long$10 with a length, same$11 one bit repeated."""
    if not body.load_bit():
        length = 0
        while body.load_bit():
            length += 1
        return _checked(body.load_bits(length).to01(), most)
    if not body.load_bit():
        length = body.load_uint(most.bit_length())
        return _checked(body.load_bits(length).to01(), most)
    bit = "1" if body.load_bit() else "0"
    return _checked(bit * body.load_uint(most.bit_length()), most)


def _checked(label: str, most: int) -> str:
    if len(label) > most:
        raise ParseError("dictionary: a label longer than its key")
    return label
