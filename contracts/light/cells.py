"""Proven cells: Merkle proofs, a cursor that never reads a pruned cell, and dictionaries.

Invariants: `proof_root` returns a cell whose hash at level 0 is the expected one, so everything
in it that is not pruned is content of the block; `Reader` opens ordinary cells only; a key is
reported absent only if the proof shows that it is absent.
Source: TON crypto/block/block.tlb (Hashmap, HashmapAug, CurrencyCollection).
"""

from __future__ import annotations

from bitarray import bitarray
from bitarray.util import ba2int
from pytoniq_core import Cell

from attestation.errors import NotAuthentic, ParseError
from contracts.light.boc import MERKLE_PROOF, ORDINARY, PRUNED

STEP = "chain"


def proof_root(proof: Cell, root_hash: bytes, what: str) -> Cell:
    """The cell with hash `root_hash` (32 bytes) inside a Merkle proof. Raises NotAuthentic."""
    if proof.type_ != MERKLE_PROOF or proof.level_mask.mask:
        raise NotAuthentic(
            STEP, "not-a-proof", f"{what}: expected a Merkle proof, got another cell"
        )
    root: Cell = proof.refs[0]
    got = root.get_hash(0)
    if got != root_hash:
        text = f"{what}: expected a proof of {root_hash.hex()}, got {got.hex()}"
        raise NotAuthentic(STEP, "wrong-root", text)
    return root


class Reader:
    """A cursor over one ordinary cell. Raises ParseError past its end."""

    def __init__(self, cell: Cell, what: str) -> None:
        if cell.type_ == PRUNED:
            text = f"{what}: expected data, got a pruned branch"
            raise NotAuthentic(STEP, "pruned", text)
        if cell.type_ != ORDINARY:
            raise ParseError(f"{what}: expected an ordinary cell, got type {cell.type_}")
        self.what = what
        self._bits, self._refs = cell.bits, cell.refs
        self._at = self._ref = 0

    def bits(self, count: int) -> bitarray:
        part: bitarray = self._bits[self._at : self._at + count]
        if len(part) != count:
            raise ParseError(f"{self.what}: expected {count} more bits, got {len(part)}")
        self._at += count
        return part

    def uint(self, count: int) -> int:
        return ba2int(self.bits(count)) if count else 0

    def signed(self, count: int) -> int:
        return ba2int(self.bits(count), signed=True)

    def octets(self, count: int) -> bytes:
        return self.bits(8 * count).tobytes()

    def bit(self) -> bool:
        return bool(self.uint(1))

    def ref(self) -> Cell:
        if self._ref >= len(self._refs):
            raise ParseError(f"{self.what}: expected another reference, got none")
        self._ref += 1
        return self._refs[self._ref - 1]

    def maybe_ref(self) -> Cell | None:
        return self.ref() if self.bit() else None

    def var_uint(self, size: int) -> int:
        """VarUInteger with a length of `size` bits, in bytes."""
        return self.uint(8 * self.uint(size))

    def currency(self) -> int:
        """CurrencyCollection: its grams in nano; other currencies are skipped."""
        grams = self.var_uint(4)
        self.maybe_ref()
        return grams

    def expect(self, tag: int, count: int) -> Reader:
        got = self.uint(count)
        if got != tag:
            raise ParseError(f"{self.what}: expected the tag {tag:#x}, got {got:#x}")
        return self

    def end(self) -> None:
        if self._at != len(self._bits) or self._ref != len(self._refs):
            raise ParseError(
                f"{self.what}: expected the end of the cell, got {len(self._bits) - self._at} more "
                f"bits and {len(self._refs) - self._ref} more references"
            )


def lookup(root: Cell, key: int, bits: int, what: str) -> Reader | None:
    """The leaf of `key` in a Hashmap, after its label; None if the key is proven absent."""
    path, node = f"{key:0{bits}b}", root
    while True:
        leaf = Reader(node, what)
        label = _label(leaf, len(path))
        if not path.startswith(label):
            return None
        path = path[len(label) :]
        if not path:
            return leaf
        branches = leaf.ref(), leaf.ref()
        node, path = branches[int(path[0])], path[1:]


def items(root: Cell, bits: int, limit: int, what: str) -> list[tuple[int, Reader]]:
    """Every key and leaf of a Hashmap, sorted by key. Raises ParseError above `limit` entries."""
    found: list[tuple[int, Reader]] = []
    waiting = [(root, "")]
    while waiting:
        node, path = waiting.pop()
        leaf = Reader(node, what)
        path += _label(leaf, bits - len(path))
        if len(path) == bits:
            found.append((int(path, 2), leaf))
        else:
            left, right = leaf.ref(), leaf.ref()
            waiting += [(right, path + "1"), (left, path + "0")]
        if len(found) + len(waiting) > limit:
            raise ParseError(f"{what}: expected at most {limit} entries, got more")
    return found


def _label(edge: Reader, room: int) -> str:
    """HmLabel: the bits that all keys below share, at most `room` of them."""
    if not edge.bit():
        size = 0
        while edge.bit():
            size += 1
        return _shared(edge, size, room)
    if not edge.bit():
        return _shared(edge, edge.uint(room.bit_length()), room)
    same = str(edge.uint(1))
    size = edge.uint(room.bit_length())
    _check_room(edge, size, room)
    return same * size


def _shared(edge: Reader, size: int, room: int) -> str:
    _check_room(edge, size, room)
    return edge.bits(size).to01()


def _check_room(edge: Reader, size: int, room: int) -> None:
    if size > room:
        raise ParseError(f"{edge.what}: expected a label of at most {room} bits, got {size}")
