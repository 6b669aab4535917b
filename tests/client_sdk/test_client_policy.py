"""`umay client policy check`: every rule in words, every relaxation by name."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from attestation.errors import Refused, UmayError, UsageError
from attestation.trust.policy import Policy, RegistryRules, WitnessRules
from attestation.trust.roots import PRODUCTION
from client_sdk.cli import umay
from client_sdk.policies import make
from client_sdk.policies.convert import convert as policies_convert
from client_sdk.policy_view import explain, relaxations
from tests.attestation.test_policy import GOOD, UNSAFE

STRICT: dict[str, Any] = {
    "anchor": "proven",
    "challenge": "required",
    "pq": "required",
    "instances": frozenset({"00" * 16}),
    "witnesses": WitnessRules(1, 60, ()),
    "registry": RegistryRules("0:" + "00" * 32, bytes(32), "both", "both"),
}


def read(text: str = GOOD, **changes: Any) -> Policy:
    policy = dataclasses.replace(Policy.from_toml(text.encode()), **{**STRICT, **changes})
    release = dataclasses.replace(
        policy.releases[0], engine_configs=frozenset(), host_configs=frozenset()
    )
    return dataclasses.replace(policy, releases=(release,))


@pytest.mark.parametrize(("rules", "unsafe"), [("simulation", ""), ("production", UNSAFE)])
def test_rules_for_other_roots_make_no_policy(rules: str, unsafe: str) -> None:
    network = GOOD[GOOD.index("[network]") : GOOD.index("[freshness]")]
    network += GOOD[GOOD.index("[[release]]") :]
    with pytest.raises(Refused) as caught:
        make(rules, network + unsafe)
    assert (caught.value.step, caught.value.code) == ("policy", "rules-and-roots")


def test_a_strict_policy_has_nothing_to_object_to() -> None:
    assert relaxations(read()) == []


RELAXED: dict[str, dict[str, Any]] = {
    "GPU revocation": {"gpu_revocation": "unsafe-unchecked"},
    "OutOfDate": {"tcb_status": frozenset({"UpToDate", "OutOfDate"})},
    "VLEK": {"snp_signers": frozenset({"VLEK"})},
    "no minimum SNP": {"platforms": frozenset({"snp"}), "snp_min_tcb": None},
    "alias": {
        "platforms": frozenset({"snp"}),
        "snp_min_tcb": {"bootloader": 1},
        "snp_alias_check": False,
    },
    "evaluation number": {"min_tcb_evaluation_number": 0},
    "the endpoint's word": {"anchor": "reported"},
    "challenge": {"challenge": "optional"},
    "post-quantum": {"pq": "preferred"},
    "any genuine machine": {"instances": None},
    "no Registry": {"registry": None},
    "no witness": {"witnesses": None},
    "owner can add": {"registry": RegistryRules("0:" + "00" * 32, bytes(32), "registry", "both")},
    "owner can add what": {
        "registry": RegistryRules("0:" + "00" * 32, bytes(32), "file", "registry")
    },
}


@pytest.mark.parametrize(("word", "change"), RELAXED.items(), ids=RELAXED)
def test_each_relaxation_is_named_alone(word: str, change: dict[str, Any]) -> None:
    found = relaxations(read(**change))
    assert len(found) == 1 and word in found[0]


def test_simulated_roots_come_first() -> None:
    assert "simulated" in relaxations(read(GOOD + UNSAFE))[0]
    assert dict(explain(read(GOOD + UNSAFE)))["roots"].startswith("SIMULATED")


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(GOOD + UNSAFE)
    shown = CliRunner().invoke(umay, ["client", "policy", "check", str(file)])
    assert shown.exit_code == 0 and "relaxed rules:" in shown.output
    found = CliRunner().invoke(umay, ["client", "policy", "check", "--json", str(file)])
    assert json.loads(found.output)["rules"]["network"] == "umay-test"


FIRST = GOOD.replace("version = 2", "version = 1  # of the year 2026")
for part in ("registry", "witnesses", "custody", "market"):
    FIRST = re.sub(rf"\[{part}\]\n[a-z]+ = \"none\"\n", "", FIRST)


def convert(tmp_path: Path, text: str) -> Result:
    file, out = tmp_path / "old.toml", tmp_path / "new.toml"
    file.write_text(text)
    arguments = ["client", "policy", "convert", str(file), "--out", str(out)]
    return CliRunner().invoke(umay, arguments)


def test_a_policy_of_version_1_is_converted_and_means_the_same(tmp_path: Path) -> None:
    done = convert(tmp_path, FIRST)
    assert done.exit_code == 0 and 'written as "none"' in done.stderr
    new = (tmp_path / "new.toml").read_text()
    assert Policy.from_toml(new.encode()) == Policy.from_toml(GOOD.encode())
    assert "version = 2  # of the year 2026" in new and "registry" not in FIRST


def test_a_policy_as_it_was_written_for_version_1_is_converted(tmp_path: Path) -> None:
    """A file of that time, and no text that is made from today's keys."""
    old = Path(__file__).with_name("policy_version_1.toml").read_text()
    assert convert(tmp_path, old).exit_code == 0
    new = (tmp_path / "new.toml").read_text()
    policy = Policy.from_toml(new.encode())
    assert (policy.registry, policy.witnesses) == (None, None)
    assert policy.snp_min_tcb == {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84}
    assert set(old.splitlines()) - set(new.splitlines()) == {
        "version = 1 # before [registry] and [witnesses] existed"
    }


