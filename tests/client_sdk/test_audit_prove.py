"""One entry, and one file that proves it without a network; what a forged file is refused for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import Incomplete, LogError, ParseError, Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.dates import stamp
from attestation.formats.digests import domain_digest, sha256
from attestation.formats.evidence import evidence_digest
from attestation.log.cosignature import cosign
from attestation.log.note import COSIGNATURE, Note, VerifierKey
from attestation.log.proof import Proof, verify_proof
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import WitnessRules
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.proving import ENDPOINT, HERE, WORD, check, prove
from client_sdk.auditing.single import AuditedEntry, audit_entry, find_boot, find_evidence
from contracts.chain import AccountState
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, codes, start
from tests.client_sdk.test_client_audit import CONTRACT, ORIGIN
from tests.helpers.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def net(world: World) -> Net:
    leaves = [RELEASE, boot(world, release=0), boot(world, kind=2, previous=1, release=0)]
    return Net(world, leaves, world.presented(), [])


@pytest.fixture(scope="module")
def good(world: World) -> EnclaveProof:
    return prove(single(Net(world, [RELEASE, boot(world, release=0)], world.presented(), []), 1))


def single(net: Net, index: int, mirror: str | None = None) -> AuditedEntry:
    return audit_entry(auditor(net, mirror), CONTRACT, index, AuditScope())


def auditor(net: Net, mirror: str | None = None) -> Auditor:
    return Auditor(policy=net.world.policy, chain=net, transport=net, mirror=mirror)  # type: ignore[arg-type]


# -- one entry


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_entry_is_shown_with_its_proof(net: Net, index: int) -> None:
    found = single(net, index)
    assert found.audit.exit_code == 0, found.audit.problems
    key = net.world.policy.log_key
    data, _ = verify_proof(found.proof, origin=ORIGIN, log_key=key)
    assert data == found.data and found.to_json()["leaf"] == data.hex()
    assert found.entry and found.entry.verdict == ("verified" if index else "on record")


def test_an_entry_of_a_static_export_is_shown(net: Net, tmp_path: Path) -> None:
    mirror = net.export(tmp_path / "mirror")
    net.answers.clear()
    assert single(net, 1, str(mirror)).audit.exit_code == 0


def test_only_what_the_entry_needs_is_fetched(net: Net) -> None:
    del net.answers["submission/1"]
    assert single(net, 0).audit.exit_code == 0


def test_an_entry_beyond_the_anchor_cannot_be_asked_for(net: Net) -> None:
    with pytest.raises(UsageError, match="below 3"):
        single(net, 3)


ENTRY_FAULTS: dict[str, tuple[str, int]] = {
    "the bundle has other bytes": ("tile/entries/000.p/3", 1),
    "the tile has other hashes": ("tile/0/000.p/3", 1),
    "the checkpoint has another signature": ("checkpoint/3", 1),
}


@pytest.mark.parametrize(("path", "code"), ENTRY_FAULTS.values(), ids=ENTRY_FAULTS)
def test_an_entry_that_is_not_in_the_tree_is_a_violation(net: Net, path: str, code: int) -> None:
    data = net.answers[path]
    net.answers[path] = data[:4] + bytes([data[4] ^ 1]) + data[5:]
    first = single(net, 0 if "entries" in path else 1)
    assert first.audit.exit_code == code


@pytest.mark.parametrize("path", [*(path for path, _ in ENTRY_FAULTS.values()), "submission/1"])
def test_an_entry_that_is_not_all_there_is_incomplete(net: Net, path: str) -> None:
    del net.answers[path]
    assert single(net, 1).audit.exit_code == 6


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"release": 2}, "bad-release"),
        ({"release": 1}, "bad-release"),
        ({"previous": 0}, "bad-previous"),
        ({"kind": 2}, "bad-previous"),
        ({"kind": 2, "previous": 0}, "bad-previous"),
        ({"kind": 2, "previous": 1}, "bad-previous"),
    ],
    ids=str,
)
def test_an_entrys_claims_are_compared(world: World, changes: dict[str, Any], code: str) -> None:
    net = Net(world, [RELEASE, boot(world, **changes)], world.presented(), [])
    assert codes(single(net, 1).audit) == {code}


def test_a_renewal_of_another_boot_is_a_violation(world: World) -> None:
    other = dataclasses.replace(world.bundle, boot_id=b"\x09" * 16)
    second = world.presented(world.prove(other))
    leaves = [boot(world), boot(world, second, kind=2, previous=0)]
    net = Net(world, leaves, world.presented(), [])
    net.about(1, second)
    assert codes(single(net, 1).audit) == {"bad-previous"}


def test_the_newest_entry_of_a_boot_is_found(net: Net) -> None:
    assert find_boot(auditor(net), CONTRACT, bytes(16), AuditScope()) == 2
    del net.answers["submission/2"]
    assert find_boot(auditor(net), CONTRACT, bytes(16), AuditScope()) == 1
    with pytest.raises(Unavailable, match="evidence of 1 entries could not be read"):
        find_boot(auditor(net), CONTRACT, b"\x01" * 16, AuditScope())


def test_a_boot_that_the_log_never_had_is_said(net: Net) -> None:
    with pytest.raises(UsageError, match="expected an anchored entry of this boot"):
        find_boot(auditor(net), CONTRACT, b"\x01" * 16, AuditScope())


def test_an_entry_is_found_by_its_evidence(net: Net) -> None:
    digest = evidence_digest(net.world.evidence.to_bytes())
    assert find_evidence(auditor(net), CONTRACT, digest, AuditScope()) == 2
    with pytest.raises(UsageError, match="expected an anchored entry with this evidence"):
        find_evidence(auditor(net), CONTRACT, b"\x01" * 32, AuditScope())


# -- making a file


def test_no_file_is_made_of_what_does_not_hold(world: World) -> None:
    forged = world.presented(world.forge(other_root=True))
    net = Net(world, [boot(world, forged)], forged, [])
    with pytest.raises(LogError, match="fails these steps"):
        prove(single(net, 0))


def test_no_file_is_made_of_a_release(net: Net) -> None:
    with pytest.raises(LogError, match="expected a boot"):
        prove(single(net, 0))


def test_no_file_is_made_of_what_could_not_be_checked(net: Net) -> None:
    found = single(net, 1)
    found.audit.incomplete("unavailable", "something was not there")
    with pytest.raises(Incomplete, match="was not there"):
        prove(found)


# -- checking one


def test_a_file_holds_years_later(good: EnclaveProof, world: World) -> None:
    again = EnclaveProof.from_bytes(good.to_bytes())
    assert again == good
    checked = check(again, world.policy)
    assert checked.exit_code == 0 and checked.report.simulated
    assert {s.rests_on for s in checked.statements} == {HERE, WORD}
    words = [s.text for s in checked.statements if s.rests_on == WORD]
    assert len(words) == 2 and "(reported)" in words[0] and CONTRACT in words[0]
    assert checked.to_json()["ok"] and "as far as what it rests on" in checked.verdict


def test_a_policy_that_demands_sessions_judges_what_is_on_record(
    net: Net, good: EnclaveProof, world: World
) -> None:
    """Evidence on record was made for everybody: no nonce of a client's can be in it."""
    policy = dataclasses.replace(world.policy, challenge="required")
    net.world = dataclasses.replace(world, policy=policy)
    assert single(net, 1).audit.ok
    assert check(good, policy).exit_code == 0


