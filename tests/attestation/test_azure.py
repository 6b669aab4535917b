"""Azure's HCL reports and vTPM quotes: every link, every bad case by name."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, UmayError
from attestation.platforms import azure, snp
from tests.helpers import azure_machine as machine


def quoted(text: bytes, signature: bytes | None = None, pcrs=machine.PCRS) -> azure.VtpmQuote:
    return azure.parse_vtpm_quote(text, signature or machine.sign(text), pcrs)


def refuses(code: str):
    return pytest.raises(NotAuthentic, check=lambda error: error.code == code)


def with_byte(data: bytes, at: int) -> bytes:
    return data[:at] + b"\1" + data[at + 1 :]


def test_every_link_holds() -> None:
    report = azure.parse_hcl(machine.hcl())
    azure.check_runtime(report, snp.parse_report(report.hardware).report_data)
    signed = quoted(machine.message(b"what was asked"))
    azure.check_quote(report, signed)
    assert (report.platform, signed.qualifying_data) == ("snp", b"what was asked")


def test_runtime_text_of_another_report() -> None:
    report = azure.parse_hcl(machine.hcl())
    with refuses("azure-runtime"):
        azure.check_runtime(report, bytes(64))


def test_quote_of_another_vtpm() -> None:
    with refuses("azure-vtpm"):
        text = machine.message()
        azure.check_quote(azure.parse_hcl(machine.hcl()), quoted(text, bytes(256)))


def test_quote_of_other_pcrs() -> None:
    other = (bytes([9]) * 32, *machine.PCRS[1:])
    with refuses("azure-pcrs"):
        azure.check_quote(azure.parse_hcl(machine.hcl()), quoted(machine.message(), pcrs=other))


KEYS = {"twice the key": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}] * 2}
BAD_REPORTS = {
    "empty": lambda: b"",
    "header alone": lambda: machine.hcl()[:32],
    "cut before its lengths": lambda: machine.hcl()[: 32 + 1184 + 3],
    "cut in its text": lambda: exact()[:-1],
    "byte after it": lambda: machine.hcl() + b"\1",
    "byte right after its text": lambda: exact() + b"\1" + bytes(100),
    "longer than any index": lambda: machine.hcl().ljust(16 * 1024 + 1, b"\0"),
    "a text of another length": lambda: with_byte(exact(), 32 + 1184 + 17),
    "key of another kind": lambda: machine.hcl(machine.runtime(keys=[named_key(kty="EC")])),
    "length of its text beyond it": lambda: with_byte(exact(), 32 + 1184 + 2),
    "fill is not zero": lambda: machine.hcl()[:-1] + b"\1",
    "other magic": lambda: b"HCLB" + machine.hcl()[4:],
    "unknown version": lambda: machine.hcl(version=3),
    "unknown platform": lambda: machine.hcl(kind=3),
    "unknown hash": lambda: machine.hcl(hashed=2),
    "lengths contradict": lambda: machine.hcl()[:8] + b"\0\0" + machine.hcl()[10:],
    "no JSON": lambda: machine.hcl(b"{"),
    "deep JSON": lambda: machine.hcl(b"[" * 1200),
    "no key": lambda: machine.hcl(machine.runtime(keys=[])),
    "two keys": lambda: machine.hcl(machine.runtime(keys=KEYS["twice the key"])),
    "TDREPORT too long": lambda: with_byte(machine.hcl(kind=4), 32 + 1024),
}


def named_key(**changes: str) -> dict[str, str]:
    found = json.loads(machine.runtime())["keys"][0]
    return {**found, **changes}


def modulus(size: int) -> str:
    """The key's modulus behind zeros: `size` characters of base64url."""
    number = machine.key().public_key().public_numbers().n
    return base64.urlsafe_b64encode(number.to_bytes(size * 3 // 4)).decode().rstrip("=")[:size]


def exact() -> bytes:
    """The report without the zeros of its NV index."""
    data = machine.hcl()
    return data[: azure.hcl_length(data)]


@pytest.mark.parametrize("size", [0, 1, 2599, 2600, 2601, 4096, 16 * 1024])
def test_report_of_any_index_size(size: int) -> None:
    """Tools cut the zeros off, and an NV index may be larger one day."""
    report = exact()
    assert azure.parse_hcl(report.ljust(size, b"\0")) == azure.parse_hcl(report)


@pytest.mark.parametrize("make", BAD_REPORTS.values(), ids=BAD_REPORTS)
def test_malformed_report(make) -> None:
    with pytest.raises(ParseError):
        azure.parse_hcl(make())


BAD_QUOTES = {
    "no quote": b"\0" + machine.message()[1:],
    "cut short": machine.message()[:-1],
    "byte after it": machine.message() + b"\0",
    "other PCRs selected": machine.message().replace(b"\3\xff\xff\xff", b"\3\xff\xff\x7f"),
    "too much data": machine.message(bytes(65)),
    "digest of 31 bytes": machine.message()[:-34] + b"\0\x1f" + bytes(31),
}


@pytest.mark.parametrize("text", BAD_QUOTES.values(), ids=BAD_QUOTES)
def test_malformed_quote(text: bytes) -> None:
    with pytest.raises(ParseError):
        quoted(text, b"-")


def test_quote_of_a_missing_pcr() -> None:
    with pytest.raises(ParseError):
        quoted(machine.message(), pcrs=machine.PCRS[:-1])


def test_quote_of_a_pcr_of_31_bytes() -> None:
    with pytest.raises(ParseError, match="24 PCRs of 32 bytes"):
        quoted(machine.message(), pcrs=(bytes(31), *machine.PCRS[1:]))


def test_quote_cut_within_a_field() -> None:
    with pytest.raises(ParseError, match="by its own lengths"):
        quoted(machine.message()[:13], b"-")


def test_quote_over_64_bytes_of_data() -> None:
    assert quoted(machine.message(bytes(64)), b"-").qualifying_data == bytes(64)


def test_a_report_whose_text_is_empty_ends_by_its_lengths() -> None:
    assert azure.hcl_length(machine.hcl(b"")) == 32 + 1184 + 20
    with pytest.raises(ParseError, match="runtime text as JSON"):
        azure.parse_hcl(machine.hcl(b""))


def test_a_key_written_longer_than_4096_bits() -> None:
    key = named_key(n=modulus(700))
    assert azure.parse_hcl(machine.hcl(machine.runtime(keys=[key])))
    with pytest.raises(ParseError, match="at most 4096 bits"):
        azure.parse_hcl(machine.hcl(machine.runtime(keys=[named_key(n="A" * 701)])))


@given(st.integers(0, 8 * machine.HCL_BYTES - 1))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    data = bytearray(machine.hcl())
    data[bit // 8] ^= 1 << bit % 8
    hardware = range(32 * 8, (32 + 1184) * 8)
    if bit in hardware:
        return  # the chip's own signature
    with pytest.raises(UmayError):
        report = azure.parse_hcl(bytes(data))
        azure.check_runtime(report, snp.parse_report(report.hardware).report_data)


def test_it_is_no_snp_report() -> None:
    with pytest.raises(ParseError, match="HCL report of Azure's paravisor, which is unsupported"):
        snp.parse_report(machine.hcl())
