"""An account is the same account in every spelling, and no other text is one."""

from __future__ import annotations

import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytoniq_core import Address

from attestation.errors import ParseError, UsageError
from attestation.formats.address import canonical, same_account
from attestation.formats.keys import KeyBundle
from attestation.formats.origin import check_log_name
from attestation.trust.policy import Policy
from contracts.chain import raw_address
from contracts.codec import rotation_text
from contracts.wallet import internal_message
from tests.attestation.test_policy import GOOD
from tests.attestation.test_vectors import raw
from tests.helpers.spellings import friendly, spellings

ACCOUNT = bytes(range(0xE0, 0x100))  # its base64 has characters of both alphabets
RAW = "0:" + ACCOUNT.hex()
ALPHABET = string.ascii_letters + string.digits + "-_+/"
accounts = st.tuples(st.sampled_from(["0", "-1"]), st.binary(min_size=32, max_size=32)).map(
    lambda found: f"{found[0]}:{found[1].hex()}"
)


@given(accounts)
def test_every_spelling_has_one_form(account: str) -> None:
    assert {canonical(text) for text in spellings(account).values()} == {account}
    assert {raw_address(text) for text in spellings(account).values()} == {account}


@given(accounts, st.data())
def test_any_one_character_changed_is_no_address(account: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([t for t in spellings(account).values() if ":" not in t]))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(ALPHABET))
    changed = text[:at] + other + text[at + 1 :]
    if _standard(changed) == _standard(text):  # the other alphabet's sign for the same bits
        assert _refused(changed) or canonical(changed) == account
    else:
        assert _refused(changed)


def _standard(text: str) -> str:
    return text.translate(str.maketrans("-_", "+/"))


def _refused(text: str) -> bool:
    try:
        canonical(text)
    except ParseError:
        return True
    return False


def test_known_addresses() -> None:
    """TEP-2's own example, in both of its friendly forms."""
    example = "0:ca6e321c7cce9ecedf0a8ca2492ec8592494aa5fb5ce0387dff96ef6af982a3e"
    assert canonical("EQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPrHF") == example
    assert canonical("UQDKbjIcfM6ezt8KjKJJLshZJJSqX7XOA4ff-W72r5gqPuwA") == example


