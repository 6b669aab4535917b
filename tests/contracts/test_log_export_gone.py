"""An export of a log that keeps renewals' evidence for some days only, and an audit of it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.errors import NotAuthentic, NotThere, Unavailable
from attestation.log.submission import ArchiveRecord
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.cli import umay
from contracts.logservice.export import Export
from contracts.logservice.store import Entry
from tests.client_sdk.test_break_audit import CONTRACT, ORIGIN, Net, boot, contents, start
from tests.helpers.log_served import KEY, serving
from tests.helpers.world import NOW, World

BASE = "http://127.0.0.1:9/log/"
DAY = 86_400
LATER = NOW + 20 * DAY


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def net(world: World) -> Net:
    """A boot, and a renewal whose evidence, of other bytes, the log has deleted."""
    renewal = boot(
        world,
        kind=2,
        previous=0,
        statement=b"\x02" * 32,
        evidence_digest=sha256(b"deleted").digest(),
    )
    net = Net(world, [boot(world), renewal], world.presented(), [])
    _, *others = contents(world.presented())
    record = ArchiveRecord(1, *(sha256(data).digest() for data in (b"deleted", *others)))
    net.answers["submission/1"] = record.to_bytes()
    net.gone.add(evidence(b"deleted"))
    return net


def evidence(data: bytes) -> str:
    return f"evidence/sha256/{sha256(data).hexdigest()}"


def export(net: Net, directory: Path) -> Export:
    written = Export(directory, lambda path: net.get(BASE + path))
    key = net.world.log_key.public_key().public_bytes_raw()
    assert written.run(origin=ORIGIN, log_key=key) == 2
    return written


def audited(net: Net, directory: Path, kept: int | None) -> set[str]:
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, mirror=str(directory))
    found = auditor.run(CONTRACT, AuditScope(now=LATER, renewals_kept_s=kept))
    assert found.exit_code == 6, found.problems
    return {problem.code for problem in found.problems if problem.index == 1}


def test_a_renewals_deleted_evidence_is_counted_and_the_rest_exported(
    net: Net, tmp_path: Path
) -> None:
    assert export(net, tmp_path).renewals_gone == 1
    assert (tmp_path / "submission/1").exists() and (tmp_path / "checkpoint").exists()
    assert not (tmp_path / evidence(b"deleted")).exists()
    assert export(net, tmp_path).renewals_gone == 1  # again, over what lies there


def test_its_audit_grants_what_the_auditor_grants(net: Net, tmp_path: Path) -> None:
    export(net, tmp_path)
    assert audited(net, tmp_path, DAY) == {"passed"}
    assert audited(net, tmp_path, None) == {"unavailable"}
    assert audited(net, tmp_path, 365 * DAY) == {"unavailable"}


def test_what_was_exported_before_the_log_deleted_it_stays(net: Net, tmp_path: Path) -> None:
    path = evidence(b"deleted")
    net.answers[path] = b"deleted"
    assert export(net, tmp_path).renewals_gone == 0
    del net.answers[path]
    assert export(net, tmp_path).renewals_gone == 0
    assert (tmp_path / path).read_bytes() == b"deleted"


def test_a_boots_evidence_may_not_be_missing(world: World, tmp_path: Path) -> None:
    net = Net(world, [boot(world), boot(world)], world.presented(), [])
    path = evidence(world.presented().evidence)
    del net.answers[path]
    net.gone.add(path)
    with pytest.raises(NotThere):
        export(net, tmp_path)


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_a_renewals_configs_and_collateral_may_not_be_missing(
    net: Net, tmp_path: Path, part: int
) -> None:
    path = evidence(contents(net.world.presented())[part])
    del net.answers[path]
    net.gone.add(path)
    with pytest.raises(NotThere):
        export(net, tmp_path)


def test_a_log_that_is_silent_about_evidence_has_not_deleted_it(net: Net, tmp_path: Path) -> None:
    net.gone.clear()
    with pytest.raises(Unavailable):
        export(net, tmp_path)


def test_a_damaged_file_whose_evidence_is_deleted_is_named(net: Net, tmp_path: Path) -> None:
    export(net, tmp_path)
    place = tmp_path / evidence(b"deleted")
    place.write_bytes(b"other")
    with pytest.raises(Unavailable, match=f"{place}: the file is damaged.*remove the file"):
        export(net, tmp_path)


def test_a_renewal_without_evidence_has_the_collateral_of_its_leaf(
    net: Net, tmp_path: Path
) -> None:
    record = ArchiveRecord.from_bytes(net.answers["submission/1"])
    evidence_, *configs, _ = record.digests
    net.answers["submission/1"] = ArchiveRecord(1, evidence_, *configs, configs[0]).to_bytes()
    with pytest.raises(NotAuthentic):
        export(net, tmp_path)


def test_the_command_says_how_many(world: World, tmp_path: Path) -> None:
    leaves = [boot(world), boot(world, kind=2, previous=0, evidence_digest=sha256(b"x").digest())]
    blobs = contents(world.presented())
    entries = []
    for index, leaf in enumerate(leaves):
        digests = [leaf.evidence_digest, *(sha256(data).digest() for data in blobs[1:])]
        record = ArchiveRecord(index, *digests).to_bytes()
        kept = blobs if index == 0 else blobs[1:]
        entries.append(Entry(b"%d" % index, leaf.to_bytes(), kept, record=lambda _, r=record: r))
    out = tmp_path / "out"
    key = KEY.public_key().public_bytes_raw().hex()
    with serving(tmp_path / "store", [entries]) as url:
        words = ["log", "export", str(out), "--log", url, "--log-key", key]
        done = CliRunner().invoke(umay, words)
    assert done.exit_code == 0, done
    assert json.loads(done.output)["renewals_gone"] == 1
