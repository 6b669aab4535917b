"""A damaged mirror is named, and leaves the audit incomplete: it is no word of the log's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.comparison import compare
from client_sdk.auditing.results import Audit
from client_sdk.auditing.single import audit_entry
from client_sdk.auditing.sources import DirectorySource
from tests.helpers.log_served import KEY
from tests.helpers.planted import CONTRACT, DAMAGE, FIRST, SIZE, Place, planted, replace
from tests.helpers.world import World

UNREAD = "an older size's tile with a bit changed"
READ = {name: damage for name, damage in DAMAGE.items() if name != UNREAD}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("log")
    with planted(World.start(tmp_path_factory.mktemp("simulator")), directory) as place:
        yield place


def audit(place: Place, mirror: Path, only: int | None = None) -> Audit:
    auditor = Auditor(policy=place.policy, chain=place, mirror=str(mirror))
    if only is not None:
        return audit_entry(auditor, CONTRACT, only, AuditScope()).audit
    return auditor.run(CONTRACT)


def blamed(found: Audit, mirror: Path) -> None:
    assert found.exit_code == 6, found.problems
    assert any(str(mirror) in problem.text for problem in found.problems), found.problems


def test_a_whole_mirror_audits_like_the_log(place: Place) -> None:
    found = audit(place, place.export)
    assert found.exit_code == 0, found.problems
    assert sum(entry.verdict == "verified" for entry in found.entries) == 2


@pytest.mark.parametrize("damage", READ.values(), ids=READ)
def test_damage_is_the_mirrors(
    place: Place, tmp_path: Path, damage: Callable[[Place, Path], str]
) -> None:
    mirror = place.copy(tmp_path / "mirror")
    damage(place, mirror)
    blamed(audit(place, mirror), mirror)


OF_ONE_ENTRY = [
    "a short partial tile",
    "an upper tile with a bit changed",
    "a bundle with an entry less",
    "an empty bundle",
    "a swapped submission",
    "a submission with another engine config",
    "short evidence",
    "a damaged checkpoint",
]


@pytest.mark.parametrize("name", OF_ONE_ENTRY)
def test_damage_is_the_mirrors_where_one_entry_is_asked_for(
    place: Place, tmp_path: Path, name: str
) -> None:
    mirror = place.copy(tmp_path / "mirror")
    DAMAGE[name](place, mirror)
    blamed(audit(place, mirror, only=FIRST), mirror)


# What the log signed it answers for, whoever hands it over


def signed(place: Place, size: int) -> bytes:
    origin = place.url.partition("://")[2]
    return checkpoints.sign(Checkpoint(origin, size, b"\1" * 32), key=KEY)


@pytest.mark.parametrize(
    ("path", "size"),
    [(f"checkpoints/{SIZE}", SIZE), ("checkpoint", SIZE), ("checkpoint", 260)],
    ids=["the anchored size", "the newest", "an older one"],
)
def test_another_tree_that_the_log_signed_is_its_violation(
    place: Place, tmp_path: Path, path: str, size: int
) -> None:
    mirror = place.copy(tmp_path / "mirror")
    replace(mirror / path, signed(place, size))
    found = audit(place, mirror)
    assert found.exit_code == 1 and found.problems[0].severity == "violation", found.problems


def test_a_mirror_that_is_behind_the_anchor_says_so(place: Place, tmp_path: Path) -> None:
    mirror = place.copy(tmp_path / "mirror")
    replace(mirror / "checkpoint", (mirror / "checkpoints/260").read_bytes())
    blamed(audit(place, mirror), mirror)


def test_evidence_that_does_not_verify_is_a_violation_over_a_mirror_too(place: Place) -> None:
    """It has the hash that the anchored tree holds, so the mirror did not make it."""
    policy = dataclasses.replace(place.policy, models=(("demo", b"\x01" * 32),))
    found = Auditor(policy=policy, chain=place, mirror=str(place.export)).run(CONTRACT)
    assert found.exit_code == 1
    assert {problem.code for problem in found.problems} == {"bad-evidence"}


def test_a_damaged_mirror_compared_with_a_whole_one(place: Place, tmp_path: Path) -> None:
    mirror = place.copy(tmp_path / "mirror")
    DAMAGE["a bundle with a bit changed"](place, mirror)
    done = compare(DirectorySource(place.export), DirectorySource(mirror), place.policy)
    assert done.exit_code == 6 and str(mirror) in done.problems[0].text
    assert not any(f"{place.export} " in problem.text for problem in done.problems)
