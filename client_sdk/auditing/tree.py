"""The log's structure against its anchor: signed checkpoint, entries, tiles, history.

Everything raises LogError, ParseError or NotAuthentic for what contradicts, Unavailable for
what is not there, and DamagedMirror where a mirror's bytes contradict that nobody signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from attestation.errors import LogError, ParseError, Unavailable
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import (
    HASH_BYTES,
    GetHash,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
)
from attestation.log.note import MAX_SIGNATURES, Note
from attestation.log.tiles import HEIGHT, WIDTH, TilePath, tiles_of
from attestation.trust.anchor import Anchor
from client_sdk.auditing import sources
from client_sdk.auditing.sources import Source

Progress = Callable[[str, int, int], None]
"""(what, how many are done, how many there are)."""


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


def anchored_checkpoint(source: Source, anchor: Anchor) -> bytes:
    """The note by which the log signed what is anchored, verified."""
    note = sources.checkpoint(source, anchor.size)
    with sources.unsigned(source):
        head = checkpoints.verify(note, origin=anchor.origin, log_key=anchor.log_key)
        if head.size != anchor.size:
            raise LogError(f"expected a checkpoint of size {anchor.size}, got size {head.size}")
    if head.root != anchor.root:  # whoever handed it over: the log signed it
        raise LogError(
            f"the log signed another tree of {anchor.size} entries than the anchored one"
        )
    return note


def cosigned_checkpoint(source: Source, anchor: Anchor, note: bytes) -> bytes:
    """`note`, the anchored checkpoint, with the cosignatures that the log shows for it by now."""
    try:
        shown = Note.from_bytes(source.get(f"cosigned/{anchor.size}"))
    except (Unavailable, ParseError):
        return note
    plain = Note.from_bytes(note)
    lines = tuple(line for line in shown.signatures if line not in plain.signatures)
    room = MAX_SIGNATURES - len(plain.signatures)
    return Note(plain.text, (*plain.signatures, *lines[:room])).to_bytes()


def leaves_of(
    source: Source, size: int, progress: Progress = silent, first: int = 0
) -> list[bytes]:
    """Entries from `first`, which begins a bundle, to `size`."""
    leaves: list[bytes] = []
    for start in range(first, size, WIDTH):
        path = TilePath(None, start // WIDTH, min(WIDTH, size - start))
        leaves += sources.bundle(source, path)
        progress("entries fetched", first + len(leaves), size)
    return leaves


def anchored_tree(
    source: Source, anchor: Anchor, progress: Progress = silent
) -> tuple[list[bytes | None], Tree]:
    """Every anchored entry, and the tree of the anchored root.

    Where the entries make another root and the hash tiles make that one, the tiles tell which
    entries have other bytes: None stands in their place.
    """
    leaves = leaves_of(source, anchor.size, progress)
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    if tree.root() == anchor.root:
        return list(leaves), tree
    with sources.unsigned(source):
        tree, genuine = Tree(), _leaf_hashes(source, anchor.size)
        for digest in genuine:
            tree.append_hash(digest)
        if tree.root() != anchor.root:
            raise LogError("neither the entries nor the hash tiles hash to the anchored root")
    pairs = zip(leaves, genuine, strict=True)
    return [leaf if leaf_hash(leaf) == digest else None for leaf, digest in pairs], tree


def _leaf_hashes(source: Source, size: int) -> list[bytes]:
    """As the hash tiles have them. Raises LogError where they cannot be had."""
    try:
        tiles = [sources.tile(source, path) for path in tiles_of(size) if path.level == 0]
    except (Unavailable, ParseError, sources.DamagedMirror) as error:
        text = (
            f"the entries do not hash to the anchored root, and the hash tiles do not help: {error}"
        )
        raise LogError(text) from None
    row = b"".join(tiles)
    return [_at(row, position) for position in range(len(row) // HASH_BYTES)]


def check_tiles(source: Source, tree: Tree, size: int, progress: Progress = silent) -> None:
    """Every hash tile is that of the tree: other clients build their proofs from them."""
    paths = tiles_of(size)
    for done, path in enumerate(paths, 1):
        level, start = HEIGHT * (path.level or 0), path.index * WIDTH
        hashes = (tree.get_hash(level, start + at) for at in range(path.width))
        with sources.unsigned(source):
            if sources.tile(source, path) != b"".join(hashes):
                raise LogError(
                    f"{source.name}/{path}: expected the hashes of the entries, got others"
                )
        progress("tiles compared", done, len(paths))


def check_history(source: Source, anchor: Anchor, tree: Tree | None) -> int:
    """The newest checkpoint continues the anchored tree; how many entries it adds.

    Where there is no consistency proof, as in a static export, the tail itself is hashed.
    """
    newest = source.get("checkpoint")
    with sources.unsigned(source):
        now = checkpoints.verify(newest, origin=anchor.origin, log_key=anchor.log_key)
    _not_contradicted(now, anchor, tree)
    with sources.unsigned(source):
        return _history(source, anchor, tree, now)


def _not_contradicted(now: Checkpoint, anchor: Anchor, tree: Tree | None) -> None:
    """The log signed `now`, whoever handed it over. Raises LogError where it is of another tree
    than the anchored one."""
    if now.size == anchor.size and now.root != anchor.root:
        raise LogError(f"the log signed another tree of {now.size} entries than the anchored one")
    if tree is not None and now.size < anchor.size and now.root != tree.root(now.size):
        raise LogError(f"the anchored tree does not continue the log's signed tree of {now.size}")


def _history(source: Source, anchor: Anchor, tree: Tree | None, now: Checkpoint) -> int:
    if now.size < anchor.size:
        raise LogError(
            f"expected at least {anchor.size} entries, the newest checkpoint has {now.size}"
        )
    try:
        answer = source.get(f"consistency?from={anchor.size}&to={now.size}")
    except Unavailable:
        if tree is None:
            raise
        _continue(source, tree, now)
        return now.size - anchor.size
    verify_consistency(
        old_size=anchor.size,
        old_root=anchor.root,
        new_size=now.size,
        new_root=now.root,
        proof=_hashes(answer),
    )
    return now.size - anchor.size


def _continue(source: Source, tree: Tree, now: Checkpoint) -> None:
    """Appends the tail to a copy of the anchored tree and compares the root."""
    size = len(tree)
    start = size // WIDTH * WIDTH
    longer = Tree()
    for index in range(size):
        longer.append_hash(tree.get_hash(0, index))
    for leaf in leaves_of(source, now.size, first=start)[size - start :]:
        longer.append(leaf)
    if longer.root() != now.root:
        raise LogError("the log's newest entries do not hash to the root of its newest checkpoint")


def hashes_from_tiles(source: Source, size: int) -> GetHash:
    """Reads subtree roots out of hash tiles, each fetched once. Unverified: what a proof from
    it leads to is compared with the anchored root."""
    kept: dict[TilePath, bytes] = {}

    def get(level: int, index: int) -> bytes:
        row, height = divmod(level, HEIGHT)
        number, offset = divmod(index << height, WIDTH)
        path = TilePath(row, number, min(WIDTH, (size >> HEIGHT * row) - number * WIDTH))
        if path not in kept:
            kept[path] = sources.tile(source, path)
        digests = [_at(kept[path], offset + step) for step in range(1 << height)]
        while len(digests) > 1:
            pairs = zip(digests[::2], digests[1::2], strict=True)
            digests = [node_hash(left, right) for left, right in pairs]
        return digests[0]

    return get


def leaf_at(source: Source, index: int, size: int) -> bytes:
    """One entry's bytes, unverified: `index` is below `size`."""
    number, offset = divmod(index, WIDTH)
    path = TilePath(None, number, min(WIDTH, size - number * WIDTH))
    return sources.bundle(source, path)[offset]


def _at(tile: bytes, position: int) -> bytes:
    return tile[position * HASH_BYTES : (position + 1) * HASH_BYTES]


def _hashes(answer: bytes) -> tuple[bytes, ...]:
    try:
        return tuple(bytes.fromhex(item) for item in json.loads(answer)["hashes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParseError('consistency: expected JSON {"hashes": [hex, …]}') from None
