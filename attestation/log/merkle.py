"""The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1): hashes, proofs, and their checks.

Leaves and inner nodes are hashed under different first bytes, so neither passes for the
other. A proof has exactly the length its indexes call for; a longer or shorter one is
no proof. Checks raise LogError and return nothing; sizes count leaves.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256

from attestation.errors import LogError, UsageError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

GetHash = Callable[[int, int], bytes]
"""(level, index) -> root of the complete subtree of leaves [index·2^level, (index+1)·2^level)."""


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def root_from_inclusion(leaf: bytes, *, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that `proof` leads to from a leaf's hash. Raises LogError.

    `proof` runs from the leaf's sibling up to the root's child.
    """
    if not 0 <= index < size:
        raise LogError(f"inclusion: expected an index below {size}, got {index}")
    inner = (index ^ (size - 1)).bit_length()
    _lengths(proof, inner + (index >> inner).bit_count(), "inclusion")
    return _border(_inner(leaf, proof[:inner], index), proof[inner:])


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Whether the leaf hash stands at `index` of the tree (size, root). Raises LogError."""
    if not hmac.compare_digest(
        root_from_inclusion(leaf, index=index, size=size, proof=proof), root
    ):
        raise LogError(
            f"inclusion: expected a proof from entry {index} to the root {root.hex()}, got "
            "another root"
        )


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Whether the tree (new_size, new_root) only appends to (old_size, old_root).

    Raises LogError otherwise. Every tree extends the empty one, by an empty proof.
    """
    if not 0 <= old_size <= new_size:
        raise LogError(f"consistency: expected sizes that grow, got {old_size} to {new_size}")
    if old_size in (0, new_size):
        _lengths(proof, 0, "consistency")
        _same(old_root, new_root if old_size else EMPTY_ROOT, "the older root")
        if new_size == 0:
            _same(new_root, EMPTY_ROOT, "the empty root")
        return
    shift = _trailing_zeros(old_size)
    last = old_size - 1
    inner = (last ^ (new_size - 1)).bit_length() - shift
    whole = old_size == 1 << shift
    border = (last >> (inner + shift)).bit_count()
    _lengths(proof, inner + border + (not whole), "consistency")
    seed, path = (old_root, proof) if whole else (proof[0], proof[1:])
    bits = last >> shift
    rights = [item for level, item in enumerate(path[:inner]) if bits >> level & 1]
    _same(_border(_border(seed, rights), path[inner:]), old_root, "the older root")
    _same(_border(_inner(seed, path[:inner], bits), path[inner:]), new_root, "the newer root")


def tree_root(size: int, get: GetHash) -> bytes:
    """Root of the tree of the first `size` leaves."""
    return range_root(0, size, get) if size else EMPTY_ROOT


def range_root(begin: int, end: int, get: GetHash) -> bytes:
    """Root over leaves [begin, end) of a subtree that the tree itself has."""
    parts = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, _trailing_zeros(begin))
        parts.append(get(level, begin >> level))
        begin += 1 << level
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


def inclusion_proof(index: int, size: int, get: GetHash) -> list[bytes]:
    """Audit path of leaf `index` in the tree of `size` leaves. Raises UsageError."""
    if not 0 <= index < size:
        raise UsageError(f"inclusion: expected an index below {size}, got {index}")
    begin, end, path = 0, size, []
    while end - begin > 1:
        split = _split(begin, end)
        if index < split:
            path.append(range_root(split, end, get))
            end = split
        else:
            path.append(range_root(begin, split, get))
            begin = split
    return path[::-1]


def consistency_proof(old_size: int, new_size: int, get: GetHash) -> list[bytes]:
    """Proof that the tree of new_size extends that of old_size. Raises UsageError."""
    if not 0 <= old_size <= new_size:
        raise UsageError(f"consistency: expected sizes that grow, got {old_size} to {new_size}")
    begin, end, path = 0, new_size, []
    while old_size not in (0, end):
        split = _split(begin, end)
        if old_size <= split:
            path.append(range_root(split, end, get))
            end = split
        else:
            path.append(range_root(begin, split, get))
            begin = split
    if begin:
        path.append(range_root(begin, end, get))
    return path[::-1]


class Tree:
    """A tree in memory: every complete subtree's root, by level. For audits and drills."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> int:
        """Hashes an entry's bytes into the tree; its index."""
        return self.append_hash(leaf_hash(leaf))

    def append_hash(self, digest: bytes) -> int:
        """Appends a leaf hash (32 bytes); its index."""
        index = len(self)
        self._levels[0].append(digest)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            pair = self._levels[level][-2:]
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node_hash(*pair))
        return index

    def get_hash(self, level: int, index: int) -> bytes:
        return self._levels[level][index]

    def root(self, size: int | None = None) -> bytes:
        return tree_root(self._within(len(self) if size is None else size), self.get_hash)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        return inclusion_proof(index, self._within(size), self.get_hash)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        return consistency_proof(old_size, self._within(new_size), self.get_hash)

    def _within(self, size: int) -> int:
        if not 0 <= size <= len(self):
            raise UsageError(f"tree: expected a size of at most {len(self)}, got {size}")
        return size


def _inner(digest: bytes, proof: Sequence[bytes], bits: int) -> bytes:
    for level, sibling in enumerate(proof):
        right = bits >> level & 1
        digest = node_hash(sibling, digest) if right else node_hash(digest, sibling)
    return digest


def _border(digest: bytes, proof: Sequence[bytes]) -> bytes:
    for left in proof:
        digest = node_hash(left, digest)
    return digest


def _split(begin: int, end: int) -> int:
    return begin + (1 << ((end - begin - 1).bit_length() - 1))


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def _lengths(proof: Sequence[bytes], expected: int, what: str) -> None:
    if len(proof) != expected:
        raise LogError(f"{what}: expected a proof of {expected} hashes, got {len(proof)}")
    if any(len(item) != HASH_BYTES for item in proof):
        raise LogError(f"{what}: expected hashes of {HASH_BYTES} bytes, got others")


def _same(got: bytes, expected: bytes, what: str) -> None:
    if not hmac.compare_digest(got, expected):
        raise LogError(
            f"consistency: expected a proof to {what}, {expected.hex()}, got {got.hex()}"
        )
