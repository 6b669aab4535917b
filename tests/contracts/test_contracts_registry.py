"""Registry in the real TVM: notice, revocation, floors, ownership; every attack by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from pytoniq_core import Cell, begin_cell

from attestation.errors import NotAuthentic, ParseError, UmayError, Unavailable
from attestation.trust.registry import GUEST, MODEL
from client_sdk.cli import umay
from contracts import artefact, node, quote_verifier, registry
from contracts.codec import state_init
from contracts.localnet.process import LocalChain
from contracts.quote_verifier import Floor
from contracts.registry import MAX_DIGESTS, Exit, RegistryState, read_registry
from contracts.wallet import Wallet, address_of
from tests.contracts.test_contracts_log import Bench
from tests.helpers import gas
from tests.helpers.tdx_machine import machine

pytestmark = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")

NOTICE = 3600
VALUE = 10**9
FMSPC = bytes.fromhex("b0c06f000000")
LEVEL = Floor(bytes([7, 1, 3]) + bytes(13), 4)
LOWER = Floor(bytes([7, 1, 2]) + bytes(13), 4)
HIGHER = Floor(bytes([7, 1, 4]) + bytes(13), 4)


def digest(number: int) -> bytes:
    return number.to_bytes(32)


@dataclass(frozen=True)
class Room:
    """A chain, the owner's wallet and a stranger's, contracts on demand."""

    bench: Bench
    stranger: Bench

    def registry(self, number: int, notice: int = NOTICE) -> str:
        """A new one; `number` makes its address its own."""
        data = registry.genesis(owner=self.bench.wallet.address, notice=notice + number)
        return self.deploy("registry", data)

    def deploy(self, name: str, data: Cell) -> str:
        init = state_init(artefact.load(name).code, data)
        if self.bench.chain.account(address_of(init)).state != "active":
            self.bench.wallet.transfer(address_of(init), 10**9, state_init=init, bounce=False)
        return address_of(init)

    def state(self, address: str) -> RegistryState:
        return RegistryState.from_boc(self.bench.chain.account(address).data)

    def send(self, address: str, body: Cell, value: int = VALUE) -> int:
        return self.bench.send(address, body, value).exit_code

    def now(self) -> int:
        return self.bench.chain.head().utime

    def pass_notice(self) -> None:
        self.bench.local.advance(NOTICE + 2000)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with LocalChain.start(tmp_path_factory.mktemp("chain of releases")) as local:
        chain = local.client()
        wallets = [Wallet(chain, SigningKey.generate()) for _ in range(2)]
        for wallet in wallets:
            local.faucet(wallet.address, 10**15)
        yield Room(*(Bench(local, chain, wallet) for wallet in wallets))


def test_a_release_waits_its_notice_and_answers_for_the_past(room: Room) -> None:
    address = room.registry(1)
    manifest, measurement = digest(1), digest(11)
    assert room.send(address, registry.propose(GUEST, manifest, {measurement: 3})) == Exit.OK
    proposed = room.state(address).entries[manifest]
    assert proposed.active_from == proposed.proposed_at + NOTICE + 1
    assert not room.state(address).allowed(measurement, proposed.active_from - 1)
    assert room.state(address).allowed(measurement, proposed.active_from) == (proposed,)
    room.pass_notice()
    assert room.send(address, registry.revoke(manifest, 2)) == Exit.OK
    state = room.state(address)
    revoked = state.entries[manifest]
    assert revoked.reason == 2
    assert state.allowed(measurement, revoked.revoked_at - 1)
    assert not state.allowed(measurement, revoked.revoked_at)
    assert not state.allowed(digest(12), revoked.revoked_at - 1)


def test_a_release_revoked_in_its_notice_never_counts(room: Room) -> None:
    address = room.registry(2)
    room.send(address, registry.propose(MODEL, digest(1), {digest(11): 0}))
    room.send(address, registry.revoke(digest(1), 1))
    entry = room.state(address).entries[digest(1)]
    moments = (entry.proposed_at, entry.active_from, entry.active_from + 10**6)
    assert not any(room.state(address).allowed(digest(11), moment) for moment in moments)


def test_many_releases_one_read(room: Room) -> None:
    address = room.registry(3)
    for number in range(40):
        digests = {digest(1000 + number): 0, digest(5000): 1}
        assert room.send(address, registry.propose(GUEST, digest(number), digests)) == Exit.OK
    state = room.state(address)
    later = room.now() + 2 * NOTICE
    assert len(state.entries) == 40
    assert len(state.allowed(digest(5000), later)) == 40
    assert [entry.manifest for entry in state.allowed(digest(1007), later)] == [digest(7)]


def test_a_first_floor_waits_and_is_pushed(room: Room) -> None:
    address = room.registry(4)
    verifier = room.deploy(
        "quote_verifier", quote_verifier.genesis(root_key=bytes(64), registry=address)
    )
    assert room.send(address, registry.push(FMSPC)) == Exit.UNKNOWN
    assert room.send(address, registry.set_level(FMSPC, LEVEL)) == Exit.OK
    assert room.send(address, registry.push(FMSPC)) == Exit.NO_VERIFIER
    assert room.send(address, registry.set_verifier(verifier)) == Exit.OK
    assert room.send(address, registry.push(FMSPC)) == Exit.UNKNOWN  # its notice has not passed
    assert not room.state(address).floors[FMSPC].in_force
    room.pass_notice()
    assert room.send(address, registry.push(FMSPC)) == Exit.OK
    assert room.state(address).floors[FMSPC].in_force
    assert room.bench.last(verifier).exit_code == 0
    assert room.bench.chain.account(verifier).data != b""


def in_force(room: Room, number: int) -> str:
    address = room.registry(number)
    verifier = room.deploy(
        "quote_verifier", quote_verifier.genesis(root_key=bytes(64), registry=address)
    )
    room.send(address, registry.set_verifier(verifier))
    room.send(address, registry.set_level(FMSPC, LEVEL))
    room.pass_notice()
    room.send(address, registry.push(FMSPC))
    assert room.state(address).floors[FMSPC].in_force
    return address


def test_a_stronger_floor_holds_at_once(room: Room) -> None:
    address = in_force(room, 5)
    room.send(address, registry.set_level(FMSPC, HIGHER))
    assert room.state(address).floors[FMSPC].current == HIGHER


def test_a_weaker_floor_waits(room: Room) -> None:
    address = in_force(room, 6)
    room.send(address, registry.set_level(FMSPC, LOWER))
    assert room.state(address).floors[FMSPC].current == LEVEL
    room.send(address, registry.push(FMSPC))
    assert room.state(address).floors[FMSPC].current == LEVEL
    room.pass_notice()
    room.send(address, registry.push(FMSPC))
    assert room.state(address).floors[FMSPC].current == LOWER


def test_a_floor_lower_in_one_byte_alone_is_weaker(room: Room) -> None:
    address = in_force(room, 7)
    mixed = Floor(bytes([8, 0, 9]) + bytes(13), 9)
    room.send(address, registry.set_level(FMSPC, mixed))
    assert room.state(address).floors[FMSPC].current == LEVEL


def test_a_stronger_floor_ends_the_wait_of_a_weaker(room: Room) -> None:
    address = in_force(room, 8)
    room.send(address, registry.set_level(FMSPC, LOWER))
    room.send(address, registry.set_level(FMSPC, HIGHER))
    room.pass_notice()
    room.send(address, registry.push(FMSPC))
    assert room.state(address).floors[FMSPC].current == HIGHER


def test_a_key_is_blocked_at_the_verifier(room: Room) -> None:
    address = in_force(room, 9)
    verifier = room.state(address).verifier
    before = room.bench.chain.account(verifier).data
    assert room.send(address, registry.block(digest(5))) == Exit.OK
    assert room.bench.chain.account(verifier).data != before


def test_ownership_moves_in_two_steps(room: Room) -> None:
    address, heir = room.registry(10), room.stranger
    assert room.send(address, registry.offer(heir.wallet.address)) == Exit.OK
    assert room.state(address).owner == room.bench.wallet.address
    assert heir.send(address, registry.accept(), VALUE).exit_code == Exit.OK
    state = room.state(address)
    assert (state.owner, state.pending) == (heir.wallet.address, None)
    assert room.send(address, registry.propose(GUEST, digest(1), {digest(2): 0})) == Exit.SENDER
    told = heir.send(address, registry.propose(GUEST, digest(1), {digest(2): 0}), VALUE)
    assert told.exit_code == Exit.OK


# ---- attacks

GOOD = registry.propose(GUEST, digest(90), {digest(91): 0})
MANY = {digest(number): 0 for number in range(MAX_DIGESTS + 1)}
BY_A_STRANGER: dict[str, tuple[Cell, Exit]] = {
    "proposes": (GOOD, Exit.SENDER),
    "revokes": (registry.revoke(digest(1), 1), Exit.SENDER),
    "sets a floor": (registry.set_level(FMSPC, LEVEL), Exit.SENDER),
    "blocks a key": (registry.block(digest(1)), Exit.SENDER),
    "offers the ownership": (registry.offer("0:" + "1" * 64), Exit.SENDER),
    "accepts what was not offered": (registry.accept(), Exit.SENDER),
    "names a verifier": (registry.set_verifier("0:" + "1" * 64), Exit.SENDER),
}
BY_THE_OWNER: dict[str, tuple[Cell, Exit]] = {
    "the same manifest again": (registry.propose(GUEST, digest(1), {digest(3): 0}), Exit.EXISTS),
    "no digests": (registry.propose(GUEST, digest(4), {}), Exit.DIGESTS),
    "seventeen digests": (registry.propose(GUEST, digest(5), MANY), Exit.DIGESTS),
    "kind zero": (registry.propose(0, digest(6), {digest(7): 0}), Exit.KIND),
    "kind three": (registry.propose(3, digest(6), {digest(7): 0}), Exit.KIND),
    "revoking what is not there": (registry.revoke(digest(8), 1), Exit.UNKNOWN),
    "revoking without a reason": (registry.revoke(digest(1), 0), Exit.REASON),
    "revoking twice": (registry.revoke(digest(2), 1), Exit.REVOKED),
    "blocking without a verifier": (registry.block(digest(1)), Exit.NO_VERIFIER),
    "pushing what is not there": (registry.push(FMSPC), Exit.UNKNOWN),
    "accepting one's own": (registry.accept(), Exit.SENDER),
    "message cut short": (
        begin_cell().store_bits(GOOD.bits.to01()[:300]).end_cell(),
        Exit.CELL_UNDERFLOW,
    ),
    "bits after the message": (
        begin_cell().store_bits(registry.accept().bits.to01() + "0").end_cell(),
        Exit.CELL_UNDERFLOW,
    ),
    "unknown operation": (begin_cell().store_uint(0x554D52FF, 32).end_cell(), Exit.UNKNOWN_OP),
}


@pytest.fixture(scope="module")
def target(room: Room) -> str:
    address = room.registry(20)
    room.send(address, registry.propose(GUEST, digest(1), {digest(11): 0}))
    room.send(address, registry.propose(GUEST, digest(2), {digest(12): 0}))
    room.send(address, registry.revoke(digest(2), 1))
    return address


@pytest.mark.parametrize("name", BY_A_STRANGER)
def test_a_stranger(room: Room, target: str, name: str) -> None:
    body, expected = BY_A_STRANGER[name]
    before = room.bench.chain.account(target).data
    assert room.stranger.send(target, body, VALUE).exit_code == expected
    assert room.bench.chain.account(target).data == before


@pytest.mark.parametrize("name", BY_THE_OWNER)
def test_the_owner(room: Room, target: str, name: str) -> None:
    body, expected = BY_THE_OWNER[name]
    before = room.bench.chain.account(target).data
    assert room.send(target, body) == expected
    assert room.bench.chain.account(target).data == before


def test_too_little_money(room: Room, target: str) -> None:
    before = room.bench.chain.account(target)
    assert room.send(target, GOOD, 45_000_000) == Exit.UNDERFUNDED
    assert room.bench.chain.account(target).data == before.data


def test_an_offer_can_be_taken_back(room: Room) -> None:
    address = room.registry(11)
    room.send(address, registry.offer(room.stranger.wallet.address))
    room.send(address, registry.offer(room.bench.wallet.address))
    taken = room.stranger.send(address, registry.accept(), VALUE)
    assert taken.exit_code == Exit.SENDER


# ---- storage


@given(st.binary(max_size=200))
def test_arbitrary_storage(data: bytes) -> None:
    for boc in (data, bytes.fromhex("b5ee9c72") + data):
        with pytest.raises(ParseError):
            RegistryState.from_boc(boc)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_damaged_storage(room: Room, target: str, where: int, change: int) -> None:
    boc = bytearray(room.bench.chain.account(target).data)
    boc[where % len(boc)] ^= change
    try:
        RegistryState.from_boc(bytes(boc))
    except UmayError:
        pass


def test_rent_covers_what_a_full_release_occupies(room: Room) -> None:
    address = room.registry(12)

    def size() -> tuple[int, int]:
        return gas.occupied(room.bench.chain.account(address))

    empty = size()
    assert empty[0] <= 30_000 and empty[1] <= 80
    for number in range(4):
        digests = {digest((number << 16) + index): index for index in range(MAX_DIGESTS)}
        room.send(address, registry.propose(GUEST, digest(number + 1), digests))
    full = size()
    assert full[0] - empty[0] <= 4 * 12_000 and full[1] - empty[1] <= 4 * 36


MEASURED: dict[str, Callable[[], Cell]] = {
    "propose": lambda: GOOD,
    "revoke": lambda: registry.revoke(digest(1), 1),
    "set a first floor": lambda: registry.set_level(FMSPC, LEVEL),
}


@pytest.mark.parametrize("name", MEASURED)
def test_gas_is_as_recorded(room: Room, name: str) -> None:
    address = room.registry(30 + list(MEASURED).index(name))
    room.send(address, registry.propose(GUEST, digest(1), {digest(11): 0}))
    outcome = room.bench.send(address, MEASURED[name](), VALUE)
    assert outcome.exit_code == Exit.OK
    gas.check("registry", name, outcome.gas)


def test_the_audit_command_reads_the_record(room: Room, tmp_path: Path) -> None:
    address = room.registry(50)
    room.send(address, registry.propose(GUEST, digest(1), {digest(11): 3}))
    active = room.state(address).entries[digest(1)].active_from

    def ask(measurement: bytes, moment: int) -> tuple[int, list]:
        arguments = ["audit", "allowed", "--registry", address, "--json", "--at", str(moment)]
        arguments += ["--measurement", measurement.hex(), "--chain", room.bench.local.url]
        done = CliRunner().invoke(umay, [*arguments, "--dir", str(tmp_path)])
        return done.exit_code, json.loads(done.output)["entries"]

    assert ask(digest(11), active)[0] == 0
    code, entries = ask(digest(11), active - 1)
    assert (code, entries[0]["shape"], entries[0]["allowed"]) == (4, 3, False)
    assert ask(digest(12), active) == (4, [])


def test_other_code_is_no_registry(room: Room) -> None:
    genesis = quote_verifier.genesis(root_key=bytes(64), registry="0:" + "3" * 64)
    address = room.deploy("quote_verifier", genesis)
    with pytest.raises(NotAuthentic, match="expected a Registry with code hash"):
        read_registry(room.bench.chain, address=address)
    with pytest.raises(Unavailable):
        read_registry(room.bench.chain, address="0:" + "4" * 64)


def test_the_deploy_commands(room: Room, tmp_path: Path) -> None:
    key = tmp_path / "wallet"
    opened = Wallet.open(room.bench.chain, key)
    room.bench.local.faucet(opened.address, 10**11)
    given = ["--chain", room.bench.local.url, "--wallet", str(key)]
    made = CliRunner().invoke(umay, ["net", "deploy-registry", *given, "--notice", "60"])
    address = json.loads(made.output)["address"]
    assert room.state(address).owner == opened.address and room.state(address).notice == 60
    root = tmp_path / "root.der"
    root.write_bytes(machine().root_der)
    told = ["net", "deploy-verifier", *given, "--registry", address, "--root", str(root)]
    refused = CliRunner().invoke(umay, told)
    assert isinstance(refused.exception, NotAuthentic)  # a simulated root is not pinned