def test_a_policy_that_wants_the_chain_proven_takes_nobodys_word(
    good: EnclaveProof, world: World
) -> None:
    claimed = dataclasses.replace(
        good,
        anchor=dataclasses.replace(good.anchor, level="proven"),
        beacon=dataclasses.replace(good.beacon, level="proven"),
    )
    checked = check(claimed, dataclasses.replace(world.policy, anchor="proven"))
    assert checked.exit_code == 1 and set(checked.report.failed) == {"freshness", "log"}
    assert HERE not in {s.rests_on for s in checked.statements}


@dataclasses.dataclass
class Proven:
    """A chain at the level `proven`, as answers in a file give it."""

    net: Net
    root_hash: bytes | None = None

    def head(self) -> BlockRef:
        raise NotImplementedError

    def block(self, seqno: int) -> BlockRef:
        found = self.net.block(seqno)
        root_hash = self.root_hash or found.root_hash
        return dataclasses.replace(found, level="proven", root_hash=root_hash)

    def account(self, address: str) -> AccountState:
        return dataclasses.replace(self.net.account(address), level="proven")


def test_with_the_chain_at_hand_nothing_is_the_provers_word(
    good: EnclaveProof, world: World
) -> None:
    policy = dataclasses.replace(world.policy, anchor="proven")
    net = Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])
    checked = check(good, policy, Proven(net))
    assert checked.exit_code == 0, (checked.report, checked.problems)
    assert {s.rests_on for s in checked.statements} == {HERE}
    reported = check(good, world.policy, net)  # type: ignore[arg-type]
    assert {s.rests_on for s in reported.statements} == {HERE, ENDPOINT}


