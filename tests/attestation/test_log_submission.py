"""What a log archives about an entry is what its leaf and its KeyBundle name."""

from __future__ import annotations

import dataclasses

import pytest

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.log.leaf import Leaf
from attestation.log.submission import (
    ArchiveRecord,
    Submission,
    SubmissionAnswer,
    check_archived,
)
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


ANSWER = SubmissionAnswer(4, 5, b"leaf")
RECORD = ArchiveRecord(7, *(bytes([number]) * 32 for number in range(5)))
SUBMISSION = Submission(1, b"e", b"c", b"p", b"h", b"m")
BAD_FORMS = {
    "index in text": (ANSWER, {0: "4"}),
    "size true": (ANSWER, {0: 0, 1: True}),
    "leaf in text": (ANSWER, {2: "leaf"}),
    "index of the size": (ANSWER, {0: 5}),
    "index below zero": (ANSWER, {0: -1}),
    "size of 64 bits": (ANSWER, {1: 2**63}),
    "record's index below zero": (RECORD, {0: -1}),
    "record's index of 64 bits": (RECORD, {0: 2**63}),
    "record's index true": (RECORD, {0: True}),
    "record's digest of 31 bytes": (RECORD, {5: bytes(31)}),
    "record's digest in text": (RECORD, {1: "0" * 32}),
    "submission of version 2": (SUBMISSION, {0: 2}),
    "submission of version true": (SUBMISSION, {0: True}),
    "submission's kind in text": (SUBMISSION, {1: "1"}),
    "submission of kind 0": (SUBMISSION, {1: 0, 7: 4}),
    "submission of kind 3": (SUBMISSION, {1: 3, 7: 4}),
    "submission's evidence in text": (SUBMISSION, {2: "e"}),
    "submission's collateral in text": (SUBMISSION, {6: "m"}),
}


@pytest.mark.parametrize(("good", "change"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_a_form_that_is_not_exactly_ours(
    good: SubmissionAnswer | ArchiveRecord | Submission, change: dict[int, object]
) -> None:
    assert type(good).from_bytes(good.to_bytes()) == good
    fields = cbor.decode(good.to_bytes(), limit=4096)
    assert isinstance(fields, dict)
    with pytest.raises(ParseError):
        type(good).from_bytes(cbor.encode({**fields, **change}))


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2**63 - 1), (2**63 - 2, 2**63 - 1)])
def test_an_answer_names_any_leaf_of_its_tree(index: int, size: int) -> None:
    answer = SubmissionAnswer(index, size, b"")
    assert SubmissionAnswer.from_bytes(answer.to_bytes()) == answer
