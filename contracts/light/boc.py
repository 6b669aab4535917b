"""A strict reader of bags of cells: every byte has one meaning and is checked.

Invariants: the hashes of cells are computed here and never taken from the bag; level bits,
padding bits, order and checksum are those of the one canonical encoding; exotic cells have
exactly the form of their type; every cell is reachable from a root. The library's own reader
ignores most of this, so it would not notice a changed byte.
Source: TON crypto/tl/boc.tlb (serialized_boc#b5ee9c72), "The Open Network" whitepaper 3.1.
"""

from __future__ import annotations

from bitarray import bitarray
from pytoniq_core import Cell
from pytoniq_core.crypto.crc import crc32c

from attestation.errors import ParseError

MAGIC = b"\xb5\xee\x9c\x72"
MAX_BAG = 4 << 20  # bytes; the proof of a key block is below 64 KiB
MAX_CELLS = 1 << 16
MAX_ROOTS = 4

ORDINARY, PRUNED, LIBRARY, MERKLE_PROOF, MERKLE_UPDATE = -1, 1, 2, 3, 4
EXOTIC_FORM = {LIBRARY: (264, 0), MERKLE_PROOF: (280, 1), MERKLE_UPDATE: (552, 2)}
"""Bits and references of the exotic cells of fixed size."""

Raw = tuple[bitarray, int, list[int], int]
"""Bits, type, indexes of the references, level mask."""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) != size:
            raise ParseError(f"bag of cells: expected {size} bytes at {self.at}, got {len(part)}")
        self.at += size
        return part

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size))


def read_bag(bag: bytes, *, roots: int = 1) -> list[Cell]:
    """The root cells of a bag, which must be exactly `roots`. Raises ParseError."""
    if len(bag) > MAX_BAG:
        raise ParseError(f"bag of cells: expected at most {MAX_BAG} bytes, got {len(bag)}")
    raw, heads = _parse(bag)
    if len(heads) != roots:
        raise ParseError(f"bag of cells: expected {roots} roots, got {len(heads)}")
    if set(range(len(raw))) != {*heads, *(to for _, _, refs, _ in raw for to in refs)}:
        raise ParseError(
            "bag of cells: expected every cell to be under a root, got one that is not"
        )
    cells = _build(raw)
    return [cells[index] for index in heads]


def read_cell(bag: bytes) -> Cell:
    """The one root of a bag in which nothing is pruned. Raises ParseError."""
    (cell,) = read_bag(bag)
    if cell.level_mask.mask:
        raise ParseError("cell: expected plain data, got pruned branches")
    return cell


def _parse(bag: bytes) -> tuple[list[Raw], list[int]]:
    data = _Bytes(bag)
    if data.take(4) != MAGIC:
        raise ParseError(f"bag of cells: expected {MAGIC.hex()} first, got {bag[:4].hex()}")
    flags, offset = data.uint(1), data.uint(1)
    size, checked = flags & 7, bool(flags & 0x40)
    if flags & 0xB8 or not 1 <= size <= 4 or not 1 <= offset <= 8:
        raise ParseError(
            "bag of cells: expected no index, no cache bits and sizes of 1 to 4 and 1 to 8 "
            "bytes, got "
            f"flags {flags:#04x} and an offset size of {offset}"
        )
    count, heads, absent = data.uint(size), data.uint(size), data.uint(size)
    if not (1 <= count <= MAX_CELLS and 1 <= heads <= MAX_ROOTS) or absent:
        raise ParseError(
            f"bag of cells: expected 1 to {MAX_CELLS} cells, 1 to {MAX_ROOTS} roots and no absent "
            f"cells, got {count}, {heads} and {absent}"
        )
    total = data.uint(offset)
    indexes = [_index(data.uint(size), -1, count) for _ in range(heads)]
    start = data.at
    cells = [_cell(data, size, own, count) for own in range(count)]
    if data.at - start != total:
        raise ParseError(f"bag of cells: expected {total} bytes of cells, got {data.at - start}")
    if checked and crc32c(bag[: data.at]) != data.take(4):
        raise ParseError("bag of cells: expected the CRC-32C of its bytes, got another value")
    if data.at != len(bag):
        raise ParseError(f"bag of cells: expected {data.at} bytes in all, got {len(bag)}")
    return cells, indexes


def _index(value: int, own: int, count: int) -> int:
    if not own < value < count:
        raise ParseError(
            f"bag of cells: expected a reference to cell {own + 1} to {count - 1}, got {value}"
        )
    return value


