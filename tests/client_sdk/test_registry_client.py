"""Registry and witnesses through the client: one block, and each refusal by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import NotChecked, Refused, Unavailable, VerificationError
from attestation.log.cosignature import cosign
from attestation.log.note import COSIGNATURE, Note, VerifierKey
from attestation.log.proof import Proof
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import WitnessRules
from attestation.trust.registry import GUEST, MODEL, Entry, RegistrySnapshot
from attestation.verify.verifier import Presented
from client_sdk import Client
from client_sdk.presented import Place
from contracts import artefact
from contracts.chain import AccountState
from contracts.codec import LogState
from contracts.reader import READS, read_anchor
from tests.helpers import registries
from tests.helpers.world import NOW, World

LOG = "0:" + "c0" * 32
PLACE = Place("ab" * 16, "http://127.0.0.1:1/umay/" + "ab" * 16 + "/", "ready")


@dataclass
class Chain:
    """Two contracts. `seqnos` are the blocks of the reads to come; the last one stays."""

    state: LogState
    world: World
    entries: tuple[Entry, ...] = ()
    seqnos: list[int] = field(default_factory=lambda: [9])
    hidden: str = ""
    reads: int = 0

    def head(self) -> BlockRef:
        raise NotImplementedError

    def block(self, seqno: int) -> BlockRef:
        return self.world.beacon

    def account(self, address: str) -> AccountState:
        self.reads += 1
        seqno = self.seqnos.pop(0) if len(self.seqnos) > 1 else self.seqnos[0]
        code, data = artefact.load("attestation_log").code_boc, self.state.to_cell().to_boc()
        if address == registries.CONTRACT:
            if self.hidden == "unavailable":
                raise Unavailable("the endpoint gives no answer")
            if self.hidden == "malformed":
                return AccountState(address, code, data, 1, "active", NOW - 10, seqno)
            if self.hidden:
                return AccountState(address, b"", b"", 0, "uninitialized", NOW - 10, seqno)
            code, data = artefact.load("registry").code_boc, registries.storage(self.entries)
        return AccountState(address, code, data, 1, "active", NOW - 10, seqno)


@dataclass
class Served:
    """A Transport that serves one machine."""

    presented: Presented

    def get(self, url: str, **_: Any) -> bytes:
        paths = {
            "evidence": self.presented.evidence,
            "config/engine": self.presented.engine_config,
            "config/price": self.presented.price_table,
            "config/host": self.presented.host_config,
            "collateral": self.presented.collateral.to_bytes(),
        }
        return paths.get(url.removeprefix(PLACE.base), self.presented.proof or b"")

    def close(self) -> None:
        pass


@dataclass
class Room:
    world: World
    chain: Chain
    presented: Presented
    measurement: bytes

    def client(self, source: str, *, code: str = "registry", **changes: Any) -> Client:
        rules = registries.rules(source)
        policy = dataclasses.replace(
            self.world.policy,
            log_code_hash=artefact.load("attestation_log").code_hash,
            registry=dataclasses.replace(rules, code_hash=artefact.load(code).code_hash),
            **changes,
        )
        served: Any = Served(self.presented)
        return Client(
            "http://127.0.0.1:1",
            policy=policy,
            chain=self.chain,
            transport=served,
            clock=lambda: float(NOW),
        )

    def entries(self, kind: int = GUEST, **release: int) -> tuple[Entry, ...]:
        model = registries.entry(MODEL, self.world.bundle.model_digest)
        return registries.entry(kind, self.measurement, **release), model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def room(world: World) -> Room:
    presented, anchor = world.logged(world.presented())
    state = LogState.genesis(
        origin=anchor.origin, log_key=anchor.log_key, size=anchor.size, root=anchor.root
    )
    (measurement,) = world.policy.releases[0].shapes["simulated"]
    return Room(
        world, Chain(dataclasses.replace(state, time=NOW - 20), world), presented, measurement
    )


def test_an_allowed_release_and_model_are_verified(room: Room) -> None:
    room.chain.entries = room.entries()
    release = dataclasses.replace(room.world.policy.releases[0], shapes={})
    for source, changes in (
        ("both", {}),
        ("file", {}),
        ("registry", {"releases": (release,), "models": (("demo", None),)}),
    ):
        report = room.client(source, **changes).verify(PLACE)
        assert report.ok and report.named.model == "demo"


WRONG: dict[str, tuple[Callable[[Room], tuple[Entry, ...]], str]] = {
    "unlisted": (lambda room: room.entries()[1:], "unlisted"),
    "pending": (lambda room: room.entries(active=NOW), "pending"),
    "revoked": (lambda room: room.entries(revoked=NOW - 15), "revoked"),
}


@pytest.mark.parametrize(("entries", "code"), WRONG.values(), ids=WRONG)
def test_a_release_that_is_not_in_force_is_refused_by_name(
    room: Room, entries: Callable[[Room], tuple[Entry, ...]], code: str
) -> None:
    room.chain.entries = entries(room)
    with pytest.raises(Refused) as caught:
        room.client("both").verify(PLACE)
    assert (caught.value.step, caught.value.code, caught.value.exit_code) == ("registry", code, 4)


@pytest.mark.parametrize("hidden", ["uninitialized", "unavailable", "malformed"])
def test_a_hidden_registry_is_not_checked(room: Room, hidden: str) -> None:
    room.chain.hidden = hidden
    with pytest.raises(NotChecked) as caught:
        room.client("file").verify(PLACE)
    error = caught.value
    assert (error.step, error.code, error.exit_code) == ("registry", "not-checked", 6)
    reasons = {"unavailable": "gives no answer", "malformed": "registry: expected"}
    assert reasons.get(hidden, hidden) in error.message
    report = room.client("file").examine(PLACE)
    assert {s.name: s.status for s in report.steps}["registry"] == "not checked"
    assert {s.name: s.status for s in report.steps}["log"] == "passed"


def test_an_endpoint_that_never_answers_of_one_block_is_refused(room: Room) -> None:
    room.chain.entries, room.chain.seqnos = room.entries(), list(range(1, 99))
    with pytest.raises(VerificationError) as caught:
        room.client("file").verify(PLACE)
    assert (caught.value.step, caught.value.code) == ("registry", "other-block")
    assert room.chain.reads == 2 * READS + 1


def test_a_new_block_between_the_reads_is_read_again(room: Room) -> None:
    room.chain.entries, room.chain.seqnos = room.entries(), [5, 6, 7, 7]
    assert room.client("file").verify(PLACE).ok
    assert room.chain.reads == 4


def test_another_contract_in_the_registrys_place(room: Room) -> None:
    room.chain.entries = room.entries()
    with pytest.raises(Refused) as caught:
        room.client("file", code="attestation_log").verify(PLACE)
    assert caught.value.code == "other-code-hash"


def test_a_missing_cosignature_is_refused_by_name(room: Room) -> None:
    room.chain.entries = room.entries()
    key = Ed25519PrivateKey.generate()
    vkey = VerifierKey("w.example", key.public_key().public_bytes_raw(), COSIGNATURE)
    rules = WitnessRules(1, 60, ((vkey, "somebody"),))
    with pytest.raises(Refused) as caught:
        room.client("both", witnesses=rules).verify(PLACE)
    assert (caught.value.step, caught.value.code) == ("witness", "too-few")
    proof = Proof.from_bytes(room.presented.proof or b"")
    note = Note.from_bytes(proof.checkpoint)
    line = cosign(note.text, name="w.example", key=key, now=NOW - 5)
    cosigned = Note(note.text, (*note.signatures, line)).to_bytes()
    proof = dataclasses.replace(proof, checkpoint=cosigned)
    room.presented = dataclasses.replace(room.presented, proof=proof.to_bytes())
    assert room.client("both", witnesses=rules).verify(PLACE).ok


class AtOnce(Chain):
    """A reader that proves several accounts at one block."""

    def accounts(self, addresses: tuple[str, ...]) -> tuple[AccountState, ...]:
        return tuple(
            dataclasses.replace(self.account(address), seqno=70, level="proven")
            for address in addresses
        )


def test_a_reader_of_several_accounts_is_asked_once(room: Room) -> None:
    chain = AtOnce(room.chain.state, room.world, seqnos=list(range(1, 99)))
    found = read_anchor(chain, network="n", address=LOG, registry=registries.CONTRACT)
    assert isinstance(found.registry, RegistrySnapshot)
    assert (found.seqno, found.registry.seqno, found.registry.level) == (70, 70, "proven")


def test_without_a_registry_nothing_else_is_read(room: Room) -> None:
    assert read_anchor(room.chain, network="n", address=LOG).registry is None
    assert room.chain.reads == 1