WRONG = {
    "nothing": ("", "0 characters"),
    "a word": ("EQ", "2 characters"),
    "31 bytes, raw": ("0:" + "ab" * 31, "62 characters after the colon"),
    "33 bytes, raw": ("0:" + "ab" * 33, "66 characters after the colon"),
    "no hash": ("0:", "0 characters after the colon"),
    "no hex": ("0:" + "zz" * 32, "other characters than hex digits"),
    "a workchain that there is not": ("99999999999:" + "ab" * 32, "workchain is '99999999999'"),
    "a workchain of more bits, with the same lowest byte": ("256:" + "ab" * 32, "workchain"),
    "workchain 1, raw": ("1:" + "ab" * 32, "workchain is '1'"),
    "minus zero": ("-0:" + "ab" * 32, "workchain"),
    "plus zero": ("+0:" + "ab" * 32, "workchain"),
    "zero twice": ("00:" + "ab" * 32, "workchain"),
    "no workchain": (":" + "ab" * 32, "workchain"),
    "another script's digit": ("\u0660:" + "ab" * 32, "workchain"),
    "another script's digits": ("0:" + "\uff11" * 64, "other characters"),
    "digits that int() joins": ("0:" + "a_" * 32, "other characters"),
    "spaces that fromhex() skips": ("0:" + "ab " * 21 + "a", "other characters"),
    "three parts": ("0:" + "ab" * 16 + ":" + "ab" * 15 + "a", "other characters"),
    "a space before": (" " + RAW, "workchain"),
    "a line break after": (RAW + "\n", "65 characters"),
    "31 bytes, friendly": (friendly(0x11, 0, ACCOUNT[:31]) + "AA", "checksum|characters"),
    "33 bytes, friendly": (friendly(0x11, 0, ACCOUNT + b"\0")[:48], "checksum"),
    "an unknown tag": (friendly(0x12, 0, ACCOUNT), "tag is 0x12"),
    "tag zero": (friendly(0, 0, ACCOUNT), "tag is 0x00"),
    "workchain 1, friendly": (friendly(0x11, 1, ACCOUNT), "workchain is 1"),
    "workchain -2, friendly": (friendly(0x51, -2, ACCOUNT), "workchain is -2"),
    "both alphabets": (friendly(0x11, 0, b"\xff" * 32).replace("_", "/", 1), "one base64 alphabet"),
    "padding": (friendly(0x11, 0, ACCOUNT)[:47] + "=", "one base64 alphabet"),
    "48 characters of nothing": ("x" * 48, "checksum"),
    "half a character": ("\ud800" * 48, "one base64 alphabet"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_address_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ParseError, match=said):
        canonical(text)
    with pytest.raises(UsageError, match=f"--contract: expected a TON address.*{said}"):
        raw_address(text, "--contract")
    assert not same_account(text, text)  # nobody's


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(ParseError) as told:
        canonical("x" * 100_000)
    assert len(str(told.value)) < 400
    for size, shown in ((80, "x" * 80), (81, "x" * 80 + "…")):
        with pytest.raises(ParseError, match=f"got '{shown}': it has {size} characters"):
            canonical("x" * size)


def test_accounts_are_compared_and_not_texts() -> None:
    texts = spellings(RAW).values()
    assert all(same_account(one, other) for one in texts for other in texts)
    assert not same_account(RAW, "-1:" + ACCOUNT.hex())
    assert not same_account(RAW, "0:" + ACCOUNT[::-1].hex())


# Where an address enters what both parties share


@pytest.mark.parametrize("text", spellings(RAW).values(), ids=spellings(RAW))
def test_a_policy_holds_the_one_form(text: str) -> None:
    changed = GOOD.replace("0:" + "c0" * 32, text)
    assert Policy.from_toml(changed.encode()).log_contract == RAW


@pytest.mark.parametrize("text", ["EQ", "0:" + "c0" * 31, "99999999999:" + "c0" * 32])
def test_a_policy_names_what_is_no_address(text: str) -> None:
    changed = GOOD.replace("0:" + "c0" * 32, text)
    with pytest.raises(ParseError, match=r"\[network\] log_contract: expected a TON address"):
        Policy.from_toml(changed.encode())


@pytest.mark.parametrize("text", spellings(RAW).values(), ids=spellings(RAW))
def test_a_bundles_bytes_stay_and_its_payee_is_an_account(text: str) -> None:
    made = dataclasses.replace(KeyBundle.from_bytes(raw("key_bundle")), payee=text)
    again = KeyBundle.from_bytes(made.to_bytes())
    assert again.to_bytes() == made.to_bytes() and same_account(again.payee or "", RAW)


@pytest.mark.parametrize("text", ["EQpayee", "0:" + "ab" * 33, "7:" + "ab" * 32])
def test_a_bundle_pays_nobody_who_is_no_account(text: str) -> None:
    with pytest.raises(ParseError, match="KeyBundle key 11, payee: expected a TON address"):
        dataclasses.replace(KeyBundle.from_bytes(raw("key_bundle")), payee=text)


def test_a_message_to_any_spelling_is_the_same_message() -> None:
    cells = {internal_message(text, 1).hash for text in spellings(RAW).values()}
    assert len(cells) == 1
    with pytest.raises(UsageError, match="expected a TON address"):
        internal_message("0:" + "ab" * 31, 1)


def test_a_rotation_signed_for_any_spelling_is_the_same_text() -> None:
    texts = {rotation_text(text, bytes(32)) for text in spellings(RAW).values()}
    assert len(texts) == 1 and len(texts.pop()) == 23 + 32 + 32


# Other identities that people write in more ways than one


@pytest.mark.parametrize(
    "origin",
    ["https://log.example/umay", "log.example/umay/", "Log.example/umay", "http://127.0.0.1:1/log"],
)
def test_a_log_has_one_name(origin: str) -> None:
    with pytest.raises(ParseError, match="without scheme"):
        check_log_name(origin)
    with pytest.raises(ParseError, match=r"\[network\] log_origin: .*without scheme"):
        Policy.from_toml(GOOD.replace("127.0.0.1:1/log", origin).encode())


@pytest.mark.parametrize("origin", ["log.example/Umay", "log.example", "[::1]:8080/log"])
def test_what_follows_the_host_may_have_capitals(origin: str) -> None:
    check_log_name(origin)


def policy(old: str, new: str) -> Policy:
    assert old in GOOD
    return Policy.from_toml(GOOD.replace(old, new).encode())


def test_advisories_refuse_in_either_case() -> None:
    written = '["intel-sa-00837", "INTEL-SA-00960"]'
    read = policy("refuse_advisories = []", f"refuse_advisories = {written}")
    assert read.refuse_advisories == {"INTEL-SA-00837", "INTEL-SA-00960"}


@pytest.mark.parametrize("advisory", ["SA-00837 ", "INTEL-SA-", "INTEL_SA_00837", "CVE-2024-1"])
def test_an_advisory_that_refuses_nothing_is_named(advisory: str) -> None:
    """Or it would be accepted in silence: no vendor's answer ever has it."""
    with pytest.raises(ParseError, match="refuse_advisories: expected advisory ids"):
        policy("refuse_advisories = []", f'refuse_advisories = ["{advisory}"]')


def test_a_machine_is_the_same_in_hex_of_either_case() -> None:
    chip = bytes(range(0xC0, 0x100))
    read = policy('instances = "any"', f'instances = ["{chip.hex().upper()}", "{"AB" * 16}"]')
    assert read.instances == {chip.hex(), "ab" * 16}


@pytest.mark.parametrize("instance", ["", "ab" * 15, "0x" + "ab" * 16, "zz" * 16])
def test_an_instance_that_no_machine_has_is_named(instance: str) -> None:
    with pytest.raises(ParseError, match="instances: expected PPIDs"):
        policy('instances = "any"', f'instances = ["{instance}"]')


def test_the_chains_library_reads_our_spellings() -> None:
    """Or helper and reader could be wrong in the same way."""
    assert len(spellings(RAW)) == 10
    for text in spellings(RAW).values():
        theirs = Address(text)
        assert (theirs.wc, theirs.hash_part) == (0, ACCOUNT)