def test_the_time_of_a_reading_is_the_checkers_own(good: EnclaveProof, world: World) -> None:
    """Nothing on the chain says when the maker of a file read it, or how."""
    net = Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])
    later = dataclasses.replace(good.anchor, read_at=good.anchor.read_at + 86_400, level="proven")
    file = dataclasses.replace(good, anchor=later)
    mine = f"read at {stamp(net.account(CONTRACT).read_at)} (reported)"
    checked = check(file, world.policy, net)  # type: ignore[arg-type]
    assert [mine in s.text for s in checked.statements if s.rests_on == ENDPOINT] == [True, False]
    alone = check(file, world.policy)
    assert any(f"read at {stamp(later.read_at)} (proven)" in s.text for s in alone.statements)


def test_a_file_that_says_other_things_of_the_chain(good: EnclaveProof, world: World) -> None:
    longer = [RELEASE, boot(world, release=0), boot(world, kind=2, previous=1, release=0)]
    net = Net(world, longer, world.presented(), [])
    checked = check(good, world.policy, Proven(net))
    assert checked.exit_code == 1 and "the contract's state is another" in checked.problems[0]
    same = Net(world, longer[:2], world.presented(), [])
    checked = check(good, world.policy, Proven(same, root_hash=b"\7" * 32))
    assert checked.exit_code == 1 and "is not the chain's" in checked.problems[0]
    assert WORD not in {s.rests_on for s in checked.statements}


def anchored(**changes: Any) -> Callable[[EnclaveProof], EnclaveProof]:
    return lambda file: dataclasses.replace(
        file, anchor=dataclasses.replace(file.anchor, **changes)
    )


def with_(**changes: bytes) -> Callable[[EnclaveProof], EnclaveProof]:
    return lambda file: dataclasses.replace(file, **changes)


def beaconed(**changes: Any) -> Callable[[EnclaveProof], EnclaveProof]:
    return lambda file: dataclasses.replace(
        file, beacon=dataclasses.replace(file.beacon, **changes)
    )


def poorer(file: EnclaveProof) -> EnclaveProof:
    parts = dict(Collateral.from_bytes(file.collateral).parts)
    del parts[min(parts)]
    return dataclasses.replace(file, collateral=Collateral(parts).to_bytes())


FORGED: dict[str, Callable[[EnclaveProof], EnclaveProof]] = {
    "another contract": anchored(address="0:" + "cd" * 32),
    "another code": anchored(code_hash=b"\x01" * 32),
    "another log key": anchored(log_key=b"\x01" * 32),
    "another origin": anchored(origin="elsewhere.example"),
    "another network": anchored(network="other"),
    "another root": anchored(root=b"\x01" * 32),
    "another size": anchored(size=3),
    "forked": anchored(forked=True),
    "read before its beacon": anchored(read_at=1),
    "anchored after it was read": anchored(time=253_402_300_799),
    "another block": beaconed(root_hash=b"\x01" * 32),
    "another block number": beaconed(seqno=1),
    "a beacon far from the bundle": beaconed(utime=1),
    "another engine config": with_(engine_config=b"{}"),
    "another price": with_(price_table=b"{}"),
    "another host config": with_(host_config=b""),
    "other collateral than was logged": poorer,
}


