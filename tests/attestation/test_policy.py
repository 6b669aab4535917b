"""The policy file: absent keys, unknown keys and wrong values are errors by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError
from attestation.log.note import COSIGNATURE, VerifierKey
from attestation.trust.anchor import reaches
from attestation.trust.policy import Policy, RegistryRules
from attestation.trust.policy_file import KEYS, MAX_POLICY_BYTES, NOT_ENFORCED
from attestation.trust.roots import PRODUCTION

GOOD = f"""
version = 2
[network]
id = "umay-test"
log_contract = "0:{"c0" * 32}"
log_code_hash = "{"11" * 32}"
log_origin = "127.0.0.1:1/log"
log_key = "{"22" * 32}"
anchor = "reported"
max_anchor_age_s = 600
[registry]
contract = "none"
[witnesses]
required = "none"
[freshness]
max_beacon_age_s = 7200
challenge = "optional"
[cpu]
platforms = ["tdx"]
tcb_status = ["UpToDate"]
refuse_advisories = []
min_tcb_evaluation_number = 17
max_collateral_age_s = 2592000
families = "any"
instances = "any"
[cpu.snp]
signers = ["VCEK"]
min_tcb = "any"
alias_check = "required"
[gpu]
count = 1
architectures = ["hopper"]
min_driver = "any"
revocation = "required"
[channel]
pq = "required"
[custody]
required = "none"
[market]
contract = "none"
[[release]]
name = "r1"
launch_ids = []
engine_configs = "any"
host_configs = "any"
[release.shapes]
laptop = ["{"33" * 32}"]
[[model]]
name = "demo"
digest = "{"44" * 32}"
"""
UNSAFE = f"""
[unsafe.simulated_roots]
intel = ["{"55" * 32}"]
amd = []
nvidia_device = ["{"66" * 32}"]
nvidia_rim = ["{"77" * 32}"]
"""


def test_a_full_policy_is_read() -> None:
    policy = Policy.from_toml(GOOD.encode())
    assert policy.roots is PRODUCTION
    assert policy.gpu_count == 1 and policy.families is None
    assert policy.releases[0].shapes == {"laptop": {b"\x33" * 32}}
    assert policy.models == (("demo", b"\x44" * 32),)


def test_unsafe_roots_replace_the_vendors() -> None:
    roots = Policy.from_toml((GOOD + UNSAFE).encode()).roots
    assert roots.simulated
    assert not roots.intel & PRODUCTION.intel
    assert roots.amd == frozenset()


LINES = [line for line in GOOD.splitlines() if " = " in line]


@pytest.mark.parametrize("line", LINES, ids=[line.split(" = ")[0] for line in LINES])
def test_every_key_must_be_written(line: str) -> None:
    with pytest.raises(ParseError, match="absent"):
        Policy.from_toml(GOOD.replace(line + "\n", "", 1).encode())


@pytest.mark.parametrize("section", ["network", "freshness", "cpu", "gpu", "channel"])
def test_an_unknown_key_is_named(section: str) -> None:
    with pytest.raises(ParseError, match="surplus: unknown key"):
        Policy.from_toml(GOOD.replace(f"[{section}]", f"[{section}]\nsurplus = 1").encode())


TYPOS = {
    "a key": (
        "max_anchor_age_s",
        "max_anchr_age_s",
        "[network] max_anchr_age_s",
        "max_anchor_age_s",
    ),
    "a plural": ("architectures", "architecture", "[gpu] architecture", "architectures"),
    "a dash": ("tcb_status", "tcb-status", "[cpu] tcb-status", "tcb_status"),
    "a table": ("[freshness]", "[freshnes]", "policy: freshnes", "freshness"),
    "a table in a table": ("[cpu.snp]", "[cpu.snpp]", "[cpu] snpp", "snp"),
    "a list of tables": ("[[release]]", "[[releases]]", "policy: releases", "release"),
    "a key of a release": ("launch_ids", "launch_id", "[release] launch_id", "launch_ids"),
}


@pytest.mark.parametrize(("old", "new", "place", "meant"), TYPOS.values(), ids=TYPOS)
def test_a_typo_is_named_with_its_place_and_what_was_meant(
    old: str, new: str, place: str, meant: str
) -> None:
    assert old in GOOD
    with pytest.raises(ParseError) as caught:
        Policy.from_toml(GOOD.replace(old, new).encode())
    assert f"{place}: unknown key; did you mean {meant}?" in str(caught.value)


def test_a_mistyped_word_is_named_too() -> None:
    with pytest.raises(
        ParseError, match=r"tcb_status: UpToDat is unknown; did you mean UpToDate\?"
    ):
        Policy.from_toml(GOOD.replace('["UpToDate"]', '["UpToDat"]').encode())
    with pytest.raises(ParseError, match="unknown key; expected one of pq"):
        Policy.from_toml(GOOD.replace("[channel]", "[channel]\nsurplus = 1").encode())


def test_every_key_that_is_read_is_known() -> None:
    sections = {name.split(".")[0] for name in KEYS}
    words = {word for keys in KEYS.values() for word in keys.split()}
    assert all(line.split(" = ")[0] in words for line in LINES if not line.startswith("laptop"))
    assert sections - {""} <= words


BAD = {
    "another version": ("version = 2", "version = 3"),
    "anchor may not be claimed": ('anchor = "reported"', 'anchor = "claimed"'),
    "negative age": ("max_anchor_age_s = 600", "max_anchor_age_s = -1"),
    "age true": ("max_anchor_age_s = 600", "max_anchor_age_s = true"),
    "age as text": ("max_anchor_age_s = 600", 'max_anchor_age_s = "any"'),
    "unknown TCB status": ('["UpToDate"]', '["UpToDateish"]'),
    "revoked is never accepted": ('["UpToDate"]', '["Revoked"]'),
    "unknown platform": ('["tdx"]', '["sgx"]'),
    "short digest": ("11" * 32, "11" * 31),
    "capital hex": ("44" * 32, "AA" * 32),
    "revocation off without its name": ('revocation = "required"', 'revocation = "none"'),
    "pq any": ('pq = "required"', 'pq = "any"'),
    "no release": ("[[release]]", "[[unreleased]]"),
    "measurements any": (f'laptop = ["{"33" * 32}"]', 'laptop = "any"'),
    "shape without measurements": (f'laptop = ["{"33" * 32}"]', "laptop = []"),
    "no shapes": (f'laptop = ["{"33" * 32}"]', ""),
    "not TOML": ("[network]", "[network"),
    "a number of thousands of digits": ("= 600", "= 0x" + "f" * 5000),
    "an age of 65 bits": ("= 600", f"= {2**64}"),
    "an age of 54 bits": ("= 600", f"= {2**53}"),
    "a file that is too long": ("[network]", "#" * MAX_POLICY_BYTES + "\n[network]"),
    "an SVN of nine bits": (
        'min_tcb = "any"',
        "min_tcb = { bootloader = 256, tee = 0, snp = 0, microcode = 0 }",
    ),
    "an age as a fraction": ("= 600", "= 600.0"),
    "no age at all": ("= 600", "= nan"),
    "a capital in a word": ('"reported"', '"Reported"'),
    "a look-alike letter": ('contract = "none"', 'contract = "n\u043ene"'),
    "none in capitals": ('contract = "none"', 'contract = "NONE"'),
    "none in a list": ('contract = "none"', 'contract = ["none"]'),
    "a table twice": ("[freshness]", "[network]\n[freshness]"),
    "a key twice": ("count = 1", "count = 1\ncount = 1"),
    "a GPU count as true": ("count = 1", "count = true"),
    "a driver that is no version": ('min_driver = "any"', 'min_driver = "latest"'),
    "an empty driver": ('min_driver = "any"', 'min_driver = ""'),
    "a network without a name": ('"umay-test"', '""'),
    "a release that steers a terminal": ('"r1"', '"\\u001b[2J"'),
    "a VM shape without a name": ("laptop =", '"" ='),
    "a key of ten thousand parts": ("version = 2", ".".join("a" * 10_000) + " = 1"),
}


@pytest.mark.parametrize(("old", "new"), BAD.values(), ids=BAD)
def test_wrong_values_are_refused(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(ParseError, match="policy"):
        Policy.from_toml(GOOD.replace(old, new, 1).encode())


@pytest.mark.parametrize(("name", "key"), NOT_ENFORCED.items())
@pytest.mark.parametrize("value", ['"required"', '"any"', "0", "[]"])
def test_what_cannot_be_enforced_is_refused_by_name(name: str, key: str, value: str) -> None:
    part = f'[{name}]\n{key} = "none"'
    assert part in GOOD
    with pytest.raises(ParseError) as caught:
        Policy.from_toml(GOOD.replace(part, f"[{name}]\n{key} = {value}").encode())
    assert f'policy: [{name}] {key}: expected "none"' in str(caught.value)
    with pytest.raises(ParseError, match="unknown key"):
        Policy.from_toml(GOOD.replace(part, f"{part}\nsurplus = 1").encode())


REGISTRY = f'''[registry]
contract = "0:{"5e" * 32}"
code_hash = "{"5f" * 32}"
releases = "both"
models = "file"
'''
WITH_REGISTRY = GOOD.replace('[registry]\ncontract = "none"\n', REGISTRY)
BY_REGISTRY = WITH_REGISTRY.replace('"both"', '"registry"').replace(
    f'[release.shapes]\nlaptop = ["{"33" * 32}"]\n', 'shapes = "registry"\n'
)


def test_a_registry_is_pinned() -> None:
    rules = Policy.from_toml(WITH_REGISTRY.encode()).registry
    assert rules == RegistryRules("0:" + "5e" * 32, b"\x5f" * 32, "both", "file")
    assert Policy.from_toml(GOOD.encode()).registry is None


def test_the_registry_fills_a_slot_that_the_file_names() -> None:
    policy = Policy.from_toml(BY_REGISTRY.encode())
    assert [release.by_registry for release in policy.releases] == [True]
    both = BY_REGISTRY.replace('models = "file"', 'models = "registry"')
    both = both.replace(f'digest = "{"44" * 32}"', 'digest = "registry"')
    assert Policy.from_toml(both.encode()).models == (("demo", None),)


BAD_REGISTRIES = {
    "another source": (WITH_REGISTRY.replace('"both"', '"either"'), "file or registry or both"),
    "no code hash": (WITH_REGISTRY.replace(f'code_hash = "{"5f" * 32}"\n', ""), "code_hash"),
    "no address": (WITH_REGISTRY.replace("0:" + "5e" * 32, "any"), "contract"),
    "none, and more": (GOOD.replace("[registry]", '[registry]\nmodels = "file"'), "no other key"),
    "a slot without a Registry": (
        GOOD.replace("[release.shapes]", 'shapes = "registry"').replace("laptop", "#"),
        "needs [registry] releases",
    ),
    "a model's slot beside a list": (
        WITH_REGISTRY.replace(f'digest = "{"44" * 32}"', 'digest = "registry"'),
        "needs [registry] models",
    ),
    "a list beside the Registry": (WITH_REGISTRY.replace('"both"', '"registry"'), "exactly one"),
    "two slots": (
        BY_REGISTRY
        + BY_REGISTRY[BY_REGISTRY.index("[[release]]") : BY_REGISTRY.index("[[model]]")],
        "exactly one",
    ),
}


@pytest.mark.parametrize(("text", "says"), BAD_REGISTRIES.values(), ids=BAD_REGISTRIES)
def test_a_registry_that_is_not_pinned_whole(text: str, says: str) -> None:
    with pytest.raises(ParseError, match=re.escape(says)):
        Policy.from_toml(text.encode())


WITNESS_KEYS = [
    VerifierKey(f"w{number}.example", bytes([number]) * 32, COSIGNATURE) for number in (1, 2, 3)
]
WITNESSES = "[witnesses]\nrequired = 2\nmax_age_s = 3600\n" + "".join(
    f'[[witnesses.witness]]\nkey = "{key.to_text()}"\ndomain = "{domain}"\n'
    for key, domain in zip(WITNESS_KEYS, ("ada", "bela", "ada"), strict=True)
)
WITNESSED = GOOD.replace('[witnesses]\nrequired = "none"\n', WITNESSES)


def test_witnesses_are_named_with_their_domains() -> None:
    rules = Policy.from_toml(WITNESSED.encode()).witnesses
    assert rules is not None and (rules.required, rules.max_age_s) == (2, 3600)
    assert rules.domains == ("ada", "bela") and rules.witnesses[0] == (WITNESS_KEYS[0], "ada")


BAD_WITNESSES = {
    "more than there are domains": ("required = 2", "required = 3", "1 to 2"),
    "zero": ("required = 2", "required = 0", 'or "none", got 0'),
    "none, and more": ("required = 2", 'required = "none"', "no other key"),
    "any": ("required = 2", 'required = "any"', "whole number"),
    "no age": ("max_age_s = 3600\n", "", "max_age_s"),
    "one key twice": (WITNESS_KEYS[1].to_text(), WITNESS_KEYS[0].to_text(), "each key once"),
    "a log's key": (
        WITNESS_KEYS[0].to_text(),
        VerifierKey("w1.example", b"\1" * 32).to_text(),
        "type 04",
    ),
    "no domain": ('domain = "bela"', 'domain = ""', "domain: expected lower-case"),
    "a domain in another spelling": ('domain = "bela"', 'domain = "Ada"', "domain: expected lower"),
    "a domain and a space": ('domain = "bela"', 'domain = "ada "', "domain: expected lower-case"),
    "a look-alike domain": ('domain = "bela"', 'domain = "\u0430da"', "domain: expected lower"),
    "one key under two names": (
        WITNESS_KEYS[1].to_text(),
        VerifierKey("w9.example", WITNESS_KEYS[0].public_key, COSIGNATURE).to_text(),
        "each key once",
    ),
    "the log as its own witness": (
        WITNESS_KEYS[0].to_text(),
        VerifierKey("w1.example", b"\x22" * 32, COSIGNATURE).to_text(),
        "keys of others than the log",
    ),
    "no witness": (WITNESSES[WITNESSES.index("[[") :], "", "witness"),
}


@pytest.mark.parametrize(("old", "new", "says"), BAD_WITNESSES.values(), ids=BAD_WITNESSES)
def test_witnesses_that_cannot_be_counted(old: str, new: str, says: str) -> None:
    assert old in WITNESSED
    with pytest.raises(ParseError, match=re.escape(says)):
        Policy.from_toml(WITNESSED.replace(old, new, 1).encode())


def test_version_1_is_refused_with_the_command_that_converts_it() -> None:
    with pytest.raises(ParseError, match="expected 2, got 1; `umay client policy convert FILE`"):
        Policy.from_toml(GOOD.replace("version = 2", "version = 1").encode())


@pytest.mark.parametrize("key", ["release", "model"])
def test_a_list_of_nothing_is_no_list(key: str) -> None:
    none = re.sub(rf"\[\[{key}\]\].*?(?=\[\[|\Z)", "", GOOD, flags=re.DOTALL)
    with pytest.raises(ParseError, match=rf"\[\[{key}\]\]: expected at least one"):
        Policy.from_toml(f"{key} = []\n{none}".encode())


@pytest.mark.parametrize("table", ["network", "freshness", "gpu", "registry", "market"])
def test_a_table_that_is_absent_is_named_as_one(table: str) -> None:
    none = re.sub(rf"^\[{table}\]\n.*?(?=^\[|\Z)", "", GOOD, flags=re.DOTALL | re.MULTILINE)
    with pytest.raises(ParseError, match=rf"^policy: \[{table}\]: expected this table, but"):
        Policy.from_toml(none.encode())


def test_a_later_version_is_named_before_what_is_new_in_it() -> None:
    with pytest.raises(ParseError, match="version: expected 2, got 3"):
        Policy.from_toml((GOOD.replace("version = 2", "version = 3") + "[later]\n").encode())


def test_unsafe_without_every_root_list_is_refused() -> None:
    with pytest.raises(ParseError, match="amd: expected a value, but the key is absent"):
        Policy.from_toml((GOOD + UNSAFE.replace("amd = []\n", "")).encode())


@given(st.binary(max_size=200))
def test_hypothesis_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(ParseError):
        Policy.from_toml(data)


def test_levels() -> None:
    assert reaches("proven", "reported") and reaches("reported", "reported")
    assert not reaches("reported", "proven")
    assert not reaches("claimed", "reported")
    assert not reaches("claimed", "claimed")
    assert not reaches("nonsense", "reported")
