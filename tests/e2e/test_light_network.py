"""Everything proven: client, audit and proof file under a policy that takes no endpoint's word.

A machine's beacon is a block of a TON with validators, the log's state an account in it; both
come from a lite server over ADNL, and no toncenter is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestation.errors import Refused, Unavailable
from attestation.trust.anchor import BlockRef
from attestation.verify.verifier import Verifier
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.proving import HERE, check, prove
from client_sdk.auditing.single import audit_entry
from client_sdk.chain_reader import ChainReader
from contracts import artefact
from contracts.chain import ReadOnlyChain
from contracts.endpoint import reading
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.helpers.lite_server import LiteChain, serving, write_config
from tests.helpers.ton_chain import BEFORE, LOG_ADDRESS, TonChain
from tests.helpers.world import NOW, World


@dataclass
class Proven:
    """One machine in a log of two entries, its chain behind a lite server."""

    world: World
    net: Net
    chain: TonChain
    config: Path

    def reading(self, more: str = "") -> ReadOnlyChain:
        return reading(f"lite:{self.config}{more}")

    def auditor(self, chain: ReadOnlyChain) -> Auditor:
        return Auditor(policy=self.world.policy, chain=chain, transport=self.net)  # type: ignore[arg-type]


def settled(directory: Path) -> tuple[World, Net, TonChain]:
    """The beacon's block is of the same hash whatever the log's account holds later."""
    middle = TonChain(utime=NOW).middle.block
    beacon = BlockRef(middle.seqno, middle.root_hash, NOW - BEFORE, "proven")
    world = start(directory, beacon, LOG_ADDRESS)
    world.policy = dataclasses.replace(world.policy, anchor="proven")
    net = Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])
    code = artefact.load("attestation_log").code
    return world, net, TonChain(data=net.state.to_cell(), code=code, utime=NOW)


@pytest.fixture
def proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proven]:
    monkeypatch.setattr("contracts.light.chain._now", lambda: NOW)
    world, net, chain = settled(tmp_path / "simulator")
    with serving(LiteChain(chain)) as server:
        config = write_config(tmp_path / "config.json", chain.first.block, server)
        yield Proven(world, net, chain, config)


def test_a_client_verifies_with_nothing_but_proofs(proven: Proven) -> None:
    reader = ChainReader(proven.reading(), proven.world.policy)
    machines = audit_entry(proven.auditor(reader.chain), LOG_ADDRESS, 1, AuditScope()).machines
    presented = machines.presented(1, machines.leaf_at(1))
    given = {"anchor": reader.anchor(), "beacon": reader.beacon(150), "now": NOW}
    verifier = Verifier(proven.world.policy)
    assert verifier.verify(presented, **given).report.ok
    for name in ("anchor", "beacon"):
        word = dataclasses.replace(given[name], level="reported")
        with pytest.raises(Refused):
            verifier.verify(presented, **{**given, name: word})


def test_an_audit_rests_on_no_endpoint(proven: Proven) -> None:
    audit = proven.auditor(proven.reading()).run(LOG_ADDRESS)
    assert audit.exit_code == 0, audit.problems
    assert audit.level == "proven" and audit.entries[1].verdict == "verified"


def test_two_files_prove_an_enclave_without_a_network(proven: Proven, tmp_path: Path) -> None:
    saved = tmp_path / "chain.lite"
    auditor = proven.auditor(proven.reading(f"?save={saved}"))
    file = prove(audit_entry(auditor, LOG_ADDRESS, 1, AuditScope())).to_bytes()
    again = EnclaveProof.from_bytes(file)
    checked = check(again, proven.world.policy, proven.reading(f"?from={saved}"))
    assert checked.exit_code == 0, (checked.problems, checked.report)
    assert {statement.rests_on for statement in checked.statements} == {HERE}
    assert check(again, proven.world.policy).exit_code == 1  # the prover's word is not enough


def test_a_chain_of_somebody_else_proves_nothing(proven: Proven, tmp_path: Path) -> None:
    """Its own validators, the same log in it."""
    chain = proven.chain
    stranger = TonChain(data=chain.data, code=chain.code, utime=NOW, main_count=7)
    with serving(LiteChain(stranger)) as server:
        config = write_config(tmp_path / "other.json", chain.first.block, server)
        with pytest.raises(Unavailable):
            proven.auditor(reading(f"lite:{config}")).run(LOG_ADDRESS)
