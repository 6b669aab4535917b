"""What people see of entries, proof files and comparisons: every fact, and no markup of a log's."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from attestation.log.leaf import Leaf
from attestation.verify.verifier import PLAN
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.comparison import compare
from client_sdk.auditing.proving import check, prove
from client_sdk.auditing.single import AuditedEntry, audit_entry
from client_sdk.auditing.sources import DirectorySource
from client_sdk.auditing.view import leaf_rows, show_audit, show_compared, show_entry, show_proof
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.client_sdk.test_client_audit import CONTRACT
from tests.helpers.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def net(world: World) -> Net:
    return Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])


def single(net: Net, index: int) -> AuditedEntry:
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net)  # type: ignore[arg-type]
    return audit_entry(auditor, CONTRACT, index, AuditScope())


def seen(show: Callable[[Console], None]) -> str:
    screen = io.StringIO()
    show(Console(file=screen, width=200))
    return screen.getvalue()


def test_an_entry_shows_leaf_report_and_proof(net: Net) -> None:
    found = single(net, 1)
    text = seen(lambda console: show_entry(console, found))
    leaf = Leaf.from_bytes(found.data)
    for expected in (leaf.evidence_digest.hex(), "cpu-tcb", "c2sp.org/tlog-proof@v1", "SIMULATED"):
        assert expected in text
    assert "verdict: verified" in text and "[bold" not in text


def test_an_entry_that_is_not_there_shows_why(net: Net) -> None:
    del net.answers["tile/entries/000.p/2"]
    found = single(net, 1)
    text = seen(lambda console: show_entry(console, found))
    assert "incomplete" in text and "verdict: not checked" in text


def test_a_release_shows_no_zeros(net: Net) -> None:
    names = [name for name, _ in leaf_rows(RELEASE)]
    assert names == ["kind", "evidence"]


def test_a_proof_shows_what_rests_on_whom(net: Net) -> None:
    file = prove(single(net, 1))
    text = seen(lambda console: show_proof(console, check(file, net.world.policy)))
    assert text.count("checked here") == 3 and text.count("the prover's word") >= 2
    assert "SIMULATED" in text and "verdict: the proof holds" in text


def test_a_comparison_shows_both_sides(net: Net, tmp_path: Path) -> None:
    a, b = net.export(tmp_path / "a"), tmp_path / "b"
    done = compare(DirectorySource(a), DirectorySource(b), net.world.policy)
    text = seen(lambda console: show_compared(console, done))
    assert f"{b}: no usable checkpoint" in text and "2 entries" in text and "incomplete" in text


def test_an_audit_shows_its_findings(net: Net) -> None:
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net)  # type: ignore[arg-type]
    audit = auditor.run(CONTRACT)
    audit.finding("now:cpu-tcb/revoked", "entry 1: [bold]x[/bold]", 1)
    text = seen(lambda console: show_audit(console, audit))
    assert "finding: entry 1: [bold]x[/bold] [now:cpu-tcb/revoked]" in text


def test_an_explained_report_says_what_each_step_checks(net: Net) -> None:
    found = single(net, 1)
    proof = check(prove(found), net.world.policy, None)
    for explain, times in ((True, len(PLAN)), (False, 0)):
        entry = seen(partial(show_entry, single=found, explain=explain))
        shown = seen(partial(show_proof, checked=proof, explain=explain))
        assert entry.count("Checks: ") == shown.count("Checks: ") == times
