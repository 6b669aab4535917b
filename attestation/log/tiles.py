"""Tiles and entry bundles (c2sp.org/tlog-tiles): paths, and bytes both ways.

A tile holds up to 256 consecutive hashes; each hash of level L+1 is the root over one
full tile of level L. A partial tile is a prefix of the full one, so one stored copy
serves every width. Only one path names a given tile.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from attestation.errors import ParseError
from attestation.log.leaf import MAX_LEAF_BYTES
from attestation.log.merkle import HASH_BYTES, node_hash
from attestation.log.note import from_decimal

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_LEVEL = 7
"""Eight levels of 256 hold 2^64 leaves; the specification allows up to 63."""

_INDEX = re.compile(r"((?:x[0-9]{3}/){0,5})([0-9]{3})")


@dataclass(frozen=True)
class TilePath:
    """`level` is None for an entry bundle; `width` 256 is a full tile."""

    level: int | None
    index: int
    width: int = WIDTH

    def __str__(self) -> str:
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{index_path(self.index)}{partial}"

    @classmethod
    def parse(cls, path: str) -> TilePath:
        """From "tile/…". Raises ParseError for anything but the one form."""
        match = path.split("/", 2)
        if len(match) != 3 or match[0] != "tile":
            raise ParseError("tile path: expected tile/<level>/<index>, got another form")
        level = None if match[1] == "entries" else from_decimal(match[1], "tile level")
        if level is not None and level > MAX_LEVEL:
            raise ParseError(f"tile path: expected a level of at most {MAX_LEVEL}, got {level}")
        index, partial, width = match[2].partition(".p/")
        count = from_decimal(width, "tile width") if partial else WIDTH
        if partial and not 0 < count < WIDTH:
            raise ParseError(f"tile path: expected a partial width of 1 to 255, got {count}")
        return cls(level, _index(index), count)


def index_path(index: int) -> str:
    """1234067 as x001/x234/067."""
    path = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        path = f"x{index % 1000:03d}/{path}"
    return path


def tiles_of(size: int) -> list[TilePath]:
    """Every hash tile of a tree of `size` leaves, level by level, partial ones last."""
    tiles = []
    for level in range(MAX_LEVEL + 1):
        full, rest = divmod(size >> HEIGHT * level, WIDTH)
        tiles += [TilePath(level, index) for index in range(full)]
        tiles += [TilePath(level, full, rest)] if rest else []
    return tiles


def encode_bundle(leaves: Sequence[bytes]) -> bytes:
    """Entries, each behind its big-endian 16-bit length."""
    if len(leaves) > WIDTH or any(len(leaf) > MAX_LEAF_BYTES for leaf in leaves):
        raise ParseError(
            "entry bundle: expected at most 256 entries of at most 65535 bytes, got more"
        )
    return b"".join(struct.pack(">H", len(leaf)) + leaf for leaf in leaves)


def decode_bundle(data: bytes) -> tuple[bytes, ...]:
    """Entries of a bundle. Raises ParseError."""
    leaves: list[bytes] = []
    at = 0
    while at < len(data) and len(leaves) < WIDTH:
        start = at + 2
        end = start + int.from_bytes(data[at:start])
        if start > len(data) or end > len(data):
            raise ParseError("entry bundle: expected whole entries, it ends inside one")
        leaves.append(data[start:end])
        at = end
    if at != len(data):
        raise ParseError("entry bundle: expected at most 256 entries, got more bytes after them")
    return tuple(leaves)


def split_hashes(tile: bytes) -> list[bytes]:
    """The hashes of a tile. Raises ParseError."""
    if len(tile) % HASH_BYTES or not 0 < len(tile) <= WIDTH * HASH_BYTES:
        raise ParseError(f"tile: expected 1 to 256 hashes of 32 bytes, got {len(tile)} bytes")
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def subtree(tile: bytes, level: int, offset: int) -> bytes:
    """Root over 2^level hashes of a tile, from hash number `offset` on."""
    first = offset * HASH_BYTES
    row = split_hashes(tile[first : first + (HASH_BYTES << level)])
    while len(row) > 1:
        row = fold(row)
    return row[0]


def pyramid(tile: bytes) -> tuple[tuple[bytes, ...], ...]:
    """A tile's hashes, and above them every row of complete parents."""
    row = split_hashes(tile)
    rows = [tuple(row)]
    while len(row) > 1:
        row = fold(row)
        rows.append(tuple(row))
    return tuple(rows)


def fold(row: Sequence[bytes]) -> list[bytes]:
    """The row above: parents of neighbours. A last one without neighbour has none."""
    return [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]


def _index(text: str) -> int:
    if not _INDEX.fullmatch(text):
        raise ParseError("tile path: expected an index such as x001/x234/067, got another form")
    index = int(text.replace("/", "").replace("x", ""))
    if index_path(index) != text:
        raise ParseError(
            "tile path: expected an index without leading groups of zeros, got one with them"
        )
    return index
