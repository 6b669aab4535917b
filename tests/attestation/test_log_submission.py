"""What a log archives about an entry is what its leaf and its KeyBundle name."""

from __future__ import annotations

import dataclasses

import pytest

from attestation.errors import NotAuthentic
from attestation.formats.collateral import Collateral
from attestation.log.leaf import Leaf
from attestation.log.submission import ArchiveRecord, check_archived
from tests.helpers.world import World

WRONG = {
    "collateral": Collateral({"intel/tcb_info": b"other"}).to_bytes(),
    "engine_config": b"other",
    "price_table": b"other",
    "host_config": b"other",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def kept(world: World) -> tuple[Leaf, dict[str, bytes]]:
    presented = world.presented()
    fields = ("evidence", "engine_config", "price_table", "host_config")
    parts = {name: getattr(presented, name) for name in fields}
    return world.leaf(presented), {**parts, "collateral": presented.collateral.to_bytes()}


def test_what_the_leaf_names_is_archived(world: World) -> None:
    leaf, parts = kept(world)
    check_archived(leaf, **parts)


@pytest.mark.parametrize("part", WRONG)
def test_a_part_that_is_not_the_one_named(world: World, part: str) -> None:
    leaf, parts = kept(world)
    with pytest.raises(NotAuthentic) as caught:
        check_archived(leaf, **{**parts, part: WRONG[part]})
    assert caught.value.code == "other-record"
    assert part.replace("_", " ") in caught.value.message


@pytest.mark.parametrize("change", [{"index": 8}, {"evidence": b"\7" * 32}])
def test_a_record_of_another_entry(world: World, change: dict[str, object]) -> None:
    leaf, _ = kept(world)
    record = ArchiveRecord(7, leaf.evidence_digest, *(bytes(32),) * 4)
    record.check_of(7, leaf)
    with pytest.raises(NotAuthentic) as caught:
        dataclasses.replace(record, **change).check_of(7, leaf)
    assert caught.value.code == "other-record"