def test_a_file_has_the_cosignatures_that_the_policy_demands(
    good: EnclaveProof, world: World
) -> None:
    """As of the moment at which the file says that the contract was read."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    vkey = VerifierKey("w.example", key.public_key().public_bytes_raw(), COSIGNATURE)
    policy = dataclasses.replace(world.policy, witnesses=WitnessRules(1, 60, ((vkey, "ada"),)))
    proof = Proof.from_bytes(good.proof)
    note = Note.from_bytes(proof.checkpoint)
    for age, said in ((None, "too-few"), (61, "too-old"), (60, "")):
        now = good.anchor.read_at - (age or 0)
        line = cosign(note.text, name="w.example", key=key, now=now)
        lines = note.signatures if age is None else (*note.signatures, line)
        cosigned = dataclasses.replace(proof, checkpoint=Note(note.text, lines).to_bytes())
        checked = check(dataclasses.replace(good, proof=cosigned.to_bytes()), policy)
        assert checked.exit_code == (1 if said else 0)
        assert said in " ".join(checked.problems)


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_file_does_not_hold(
    good: EnclaveProof, world: World, forge: Callable[[EnclaveProof], EnclaveProof]
) -> None:
    file = EnclaveProof.from_bytes(forge(good).to_bytes())
    assert check(file, world.policy).exit_code == 1


def test_evidence_of_another_machine_does_not_hold(good: EnclaveProof, world: World) -> None:
    other = world.prove(dataclasses.replace(world.bundle, boot_id=b"\x09" * 16))
    assert check(with_(evidence=other.to_bytes())(good), world.policy).exit_code == 1


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_no_file(good: EnclaveProof, data: st.DataObject) -> None:
    whole = good.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    with pytest.raises(ParseError):
        EnclaveProof.from_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])


@settings(deadline=None)
@given(end=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_no_file(good: EnclaveProof, end: float) -> None:
    whole = good.to_bytes()
    with pytest.raises(ParseError):
        EnclaveProof.from_bytes(whole[: int(end * len(whole))])


def resigned(good: EnclaveProof, **changes: object) -> bytes:
    """Other fields, under a digest that fits them."""
    fields = cbor.decode(good.to_bytes())
    del fields[9]
    fields |= {int(key[1:]): value for key, value in changes.items()}
    fields = {key: value for key, value in fields.items() if value is not ...}
    return cbor.encode({**fields, 9: domain_digest("umay/enclave-proof/v1", cbor.encode(fields))})


MALFORMED: dict[str, dict[str, object]] = {
    "version 2": {"k0": 2},
    "version true": {"k0": True},
    "no evidence": {"k4": ...},
    "an unknown key": {"k10": 1},
    "text as evidence": {"k4": "x"},
    "evidence too long": {"k4": bytes((1 << 20) + 1)},
    "config too long": {"k5": bytes((1 << 16) + 1)},
    "a proof that is none": {"k1": b"x"},
    "an anchor that is a list": {"k2": []},
    "an anchor without a level": {"k2": dict.fromkeys(range(11), 0)},
    "a beacon of three": {"k3": [1, bytes(32), 1]},
    "a beacon with a short hash": {"k3": [1, bytes(31), 1, "reported"]},
    "a beacon claimed": {"k3": [1, bytes(32), 1, "claimed"]},
    "a beacon after all time": {"k3": [1, bytes(32), 1 << 40, "reported"]},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_no_file(good: EnclaveProof, changes: dict[str, object]) -> None:
    with pytest.raises(ParseError):
        EnclaveProof.from_bytes(resigned(good, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"level": "claimed"},
        {"size": 1 << 63},
        {"read_at": 1 << 40},
        {"network": ""},
        {"network": "umay\x1b[8m"},
        {"network": "umay\nverdict: the proof holds"},
        {"origin": "a b"},
        {"root": bytes(31)},
    ],
    ids=str,
)
def test_a_malformed_anchor_is_no_anchor(good: EnclaveProof, changes: dict[str, Any]) -> None:
    with pytest.raises(ParseError):
        EnclaveProof.from_bytes(anchored(**changes)(good).to_bytes())


def test_the_digest_of_a_file_is_documented(good: EnclaveProof) -> None:
    fields = cbor.decode(good.to_bytes())
    given = fields.pop(9)
    assert given == sha256(b"umay/enclave-proof/v1\0" + cbor.encode(fields))