def _cell(data: _Bytes, size: int, own: int, count: int) -> Raw:
    first, second = data.uint(1), data.uint(1)
    refs, exotic, mask = first & 7, bool(first & 8), first >> 5
    if refs > 4 or first & 16:
        raise ParseError(
            f"cell {own}: expected at most 4 references and no stored hashes, got the descriptor "
            f"{first:#04x}"
        )
    bits = _bits(data.take((second + 1) // 2), bool(second & 1), own)
    kind = bits[:8].tobytes()[0] if exotic and len(bits) >= 8 else ORDINARY
    if exotic and kind == ORDINARY:
        raise ParseError(
            f"cell {own}: expected the type of an exotic cell (8 bits), got {len(bits)} bits"
        )
    links = [_index(data.uint(size), own, count) for _ in range(refs)]
    return bits, kind, links, mask


def _bits(data: bytes, padded: bool, own: int) -> bitarray:
    """The data bits. A padded last byte has a 1 after the data, then zeros; 0x80 would have no
    data."""
    bits = bitarray()
    bits.frombytes(data)
    if not padded:
        return bits
    last = data[-1]
    if last in (0, 0x80):
        raise ParseError(
            f"cell {own}: expected a last byte with data and a padding bit, got {last:#04x}"
        )
    return bits[: len(bits) - (last & -last).bit_length()]


def _build(raw: list[Raw]) -> list[Cell]:
    cells: list[Cell] = [None] * len(raw)
    for own in reversed(range(len(raw))):
        bits, kind, links, mask = raw[own]
        cell = _made(bits, kind, [cells[to] for to in links], own)
        if cell.level_mask.mask != mask:
            raise ParseError(
                f"cell {own}: expected the level mask {cell.level_mask.mask}, got {mask}"
            )
        cells[own] = cell
    return cells


def _made(bits: bitarray, kind: int, refs: list[Cell], own: int) -> Cell:
    _check_form(bits, kind, len(refs), own)
    try:
        cell = Cell(bits, refs, kind)
    except Exception as error:  # the library raises exceptions of many kinds
        raise ParseError(
            f"cell {own}: expected a valid cell, got one that cannot be built: "
            f"{type(error).__name__}: {error}"
        ) from error
    if kind in (MERKLE_PROOF, MERKLE_UPDATE) and bits.tobytes()[1:] != _merkle_text(refs):
        raise ParseError(
            f"cell {own}: expected the hash and depth of the cells under it, got other values"
        )
    return cell


def _check_form(bits: bitarray, kind: int, refs: int, own: int) -> None:
    if kind == ORDINARY:
        return
    if kind == PRUNED:
        mask = bits[8:16].tobytes()[0] if len(bits) >= 16 else 0
        expected = (16 + 272 * mask.bit_count(), 0) if mask in (1, 2, 3) else None
    else:
        expected = EXOTIC_FORM.get(kind)
    if (len(bits), refs) != expected:
        raise ParseError(
            f"cell {own}: expected the exact form of an exotic cell, got type {kind} with "
            f"{len(bits)} bits and {refs} references"
        )


def _merkle_text(refs: list[Cell]) -> bytes:
    hashes = b"".join(ref.get_hash(0) for ref in refs)
    return hashes + b"".join(ref.get_depth(0).to_bytes(2) for ref in refs)


def write_bag(roots: list[Cell]) -> bytes:
    """The canonical bag without index and checksum, which read_bag reads. Raises ParseError."""
    order = _ordered(roots)
    place = {cell.hash: index for index, cell in enumerate(order)}
    size = (len(order).bit_length() + 7) // 8
    links = [{ref: place[ref.hash] for ref in cell.refs} for cell in order]
    body = b"".join(cell.serialize(to, size) for cell, to in zip(order, links, strict=True))
    offset = max(1, (len(body).bit_length() + 7) // 8)
    numbers = b"".join(n.to_bytes(size) for n in (len(order), len(roots), 0))
    heads = b"".join(place[root.hash].to_bytes(size) for root in roots)
    return MAGIC + bytes((size, offset)) + numbers + len(body).to_bytes(offset) + heads + body


def _ordered(roots: list[Cell]) -> list[Cell]:
    """Every distinct cell once, parents before children."""
    done: dict[bytes, Cell] = {}
    waiting = [(root, False) for root in roots]
    while waiting:
        cell, left = waiting.pop()
        if left:
            done.setdefault(cell.hash, cell)
        elif cell.hash not in done:
            waiting.append((cell, True))
            waiting += [(ref, False) for ref in cell.refs]
    if len(done) > MAX_CELLS:
        raise ParseError(f"bag of cells: expected at most {MAX_CELLS} cells, got {len(done)}")
    return list(reversed(done.values()))
