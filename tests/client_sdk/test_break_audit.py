"""A log that tells no lie about its tree, but logs what it should not: claims, forgeries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import NotThere, Unavailable
from attestation.formats.digests import sha256
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import Leaf, release_leaf
from attestation.log.merkle import Tree
from attestation.log.submission import ArchiveRecord
from attestation.log.tiles import HEIGHT, WIDTH, encode_bundle, tiles_of
from attestation.trust.anchor import BlockRef
from attestation.verify.verifier import Presented
from client_sdk.auditing.auditor import Auditor
from client_sdk.auditing.results import Audit
from contracts import artefact
from contracts.chain import AccountState
from contracts.codec import LogState
from tests.client_sdk.test_client_audit import CONTRACT, ORIGIN
from tests.helpers.world import BEACON, NOW, World

MANIFEST = b"release"
RELEASE = release_leaf(MANIFEST)


class Net:
    """A log of the given leaves, of which the machines' are about `presented`; its chain."""

    def __init__(
        self, world: World, leaves: Sequence[Leaf], presented: Presented, missing: Sequence[int]
    ) -> None:
        tree = Tree()
        for leaf in leaves:
            tree.append(leaf.to_bytes())
        self.world, size, self.gone = world, len(leaves), set[str]()
        note = checkpoints.sign(Checkpoint(ORIGIN, size, tree.root()), key=world.log_key)
        blobs = contents(presented)
        self.answers = {
            f"checkpoint/{size}": note,
            "checkpoint": note,
            f"consistency?from={size}&to={size}": b'{"hashes":[]}',
            f"tile/entries/000.p/{size}": encode_bundle([leaf.to_bytes() for leaf in leaves]),
        }
        for path in tiles_of(size):
            first = path.index * WIDTH
            hashes = (tree.get_hash(HEIGHT * path.level, first + at) for at in range(path.width))
            self.answers[str(path)] = b"".join(hashes)
        for data in (*blobs, MANIFEST):
            self.answers[f"evidence/sha256/{sha256(data).hex()}"] = data
        for index in range(size):
            if index not in missing:
                record = ArchiveRecord(index, *map(sha256, blobs))
                self.answers[f"submission/{index}"] = record.to_bytes()
        public = world.log_key.public_key().public_bytes_raw()
        genesis = LogState.genesis(origin=ORIGIN, log_key=public, size=size, root=tree.root())
        self.state = dataclasses.replace(genesis, time=NOW)

    def about(self, index: int, presented: Presented) -> None:
        """Entry `index` is about this machine instead."""
        blobs = contents(presented)
        for data in blobs:
            self.answers[f"evidence/sha256/{sha256(data).hex()}"] = data
        self.answers[f"submission/{index}"] = ArchiveRecord(index, *map(sha256, blobs)).to_bytes()

    def export(self, directory: Path) -> Path:
        """A static export of all that it answers."""
        for name, data in self.answers.items():
            if "?" in name:
                continue
            path = directory / name.replace("checkpoint/", "checkpoints/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory

    def get(self, url: str, *, limit: int = 0) -> bytes:
        path = url.removeprefix("http://127.0.0.1:9/log/")
        if path not in self.answers:
            raise (NotThere if path in self.gone else Unavailable)(path)
        return self.answers[path]

    def account(self, address: str) -> AccountState:
        code = artefact.load("attestation_log").code_boc
        return AccountState(address, code, self.state.to_cell().to_boc(), 1, "active", NOW + 10, 7)

    def block(self, seqno: int) -> BlockRef:
        return self.world.beacon


def contents(presented: Presented) -> tuple[bytes, ...]:
    """In the order of a Record."""
    return (
        presented.evidence,
        presented.engine_config,
        presented.price_table,
        presented.host_config,
        presented.collateral.to_bytes(),
    )


def start(directory: Path, beacon: BlockRef = BEACON, contract: str = CONTRACT) -> World:
    """A world whose policy pins the log of a Net."""
    world = World.start(directory, beacon)
    world.policy = dataclasses.replace(
        world.policy,
        log_contract=contract,
        log_code_hash=artefact.load("attestation_log").code_hash,
        log_origin=ORIGIN,
    )
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


def audit(
    world: World,
    *leaves: Leaf,
    presented: Presented | None = None,
    missing: Sequence[int] = (),
) -> Audit:
    net = Net(world, leaves, presented or world.presented(), missing)
    return Auditor(policy=world.policy, chain=net, transport=net).run(CONTRACT)  # type: ignore[arg-type]


def boot(world: World, presented: Presented | None = None, **changes: Any) -> Leaf:
    leaf: Leaf = world.leaf(presented or world.presented())
    return dataclasses.replace(leaf, **{"release": None, **changes})


def codes(found: Audit) -> set[str]:
    return {problem.code for problem in found.problems}


def test_a_boot_under_its_release_has_no_problems(world: World) -> None:
    found = audit(world, RELEASE, boot(world, release=0))
    assert found.exit_code == 0 and found.entries[1].verdict == "verified", found.problems


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "a release that is none": ({"release": 1}, "bad-release"),
    "a release to come": ({"release": 2}, "bad-release"),
    "a boot after a boot": ({"previous": 0}, "bad-previous"),
    "a renewal of nothing": ({"kind": 2}, "bad-previous"),
    "a renewal of a release": ({"kind": 2, "previous": 0}, "bad-previous"),
    "a renewal of itself": ({"kind": 2, "previous": 1}, "bad-previous"),
    "another statement": ({"statement": bytes(32)}, "bad-evidence"),
    "another measurement": ({"measurement_digest": bytes(32)}, "bad-evidence"),
    "other collateral": ({"collateral_digest": bytes(32)}, "bad-entry"),
}


@pytest.mark.parametrize(("changes", "code"), CLAIMS.values(), ids=CLAIMS)
def test_a_claim_that_does_not_fit_is_a_violation(
    world: World, changes: dict[str, Any], code: str
) -> None:
    found = audit(world, RELEASE, boot(world, **changes))
    assert found.exit_code == 1 and codes(found) == {code}, found.problems


def test_one_statement_has_one_entry(world: World) -> None:
    assert codes(audit(world, boot(world), boot(world))) == {"twice"}


def test_a_release_leaf_says_nothing_else(world: World) -> None:
    hidden = dataclasses.replace(RELEASE, statement=b"\x01" * 32)
    assert codes(audit(world, hidden)) == {"bad-entry"}


def test_a_renewal_whose_boot_cannot_be_fetched_is_no_violation(world: World) -> None:
    renewal = boot(world, kind=2, previous=0)
    other = boot(world, statement=b"\x02" * 32)
    found = audit(world, other, renewal, missing=[0])
    assert codes(found) == {"unavailable"} and found.exit_code == 6
    found = audit(world, other, renewal, missing=[1])
    assert "bad-previous" not in codes(found)


@pytest.mark.parametrize("forged", ["debug", "another root"])
def test_a_forgery_in_an_honest_tree_is_a_violation(world: World, forged: str) -> None:
    evidence = (
        world.forge(td_attributes=b"\1" + bytes(7))
        if forged == "debug"
        else world.forge(other_root=True)
    )
    presented = world.presented(evidence)
    found = audit(world, boot(world, presented), presented=presented)
    assert codes(found) == {"bad-evidence"} and found.entries[0].verdict == "refused"