NOT_CONVERTED = {
    "version 2": GOOD,
    "no version": FIRST.replace("version = 1", "versions = 1"),
    "not TOML": FIRST + "[",
    "another spelling of the version": FIRST.replace("version = 1", "version = 0x1"),
    "the version in a text alone": 'note = """\nversion = 1\n"""\n' + FIRST,
    "no policy": "version = 1\n",
    "a version of thousands of digits": FIRST.replace("version = 1", f"version = 0x{'f' * 5000}"),
}


@pytest.mark.parametrize("text", NOT_CONVERTED.values(), ids=NOT_CONVERTED)
def test_what_is_no_policy_of_version_1_is_not_converted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text(text)
    with pytest.raises(UsageError):
        policies_convert(file.read_bytes())
    assert convert(tmp_path, text).exit_code != 0 and not (tmp_path / "new.toml").exists()


NETWORK = (
    GOOD[GOOD.index("[network]") : GOOD.index("[freshness]")] + GOOD[GOOD.index("[[release]]") :]
)


def made(rules: str, network: str, tmp_path: Path) -> tuple[int, Path]:
    part, out = tmp_path / "network.toml", tmp_path / "policy.toml"
    part.write_text(network)
    arguments = ["client", "policy", "make", str(part), "--rules", rules, "--out", str(out)]
    try:
        CliRunner().invoke(umay, arguments, catch_exceptions=False, standalone_mode=False)
    except UmayError as error:
        return error.exit_code, out
    return 0, out


def test_shipped_rules_and_a_networks_part_are_a_policy(tmp_path: Path) -> None:
    code, out = made("production", NETWORK, tmp_path)
    policy = Policy.from_toml(out.read_bytes())
    assert (code, policy.roots) == (0, PRODUCTION)
    loose = relaxations(policy)
    assert not any("GPU revocation" in text or "TCB status" in text for text in loose)


def test_production_rules_refuse_simulated_roots(tmp_path: Path) -> None:
    code, out = made("production", NETWORK + UNSAFE, tmp_path)
    assert (code, out.exists()) == (4, False)


def test_simulation_rules_want_simulated_roots(tmp_path: Path) -> None:
    assert made("simulation", NETWORK, tmp_path)[0] == 4
    code, out = made("simulation", NETWORK + UNSAFE, tmp_path)
    assert code == 0 and Policy.from_toml(out.read_bytes()).roots.simulated


@pytest.mark.parametrize("network", ["", "[cpu]\nplatforms = []\n", "\x00"], ids=repr)
def test_a_networks_part_that_makes_no_policy(network: str, tmp_path: Path) -> None:
    assert made("production", network, tmp_path)[0] == 2


def test_unknown_rules(tmp_path: Path) -> None:
    assert made("lenient", NETWORK, tmp_path)[0] == 2
