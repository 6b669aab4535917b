"""Step "witness": who counts, for which checkpoint, and for how long."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import NotAuthentic, Refused, VerificationError
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosign
from attestation.log.note import COSIGNATURE, Note, Signature, VerifierKey
from attestation.log.proof import Proof
from attestation.trust.anchor import Anchor
from attestation.trust.policy import WitnessRules
from attestation.verify.verifier import PLAN, Presented, Verifier
from attestation.verify.witness_step import check_witnesses
from tests.helpers.world import NOW, World

KEYS = {name: Ed25519PrivateKey.generate() for name in ("a1", "a2", "b1", "c1")}
DOMAINS = {"a1": "ada", "a2": "ada", "b1": "bela", "c1": "cora"}
Logged = tuple[Presented, Anchor]


def rules(required: int = 2, max_age_s: int = 600) -> WitnessRules:
    listed = tuple((vkey(name), DOMAINS[name]) for name in KEYS)
    return WitnessRules(required, max_age_s, listed)


def vkey(name: str) -> VerifierKey:
    return VerifierKey(name, KEYS[name].public_key().public_bytes_raw(), COSIGNATURE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def logged(world: World) -> Logged:
    return world.logged(world.presented())


def text_of(logged: Logged) -> str:
    return Note.from_bytes(Proof.from_bytes(logged[0].proof or b"").checkpoint).text


def line(text: str, name: str, *, age: int = 10) -> Signature:
    return cosign(text, name=name, key=KEYS[name], now=NOW - age)


def verify(world: World, logged: Logged, lines: list[Signature], **demanded: int) -> Any:
    presented, anchor = logged
    proof = Proof.from_bytes(presented.proof or b"")
    note = Note.from_bytes(proof.checkpoint)
    cosigned = Note(note.text, (*note.signatures, *lines)).to_bytes()
    proof = dataclasses.replace(proof, checkpoint=cosigned)
    policy = dataclasses.replace(world.policy, witnesses=rules(**demanded))
    presented = dataclasses.replace(presented, proof=proof.to_bytes())
    return Verifier(policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)


def refused(
    world: World, logged: Logged, lines: list[Signature], step: str = "witness", **demanded: int
) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(world, logged, lines, **demanded)
    assert caught.value.step == step
    return caught.value.code


def test_two_domains_of_three_are_enough(world: World, logged: Logged) -> None:
    text = text_of(logged)
    lines = [line(text, "a1", age=100), line(text, "a2", age=40), line(text, "b1", age=50)]
    found = verify(world, logged, lines)
    assert found.report.steps[-2].name == "witness" and "2 of 3" in found.report.steps[-2].detail
    assert found.valid_until == NOW - 50 + 600  # when the second of two domains gets too old
    assert [name for name, _ in PLAN][-3:] == ["log", "witness", "mint"]


def test_no_line_and_two_lines_of_one_domain_are_too_few(world: World, logged: Logged) -> None:
    text = text_of(logged)
    assert refused(world, logged, []) == "too-few"
    both = [line(text, "a1"), line(text, "a2")]
    assert refused(world, logged, both) == "too-few"
    assert refused(world, logged, [both[0], both[0], line(text, "a1", age=20)]) == "too-few"
    assert verify(world, logged, both, required=1)
    stranger = Ed25519PrivateKey.generate()
    unknown = cosign(text, name="b1", key=stranger, now=NOW)
    assert refused(world, logged, [line(text, "a1"), unknown]) == "too-few"


def test_old_cosignatures_and_those_of_the_future_do_not_count(
    world: World, logged: Logged
) -> None:
    text = text_of(logged)
    old = [line(text, "a1", age=601), line(text, "b1")]
    assert refused(world, logged, old) == "too-old"
    assert verify(world, logged, [line(text, "a1", age=599), line(text, "b1")])
    future = [line(text, "a1", age=-61), line(text, "b1")]
    assert refused(world, logged, future) == "too-few"
    assert verify(world, logged, [line(text, "a1", age=-60), line(text, "b1")])


def test_a_cosignature_counts_to_the_last_second_of_its_age(logged: Logged) -> None:
    text, demanded = text_of(logged), rules(required=1)
    for age in (600, 0, -60):
        note = Note(text, (line(text, "b1", age=age),))
        assert check_witnesses(note, demanded, now=NOW) == NOW - age
    for age, code in ((601, "too-old"), (-61, "too-few")):
        with pytest.raises(Refused, match=code):
            check_witnesses(Note(text, (line(text, "b1", age=age),)), demanded, now=NOW)


@pytest.mark.parametrize("first", ["a1", "a2"])
def test_the_newest_cosignature_of_a_domain_counts(logged: Logged, first: str) -> None:
    text = text_of(logged)
    ages = {name: 40 if name == first else 100 for name in ("a1", "a2")}
    lines = tuple(line(text, name, age=age) for name, age in ages.items())
    assert check_witnesses(Note(text, lines), rules(required=1), now=NOW) == NOW - 40


def test_a_line_under_the_name_of_a_witness_is_by_its_key(world: World, logged: Logged) -> None:
    text = text_of(logged)
    forged = dataclasses.replace(line(text, "b1"), value=line(text, "a1").value)
    assert refused(world, logged, [line(text, "a1"), forged]) == "other-checkpoint"


def test_a_cosignature_of_another_checkpoint(world: World, logged: Logged) -> None:
    anchor = logged[1]
    other = Checkpoint(anchor.origin, anchor.size + 1, anchor.root).body()
    lines = [line(text_of(logged), "a1"), line(other, "b1")]
    with pytest.raises(NotAuthentic) as caught:
        verify(world, logged, lines)
    assert (caught.value.step, caught.value.code) == ("witness", "other-checkpoint")


def test_cosignatures_do_not_stand_in_for_the_anchor(world: World, logged: Logged) -> None:
    presented, anchor = logged
    moved = dataclasses.replace(anchor, root=b"\x01" * 32)
    text = text_of(logged)
    lines = [line(text, "a1"), line(text, "b1")]
    assert refused(world, (presented, moved), lines, step="log") == "other-history"
    policy = dataclasses.replace(world.policy, witnesses=rules())
    report = Verifier(policy).examine(presented, anchor=moved, beacon=world.beacon, now=NOW)
    assert {s.name: s.status for s in report.steps}["witness"] == "not checked"


def test_a_missing_cosignature_is_refused_with_exit_code_4(world: World, logged: Logged) -> None:
    with pytest.raises(Refused) as caught:
        verify(world, logged, [line(text_of(logged), "b1")])
    assert caught.value.exit_code == 4 and "ada, bela, cora" in caught.value.message


def test_the_logs_own_signature_is_no_cosignature(world: World, logged: Logged) -> None:
    head = Checkpoint.from_body(text_of(logged))
    again = Note.from_bytes(checkpoints.sign(head, key=world.log_key)).signatures
    assert refused(world, logged, [*again, line(text_of(logged), "a1")]) == "too-few"
