"""The growth of a tree of tiles: the unfinished tile of every level, and the tiles that fill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from attestation.log import tiles
from attestation.log.merkle import HASH_BYTES, GetHash, tree_root

_TILE_BYTES = tiles.WIDTH * HASH_BYTES


@dataclass(frozen=True)
class TreeHead:
    """A committed state: the unfinished tile of every level, and its signed checkpoint."""

    size: int
    edge: tuple[bytes, ...]
    checkpoint: bytes

    def open_tiles(self) -> list[tuple[int, int, bytes]]:
        """Level, number and hashes of the tiles that are not full."""
        numbered = enumerate(self.edge)
        return [(at, tile_number(self.size, at), row) for at, row in numbered if row]

    def get_hash(self, level: int, index: int) -> bytes | None:
        """Root of a complete subtree within an unfinished tile; None for one elsewhere."""
        row, height = divmod(level, tiles.HEIGHT)
        number, offset = divmod(index << height, tiles.WIDTH)
        if number != tile_number(self.size, row):
            return None
        return _rows(self.edge[row])[height][offset >> height]


def tile_number(size: int, level: int) -> int:
    """The number of the unfinished tile at `level` in a tree of `size` leaves."""
    return size >> tiles.HEIGHT * (level + 1)


def root_of(size: int, edge: tuple[bytes, ...]) -> bytes:
    return tree_root(size, _edge_reader(edge))


def load_edge(size: int, row_of: Callable[[int, int], bytes | None]) -> tuple[bytes, ...] | None:
    """The edge from stored tiles, which may have grown since; None if a tile has too few hashes."""
    edge: list[bytes] = []
    while size:
        width = size % tiles.WIDTH * HASH_BYTES
        edge.append((row_of(len(edge), size >> tiles.HEIGHT) or b"")[:width])
        if len(edge[-1]) != width:
            return None
        size >>= tiles.HEIGHT
    return tuple(edge)


def grow(
    size: int, edge: tuple[bytes, ...], hashes: Iterable[bytes]
) -> tuple[tuple[bytes, ...], list[tuple[int, int, bytes]]]:
    """The edge after more leaf hashes, and the tiles that became full."""
    rows, finished = [bytearray(row) for row in edge], []
    numbers = [tile_number(size, level) for level in range(len(edge))]
    for digest in hashes:
        level, item = 0, digest
        while True:
            if level == len(rows):
                rows.append(bytearray())
                numbers.append(0)
            rows[level] += item
            if len(rows[level]) < _TILE_BYTES:
                break
            full = bytes(rows[level])
            finished.append((level, numbers[level], full))
            item = tiles.subtree(full, tiles.HEIGHT, 0)
            rows[level].clear()
            numbers[level] += 1
            level += 1
    return tuple(bytes(row) for row in rows), finished


def _edge_reader(edge: tuple[bytes, ...]) -> GetHash:
    """Reads the subtrees from which the root of the current size is computed."""

    def get(level: int, index: int) -> bytes:
        row, height = divmod(level, tiles.HEIGHT)
        return tiles.subtree(edge[row], height, (index << height) % tiles.WIDTH)

    return get


_rows = lru_cache(4 * tiles.MAX_LEVEL)(tiles.pyramid)
