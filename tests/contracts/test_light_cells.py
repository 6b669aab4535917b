"""Bags of cells, dictionaries and configurations: each of their limits, and each check alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytoniq_core import Cell
from pytoniq_core.crypto.crc import crc32c

from attestation.errors import NotAuthentic, ParseError
from contracts.light import boc
from contracts.light.blocks import read_validators
from contracts.light.boc import read_bag, read_cell, write_bag
from contracts.light.cells import Reader, items, lookup
from tests.helpers.ton_chain import (
    Leaf,
    TonChain,
    cell,
    hashmap,
    make_block,
    octets,
    pruned,
    stuff,
    uint,
    validator_set,
)

LEAF = bytes((0, 2, 0xAB))
"""An ordinary cell of one byte."""


def bag(
    *cells: bytes,
    size: int = 1,
    offset: int = 1,
    flags: int = 0,
    count: int | None = None,
    roots: tuple[int, ...] = (0,),
    heads: int | None = None,
    absent: int = 0,
) -> bytes:
    """A bag of these cells, with numbers in it that may be wrong."""
    body = b"".join(cells)
    numbers = (
        len(cells) if count is None else count,
        len(roots) if heads is None else heads,
        absent,
    )
    head = boc.MAGIC + bytes((flags | size, offset))
    head += b"".join(number.to_bytes(size) for number in numbers) + len(body).to_bytes(offset)
    return head + b"".join(root.to_bytes(size) for root in roots) + body


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [1, 8])
def test_the_sizes_of_numbers_in_a_bag(size: int, offset: int) -> None:
    (found,) = read_bag(bag(LEAF, size=size, offset=offset))
    assert found.hash == cell(octets(b"\xab")).hash


def crc32c_of(data: bytes) -> bytes:
    """As in a bag: four bytes, little-endian."""
    return bytes(crc32c(data))


SUMS = bag(LEAF, flags=0x40)
BAGS: dict[str, tuple[bytes, str]] = {
    "numbers of no byte": (boc.MAGIC + b"\0\1" + bytes(20), "sizes of 1 to 4 and 1 to 8"),
    "numbers of 5 bytes": (bag(LEAF, size=5), "sizes of 1 to 4 and 1 to 8"),
    "offsets of no byte": (boc.MAGIC + b"\1\0" + bytes(20), "sizes of 1 to 4 and 1 to 8"),
    "offsets of 9 bytes": (bag(LEAF, offset=9), "sizes of 1 to 4 and 1 to 8"),
    "an index": (bag(LEAF, flags=0x80), "expected no index"),
    "no cell": (bag(count=0), "expected 1 to 65536 cells"),
    "too many cells": (bag(LEAF, size=3, count=65_537), "expected 1 to 65536 cells"),
    "no root": (bag(LEAF, roots=()), "1 to 4 roots"),
    "five roots": (bag(LEAF, roots=(0,) * 5), "1 to 4 roots"),
    "an absent cell": (bag(LEAF, absent=1), "no absent cells"),
    "a root behind the last cell": (bag(LEAF, roots=(1,)), "expected a reference"),
    "another magic": (b"\0" + bag(LEAF)[1:], "b5ee9c72 first"),
    "a cell that no root reaches": (bag(LEAF, LEAF), "under a root"),
    "a longer body than said": (bag(LEAF)[:9] + b"\2" + bag(LEAF)[10:], "2 bytes of cells"),
    "a byte behind the cells": (bag(LEAF) + b"\0", "14 bytes in all, got 15"),
    "another sum": (SUMS + (crc32c_of(SUMS)[:-1] + b"\0"), "CRC-32C"),
    "a cell of five references": (
        bag(bytes((5, 0, 1, 1, 1, 1, 1)), LEAF),
        "at most 4 references",
    ),
    "stored hashes": (bag(bytes((16, 2, 0xAB))), "no stored hashes"),
    "a reference to itself": (bag(bytes((1, 0, 0)), LEAF), "expected a reference to cell 1"),
    "a reference behind the last cell": (bag(bytes((1, 0, 2)), LEAF), "expected a reference"),
    "a level where nothing is pruned": (bag(bytes((1 << 5, 2, 0xAB))), "expected the level mask 0"),
    "a padded byte without data": (bag(bytes((0, 1, 0x80))), "data and a padding bit"),
    "a padded byte without its bit": (bag(bytes((0, 1, 0))), "data and a padding bit"),
    "a pruned branch of 8 bits": (bag(bytes((8, 2, 1))), "exact form of an exotic cell"),
    "an exotic cell of 7 bits": (bag(bytes((8, 1, 3))), r"type of an exotic cell \(8 bits\)"),
}


@pytest.mark.parametrize("name", BAGS)
def test_a_bag_that_is_none(name: str) -> None:
    data, reason = BAGS[name]
    with pytest.raises(ParseError, match=reason):
        read_bag(data)


def test_a_bag_with_its_checksum() -> None:
    assert len(read_bag(SUMS + crc32c_of(SUMS))) == 1
    with pytest.raises(ParseError, match="expected 4 bytes"):
        read_bag(SUMS)


def test_a_bag_has_as_many_roots_as_expected() -> None:
    two = write_bag([stuff("a"), stuff("b")])
    assert len(read_bag(two, roots=2)) == 2
    with pytest.raises(ParseError, match="expected 1 roots, got 2"):
        read_bag(two)
    with pytest.raises(ParseError, match="expected 2 roots, got 1"):
        read_bag(bag(LEAF), roots=2)
    with pytest.raises(ParseError, match="expected 1 roots, got 2"):
        read_cell(two)


def test_a_bag_has_at_most_4_mib() -> None:
    for size, reason in ((4 << 20, "first, got 0000"), ((4 << 20) + 1, "at most 4194304 bytes")):
        with pytest.raises(ParseError, match=reason):
            read_bag(bytes(size))


def test_a_bag_is_written_with_so_many_cells_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boc, "MAX_CELLS", 3)
    pair = cell("1", stuff("a"), stuff("b"))
    assert read_cell(write_bag([pair])).hash == pair.hash
    with pytest.raises(ParseError, match="at most 3 cells, got 4"):
        write_bag([cell("0", pair)])


def test_a_shared_cell_is_written_once_and_behind_all_that_refer_to_it() -> None:
    shared = stuff("shared")
    root = cell("1", shared, cell("0", shared))
    written = write_bag([root])
    assert written[6] == 3  # cells
    assert read_cell(written).hash == root.hash


# The cursor


def test_a_cursor_ends_with_its_cell() -> None:
    data = Reader(cell("101", stuff("a")), "thing")
    assert data.uint(2) == 0b10
    with pytest.raises(ParseError, match="thing: expected 2 more bits, got 1"):
        data.uint(2)
    data.ref()
    with pytest.raises(ParseError, match="another reference, got none"):
        data.ref()


@pytest.mark.parametrize(("bits", "refs"), [("1", 0), ("", 1), ("1", 1)])
def test_what_is_left_of_a_cell(bits: str, refs: int) -> None:
    data = Reader(cell(bits, *[stuff("a")] * refs), "thing")
    with pytest.raises(ParseError, match=f"{len(bits)} more bits and {refs} more references"):
        data.end()


def test_an_optional_reference_is_there_by_its_bit() -> None:
    data = Reader(cell("01", stuff("a")), "thing")
    assert data.maybe_ref() is None
    assert data.maybe_ref() == stuff("a")
    data.end()


def test_a_cursor_opens_ordinary_cells_alone() -> None:
    with pytest.raises(NotAuthentic, match="got a pruned branch") as caught:
        Reader(pruned(stuff("a")), "thing")
    assert caught.value.code == "pruned"
    library = cell(octets(b"\2" + bytes(32)), kind=2)
    with pytest.raises(ParseError, match="ordinary cell, got type 2"):
        Reader(library, "thing")


# Dictionaries

LABELS = {
    "short": "0" + "1" * 3 + "0" + "101",
    "long": "10" + uint(3, 2) + "101",
    "same": "11" + "1" + uint(3, 2),
}
"""The three forms of a label; each of three bits, and of a key that has only two."""


@pytest.mark.parametrize("form", LABELS)
def test_a_label_that_is_longer_than_the_key(form: str) -> None:
    root = cell(LABELS[form] + "1")
    for read in (
        lambda: lookup(root, 0b11, 2, "thing"),
        lambda: lookup(root, 0b00, 2, "thing"),
        lambda: items(root, 2, 9, "thing"),
    ):
        with pytest.raises(ParseError, match="label of at most 2 bits, got 3"):
            read()


@pytest.mark.parametrize("label", ["0" + "110" + "11", "10" + uint(2, 2) + "11", "111" + "10"])
def test_a_label_in_each_form(label: str) -> None:
    root = cell(label + "101")
    found = lookup(root, 0b11, 2, "thing")
    assert found is not None and found.uint(3) == 0b101
    assert lookup(root, 0b10, 2, "thing") is None
    assert [key for key, _ in items(root, 2, 1, "thing")] == [0b11]


def test_a_dictionary_has_so_many_entries_and_no_more() -> None:
    leaves: dict[str, Leaf] = {uint(key, 8): ("1", ()) for key in (1, 2, 200)}
    root = hashmap(leaves, 8)
    assert [key for key, _ in items(root, 8, 3, "thing")] == [1, 2, 200]
    with pytest.raises(ParseError, match="at most 2 entries"):
        items(root, 8, 2, "thing")


# The configuration of a key block

CHAIN = TonChain()
CATCHAIN, VALIDATORS = 28, 34


def validators(*, tag: int = 0x53, **numbers: int) -> Cell:
    """Parameter 34 for two validators, with numbers in it that may be wrong."""
    number = {"since": 1, "total": 2, "main": 2, "weight": 20, "first": 0, "second": 1} | numbers
    keys = [CHAIN.validators[at].public for at in (0, number.get("same", 1))]
    places = zip((number["first"], number["second"]), keys, strict=True)
    leaves: dict[str, Leaf] = {
        uint(at, 16): (uint(tag, 8) + uint(0x8E81278A, 32) + octets(key) + uint(10, 64), ())
        for at, key in places
    }
    head = uint(0x12, 8) + uint(1, 32) + uint(2, 32) + uint(number["total"], 16)
    head += uint(number["main"], 16) + uint(number["weight"], 64)
    return cell(head + "1", hashmap(leaves, 16))


def catchain(tag: int) -> Cell:
    return cell(uint(tag, 8) + uint(1, 8) + uint(250, 128))


Config = dict[int, Cell]
CONFIGS: dict[str, tuple[Callable[[Config], Config], str]] = {
    "catchain of another kind": (lambda c: c | {CATCHAIN: catchain(0xC3)}, "got 0xc3"),
    "no catchain": (lambda c: {VALIDATORS: c[VALIDATORS]}, "parameter 28, found no entry"),
    "validators for a while": (lambda c: c | {35: c[VALIDATORS]}, "no temporary validators"),
    "no validators": (lambda c: {CATCHAIN: c[CATCHAIN]}, "parameter 34, found no entry"),
    "no list": (
        lambda c: c | {VALIDATORS: cell(c[VALIDATORS].bits.to01()[:-1] + "0")},
        "at most 1024 validators",
    ),
    "none for the masterchain": (
        lambda c: c | {VALIDATORS: validators(main=0)},
        "1 to 2 of them for the masterchain, got 2 and 0",
    ),
    "more for the masterchain than there are": (
        lambda c: c | {VALIDATORS: validators(main=3)},
        "1 to 2 of them for the masterchain, got 2 and 3",
    ),
    "too many": (
        lambda c: c | {VALIDATORS: validators(total=1025)},
        "at most 1024 validators and 1 to 1025 of them for the masterchain, got 1025 and 2",
    ),
    "fewer than said": (lambda c: c | {VALIDATORS: validators(total=3)}, "expected 3 validators"),
    "a gap in the list": (
        lambda c: c | {VALIDATORS: validators(second=2)},
        "expected 2 validators",
    ),
    "another sum of weights": (
        lambda c: c | {VALIDATORS: validators(weight=21)},
        "weights that add up to 21",
    ),
    "a key twice": (lambda c: c | {VALIDATORS: validators(same=0)}, "each validator key once"),
    "a validator of another kind": (
        lambda c: c | {VALIDATORS: validators(tag=0x54)},
        "tag 0x53 or 0x73, got 0x54",
    ),
}


def test_the_validators_of_a_configuration() -> None:
    for tag in (0xC1, 0xC2):
        config = CHAIN.config() | {CATCHAIN: catchain(tag), VALIDATORS: validators()}
        found = read_validators(make_block(100, config=config).cell)
        assert (len(found.members), found.total) == (2, 20)
    most = validator_set(CHAIN.validators, 1)
    found = read_validators(make_block(100, config=CHAIN.config() | {VALIDATORS: most}).cell)
    assert (len(found.members), found.total) == (1, 10)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_names_no_validators(name: str) -> None:
    change, reason = CONFIGS[name]
    block = make_block(100, config=change(CHAIN.config()))
    with pytest.raises(ParseError, match=reason):
        read_validators(block.cell)
