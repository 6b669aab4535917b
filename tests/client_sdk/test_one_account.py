"""One account in every spelling: audits, proof files and clients say the same of it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from attestation.errors import ParseError, Unavailable, UsageError
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.proving import check, prove
from client_sdk.auditing.request import audit_request
from client_sdk.auditing.single import audit_entry
from contracts.chain import ToncenterV2
from contracts.light.chain import ProvenChain
from contracts.reader import read_anchor
from contracts.registry import read_registry
from tests.attestation.test_policy import GOOD
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.client_sdk.test_client_audit import CONTRACT
from tests.helpers.spellings import spellings
from tests.helpers.waiting import HANG_S
from tests.helpers.world import World

SPELLINGS = spellings(CONTRACT)
spelled = pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
NONE = {
    "31 bytes": "0:" + "ab" * 31,
    "33 bytes": "0:" + "ab" * 33,
    "no workchain": "99999999999:" + "ab" * 32,
    "one character wrong": SPELLINGS["bounceable, base64url"][:-1] + "A",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="module")
def net(world: World) -> Net:
    return Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])


def auditor(net: Net, contract: str = CONTRACT) -> Auditor:
    policy = dataclasses.replace(net.world.policy, log_contract=contract)
    return Auditor(policy=policy, chain=net, transport=net)  # type: ignore[arg-type]


@spelled
def test_an_audit_asked_for_in_any_spelling_finds_no_violation(net: Net, text: str) -> None:
    audit = auditor(net).run(text)
    assert (audit.exit_code, audit.contract) == (0, CONTRACT), audit.problems


@spelled
def test_a_policy_made_in_code_may_spell_it_so_too(net: Net, text: str) -> None:
    assert auditor(net, text).run(CONTRACT).exit_code == 0


def test_another_account_is_still_a_violation(net: Net) -> None:
    for other in spellings("0:" + "ba" * 32).values():
        found = auditor(net).run(other)
        assert (found.exit_code, found.problems[0].code) == (1, "other-contract")


@spelled
def test_a_proof_file_that_spells_it_so_holds(net: Net, text: str) -> None:
    made = prove(audit_entry(auditor(net), CONTRACT, 1, AuditScope()))
    anchor = dataclasses.replace(made.anchor, address=text)
    again = EnclaveProof.from_bytes(dataclasses.replace(made, anchor=anchor).to_bytes())
    assert check(again, net.world.policy).exit_code == 0
    compared = check(again, net.world.policy, net)  # type: ignore[arg-type]
    assert compared.exit_code == 0, compared.problems


@spelled
def test_an_anchor_has_the_one_form(net: Net, text: str) -> None:
    found = read_anchor(net, network="umay-test", address=text)  # type: ignore[arg-type]
    assert found.address == CONTRACT


@spelled
def test_what_an_audit_verified_counts_under_any_spelling(
    world: World, tmp_path: Path, text: str
) -> None:
    """The state's question has the account, so that a second spelling does not begin anew."""
    (tmp_path / "policy.toml").write_text(GOOD)
    where = {"chain": "http://127.0.0.1:9", "policy": tmp_path / "policy.toml"}
    state = tmp_path / "state"
    questions = []
    for contract in (CONTRACT, text):
        given = audit_request(contract, state=state, registry=text, **where)
        assert given.contract == CONTRACT
        given.scope.state.close()  # type: ignore[union-attr]
        questions.append(state.read_bytes())
    assert questions[0] == questions[1]


@spelled
def test_a_light_client_is_asked_for_the_one_form(text: str) -> None:
    asked_for: list[str] = []

    class Nobody:
        def accounts(self, addresses: tuple[str, ...], *, now: int) -> None:
            asked_for.extend(addresses)
            raise ParseError("no answer")

    chain = ProvenChain(Nobody(), clock=lambda: 0)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        chain.account(text)
    assert asked_for == [CONTRACT]


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_no_account_is_refused_by_name(net: Net, text: str) -> None:
    with pytest.raises(UsageError, match="contract: expected a TON address"):
        auditor(net).run(text)
    with pytest.raises(UsageError, match="registry: expected a TON address"):
        Auditor(policy=net.world.policy, chain=net, registry=text)  # type: ignore[arg-type]
    for read in (read_registry, lambda chain, address: chain.account(address)):
        with pytest.raises(UsageError, match="expected a TON address"):
            read(ToncenterV2("http://127.0.0.1:1"), address=text)
    made = prove(audit_entry(auditor(net), CONTRACT, 1, AuditScope()))
    wrong = dataclasses.replace(made, anchor=dataclasses.replace(made.anchor, address=text))
    with pytest.raises(ParseError, match="contract: expected a TON address"):
        EnclaveProof.from_bytes(wrong.to_bytes())


CHAIN = ["--chain", "http://127.0.0.1:9"]
AGENT = ["--listen", "x", "--feed-listen", "x", "--guest", "http://x", "--log", "http://x"]
COMMANDS = {
    "audit run --contract": ["audit", "run", *CHAIN, "--policy", "policy.toml", "--contract"],
    "audit allowed --registry": ["audit", "allowed", *CHAIN, "--measurement", "0", "--registry"],
    "log anchor --contract": [
        "log",
        "anchor",
        *CHAIN,
        "--log",
        "http://127.0.0.1:9/log",
        "--wallet",
        "x",
        "--contract",
    ],
    "host agent --contract": [
        *("host", "agent", *AGENT, *CHAIN, "--collateral", "policy.toml", "--contract"),
    ],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_names_the_option(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "policy.toml").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "client_sdk", *words, "0:" + "ab" * 31],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"{words[-1]}: expected a TON address" in " ".join(done.stderr.split())
    assert "62 characters" in done.stderr.replace("\n", " ")
