"""Leaves, tile paths, tiles and entry bundles: one form each, bad cases by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError, UmayError
from attestation.formats import cbor
from attestation.log import tiles
from attestation.log.leaf import Leaf, release_leaf
from attestation.log.merkle import Tree
from attestation.log.tiles import TilePath

LEAF = Leaf(
    kind=2,
    platform=17,
    evidence_digest=b"\1" * 32,
    bundle_digest=b"\2" * 32,
    measurement_digest=b"\3" * 32,
    release=0,
    collateral_digest=b"\4" * 32,
    beacon=(52_956_904, b"\5" * 32),
    previous=41,
    statement=b"\6" * 32,
)


def test_a_leaf_is_the_map_of_the_design() -> None:
    data = LEAF.to_bytes()
    assert cbor.decode(data) == {
        0: 1,
        1: 2,
        2: 17,
        3: b"\1" * 32,
        4: b"\2" * 32,
        5: b"\3" * 32,
        6: 0,
        7: b"\4" * 32,
        8: [52_956_904, b"\5" * 32],
        9: 41,
        10: b"\6" * 32,
    }
    assert Leaf.from_bytes(data) == LEAF
    assert len(data) < 256


def test_optional_keys_are_absent_when_they_say_nothing() -> None:
    leaf = release_leaf(b"manifest")
    fields = cbor.decode(leaf.to_bytes())
    assert set(fields) == {0, 1, 2, 3, 4, 5, 7, 8, 10}
    assert Leaf.from_bytes(leaf.to_bytes()) == leaf
    assert leaf.platform == 0


BAD_LEAVES = {
    "version 2": {0: 2},
    "version true": {0: True},
    "kind 0": {1: 0},
    "kind 6": {1: 6},
    **{f"kind {kind} of no machine": {1: kind, 2: 0} for kind in (0, 6, 7, 9)},
    "kind true": {1: True},
    "platform 0 of a machine": {2: 0},
    "platform 3": {2: 3},
    "a release with a platform": {1: 3},
    "short digest": {3: bytes(31)},
    "digest as text": {4: "x" * 32},
    "measurement missing its bytes": {5: b""},
    "release null": {6: None},
    "release negative": {6: -1},
    "release over 63 bits": {6: 2**63},
    "long collateral digest": {7: bytes(33)},
    "beacon without hash": {8: [1]},
    "beacon seqno over 32 bits": {8: [2**32, bytes(32)]},
    "beacon seqno true": {8: [True, bytes(32)]},
    "previous as bytes": {9: b"\1"},
    "statement null": {10: None},
    "critical key": {-1: 0},
}


@pytest.mark.parametrize("change", BAD_LEAVES.values(), ids=BAD_LEAVES)
def test_bad_leaves_are_refused(change: dict[int, object]) -> None:
    with pytest.raises(ParseError):
        Leaf.from_bytes(cbor.encode(cbor.decode(LEAF.to_bytes()) | change))


@pytest.mark.parametrize("key", [0, 1, 2, 3, 4, 5, 7, 8, 10])
def test_a_leaf_without_a_required_key_is_refused(key: int) -> None:
    fields = cbor.decode(LEAF.to_bytes())
    del fields[key]
    with pytest.raises(ParseError):
        Leaf.from_bytes(cbor.encode(fields))


PATHS = {
    "tile/0/000": TilePath(0, 0),
    "tile/0/255.p/1": TilePath(0, 255, 1),
    "tile/1/x001/000": TilePath(1, 1000),
    "tile/0/x001/x234/067": TilePath(0, 1_234_067),
    "tile/7/x001/x234/067.p/255": TilePath(7, 1_234_067, 255),
    "tile/entries/x001/x234/067.p/3": TilePath(None, 1_234_067, 3),
    "tile/entries/000": TilePath(None, 0),
}


@pytest.mark.parametrize(("text", "path"), PATHS.items(), ids=PATHS)
def test_tile_paths(text: str, path: TilePath) -> None:
    assert TilePath.parse(text) == path
    assert str(path) == text


BAD_PATHS = (
    "",
    "tile",
    "tile/0",
    "tile/0/",
    "tile/0/0",
    "tile/00/000",
    "tile/8/000",
    "tile/-1/000",
    "tile/data/000",
    "tile/0/0000",
    "tile/0/001/000",
    "tile/0/x000/001",
    "tile/0/x001",
    "tile/0/x001/x000",
    "tile/0/X001/000",
    "tile/0/000.p/",
    "tile/0/000.p/0",
    "tile/0/000.p/01",
    "tile/0/000.p/256",
    "tile/0/000.p/1.p/1",
    "tile/0/000/",
    "tile/0/000\n",
    "tile/0/٠٠٠",
    "tile/0/../../checkpoint",
    "tile/0/" + "x001/" * 7 + "000",
)


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_tile_paths_are_refused(path: str) -> None:
    with pytest.raises(ParseError):
        TilePath.parse(path)


def test_the_tiles_of_70000_leaves_are_the_specifications() -> None:
    found = tiles.tiles_of(70_000)
    assert sum(path.level == 0 and path.width == 256 for path in found) == 273
    assert TilePath(0, 273, 112) in found
    assert TilePath(1, 0) in found and TilePath(1, 1, 17) in found and TilePath(2, 0, 1) in found
    assert len(found) == 277
    assert tiles.tiles_of(256) == [TilePath(0, 0), TilePath(1, 0, 1)]
    assert tiles.tiles_of(0) == []


def test_a_tile_holds_the_tree_below_its_root() -> None:
    tree = Tree()
    for number in range(256):
        tree.append(b"%d" % number)
    tile = b"".join(tree.get_hash(0, at) for at in range(256))
    rows = tiles.pyramid(tile)
    for level in range(9):
        for index in range(256 >> level):
            expected = tree.get_hash(level, index)
            assert rows[level][index] == expected
            assert tiles.subtree(tile, level, index << level) == expected


@pytest.mark.parametrize("length", [0, 31, 33, 257 * 32])
def test_a_tile_is_1_to_256_whole_hashes(length: int) -> None:
    with pytest.raises(ParseError):
        tiles.split_hashes(bytes(length))


BAD_BUNDLES = {
    "half a length": b"\0",
    "length without entry": b"\0\1",
    "short entry": b"\0\3ab",
    "257 entries": b"\0\1x" * 257,
}


@pytest.mark.parametrize("data", BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_bad_bundles_are_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        tiles.decode_bundle(data)


def test_bundles_have_limits() -> None:
    assert tiles.decode_bundle(tiles.encode_bundle([b"x" * 65535])) == (b"x" * 65535,)
    for leaves in ([b"x" * 65536], [b"x"] * 257):
        with pytest.raises(ParseError):
            tiles.encode_bundle(leaves)


@given(st.lists(st.binary(max_size=20), max_size=12))
def test_hypothesis_bundle_identity(leaves: list[bytes]) -> None:
    assert list(tiles.decode_bundle(tiles.encode_bundle(leaves))) == leaves


@given(st.binary(max_size=60), st.text("tile/entriesx0123456789.p/", max_size=24))
def test_hypothesis_arbitrary_bytes(data: bytes, path: str) -> None:
    for parse, back in (
        (tiles.decode_bundle, tiles.encode_bundle),
        (Leaf.from_bytes, Leaf.to_bytes),
    ):
        try:
            assert back(parse(data)) == data  # type: ignore[arg-type]
        except UmayError:
            pass
    for text in (path, "tile/" + path, "tile/0/" + path):
        try:
            assert str(TilePath.parse(text)) == text
        except UmayError:
            pass


@given(st.integers(0, len(LEAF.to_bytes()) - 1), st.integers(1, 255))
def test_hypothesis_flipped_leaves_are_other_leaves_or_refused(at: int, flip: int) -> None:
    data = bytearray(LEAF.to_bytes())
    data[at] ^= flip
    try:
        assert Leaf.from_bytes(bytes(data)) != LEAF
    except ParseError:
        pass


@given(st.one_of(st.none(), st.integers(0, 7)), st.integers(0, 10**18 - 1), st.integers(1, 256))
def test_hypothesis_path_identity(level: int | None, index: int, width: int) -> None:
    path = TilePath(level, index, width)
    assert TilePath.parse(str(path)) == path


def test_a_bundle_that_ends_inside_an_entry() -> None:
    assert tiles.decode_bundle(b"\0\0") == (b"",)
    assert tiles.decode_bundle(b"\0\3abc") == (b"abc",)
    for data in (b"\0", b"\0\1", b"\0\5abc", b"\0\0\0\5abc"):
        with pytest.raises(ParseError, match="it ends inside one"):
            tiles.decode_bundle(data)
