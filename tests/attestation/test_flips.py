"""One changed byte of accepted Evidence, at every place: never the same acceptance.

A log's leaf names the digest of the evidence, so the log step refuses any change. Beyond
that, what is asked here is whether an earlier step refuses too: a byte that only the digest
covers is listed below, with the reason. UMAY_FLIP=all tries every byte, else a sample.
"""

from __future__ import annotations

import os

import pytest

from attestation.errors import UmayError
from attestation.verify import verifier as plan
from attestation.verify.verifier import Verifier
from enclave.simulator.amd import SimulatedAmd
from tests.attestation.test_verifier_snp import SnpWorld
from tests.helpers.world import NOW, World

STEP = 1 if os.environ.get("UMAY_FLIP") == "all" else 61


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def survivors(world: World, evidence: bytes) -> list[int]:
    """Places where a changed byte passes steps 1 to 10."""
    verifier = Verifier(world.policy)
    found = []
    for at in range(0, len(evidence), STEP):
        changed = evidence[:at] + bytes([evidence[at] ^ 1]) + evidence[at + 1 :]
        presented = world.presented(evidence=world.evidence)
        case = verifier._case(
            type(presented)(**{**vars(presented), "evidence": changed}),
            anchor=None,
            beacon=world.beacon,
            now=NOW,
        )
        try:
            _, error = plan._run(case, plan._BEFORE_LOG, stop=True)
        except UmayError:
            continue
        if error is None:
            found.append(at)
    return found


def test_tdx_with_a_gpu(world: World) -> None:
    evidence = world.evidence.to_bytes()
    allowed = unmeasured(evidence, world.evidence.ccel)
    assert [at for at in survivors(world, evidence) if at not in allowed] == []


def unmeasured(evidence: bytes, ccel: bytes) -> set[int]:
    """Event data in the CCEL, its first record and its notes: no register covers them. They are
    shown to people only with that remark, and the evidence digest in the log covers them."""
    from attestation.platforms import tdx

    start = evidence.index(ccel)
    places: set[int] = set()
    at = len(ccel) - sum(len(event.to_bytes()) for event in tdx.parse_ccel(ccel).events)
    places.update(range(start, start + at))
    for event in tdx.parse_ccel(ccel).events:
        whole = len(event.to_bytes())
        if not event.extends:
            places.update(range(start + at, start + at + whole))
        places.update(range(start + at + whole - len(event.data), start + at + whole))
        places.update(range(start + at + 4, start + at + 8))  # the event's type
        at += whole
    return places


def test_snp(world: World) -> None:
    snp = SnpWorld(world, SimulatedAmd("Milan"))
    assert survivors(snp.world, snp.evidence().to_bytes()) == []
