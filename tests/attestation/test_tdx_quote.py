"""TDX quotes: the only bytes that parse are those that encode back to themselves."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ParseError, UmayError
from attestation.platforms.tdx import pck
from attestation.platforms.tdx import quote as quotes
from attestation.platforms.tdx.quote import BODY_FIELDS, cut_padding, parse_quote
from enclave.simulator import intel
from tests.helpers.tdx_machine import flip, good, good_bytes, pem

SIGNED_BYTES = 632
QE_TYPE_AT = SIGNED_BYTES + 4 + 128
AUTH_AT = QE_TYPE_AT + 6 + 384 + 64


def put(at: int, value: bytes) -> bytes:
    data = good_bytes()
    return data[:at] + value + data[at + len(value) :]


def longer(*sizes: int) -> bytes:
    """A byte more at the end, which the lengths that stand at `sizes` count."""
    data = bytearray(good_bytes() + b"\0")
    for at in sizes:
        data[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", data, at)[0] + 1)
    return bytes(data)


def td15() -> bytes:
    """A version 5 quote with a TDX 1.5 body, of the same machine."""
    return replace(
        good(), version=5, tee_tcb_svn2=b"\7\1\3" + bytes(13), mr_servicetd=bytes(48)
    ).to_bytes()


BAD = {
    "empty": b"",
    "truncated-header": good_bytes()[:40],
    "truncated-body": good_bytes()[:600],
    "truncated-chain": good_bytes()[:-1],
    "trailing-byte": good_bytes() + b"\0",
    "too-long": bytes(20_000),
    "version-3": put(0, b"\x03\0"),
    "version-6": put(0, b"\x06\0"),
    "version-5-without-descriptor": put(0, b"\x05\0"),
    "version-5-extended-body": td15().replace(b"\3\0\x88\2\0\0", b"\4\0\x75\3\0\0"),
    "version-5-wrong-size": td15().replace(b"\3\0\x88\2\0\0", b"\3\0\x48\2\0\0"),
    "version-5-sgx-body": td15().replace(b"\3\0\x88\2\0\0", b"\1\0\x80\1\0\0"),
    "version-5-body-of-nothing": td15().replace(b"\3\0\x88\2\0\0", b"\x09\0\0\0\0\0"),
    "byte-behind-the-certification-data": longer(SIGNED_BYTES),
    "byte-behind-the-qe-data": longer(SIGNED_BYTES, QE_TYPE_AT + 2),
    "key-type-p384": put(2, b"\x03\0"),
    "tee-sgx": put(4, bytes(4)),
    "tee-high-byte": put(4, b"\x81\0\0\x01"),
    "certification-type-5-outside": put(QE_TYPE_AT, b"\x05\0"),
    "certification-size-one-less": put(
        QE_TYPE_AT + 2, struct.pack("<I", len(good_bytes()) - QE_TYPE_AT - 7)
    ),
    "auth-size-one-more": put(AUTH_AT, b"\x21\0"),
    "ppid-instead-of-chain": put(AUTH_AT + 2 + 32, b"\x03\0"),
    "signature-size-one-less": put(
        SIGNED_BYTES, struct.pack("<I", len(good_bytes()) - SIGNED_BYTES - 5)
    ),
}


def chains() -> dict[str, bytes]:
    text = good().pck_pem
    one = text[: text.index(b"-----END") + len(b"-----END CERTIFICATE-----\n")]
    return {
        "no-certificate": b"",
        "two-certificates": text.replace(one, b"", 1),
        "four-certificates": text + one,
        "two-nuls": text + b"\0\0",
        "text-between": text.replace(one, one + b"# leaf\n", 1),
        "carriage-returns": text.replace(b"\n", b"\r\n"),
        "long-line": text.replace(b"\n", b"", 3).replace(b"-----M", b"-----\nM"),
        "not-base64": text.replace(b"MII", b"M!I", 1),
        "other-block": text.replace(b"BEGIN CERTIFICATE", b"BEGIN PUBLIC KEY!", 1),
    }


@pytest.mark.parametrize("name", BAD)
def test_malformed_quote_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_quote(BAD[name])


def test_a_body_of_an_unknown_type_is_named() -> None:
    with pytest.raises(ParseError, match="extended body, got type 9 of 0 bytes"):
        parse_quote(BAD["version-5-body-of-nothing"])


def test_a_quote_has_a_limit() -> None:
    with pytest.raises(ParseError, match="at most 16384 bytes"):
        parse_quote(good_bytes().ljust(16 * 1024 + 1, b"\0"))
    with pytest.raises(ParseError, match="expected the end"):
        parse_quote(good_bytes().ljust(16 * 1024, b"\0"))


def test_a_certificate_without_its_end() -> None:
    cut = good().pck_pem.rpartition(b"-----END")[0]
    with pytest.raises(ParseError, match="PEM certificates and nothing else"):
        parse_quote(replace(good(), pck_pem=cut).to_bytes())


def test_version_5_with_either_body() -> None:
    for data in (td15(), replace(good(), version=5).to_bytes()):
        assert parse_quote(data).to_bytes() == data
        assert parse_quote(data).report_data == good().report_data
    assert len(parse_quote(td15()).signed_region) == 702


def test_the_last_bits_of_base64_are_zero() -> None:
    assert quotes._pem_body(b"QQ==\n") == b"A"
    with pytest.raises(ParseError, match="another layout"):
        quotes._pem_body(b"QR==\n")


@pytest.mark.parametrize("at", [1, 63, 65, 128])
def test_a_line_that_ends_somewhere_else(at: int) -> None:
    text = base64.b64encode(bytes(96))
    assert quotes._pem_body(text[:64] + b"\n" + text[64:] + b"\n") == bytes(96)
    with pytest.raises(ParseError, match="lines of 64 characters"):
        quotes._pem_body(text[:at] + b"\n" + text[at:] + b"\n")


@given(st.binary(max_size=200), st.integers(0, 290), st.sampled_from([b"", b"\n", b"A", b"="]))
def test_lines_are_those_that_the_writer_writes(der: bytes, at: int, put_in: bytes) -> None:
    written = quotes.write_pem(der).removeprefix(quotes._PEM_BEGIN).removesuffix(quotes._PEM_END)
    assert quotes._pem_body(written) == der
    for other in (written[:at] + put_in + written[at:], written[:at] + put_in + written[at + 1 :]):
        try:
            read = quotes._pem_body(other)
        except ParseError:
            continue
        assert quotes.write_pem(read) == quotes._PEM_BEGIN + other + quotes._PEM_END


@pytest.mark.parametrize("name", chains())
def test_other_spelling_of_the_chain_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_quote(replace(good(), pck_pem=chains()[name]).to_bytes())


def test_one_nul_after_the_chain_is_intels_own_spelling() -> None:
    data = replace(good(), pck_pem=good().pck_pem + b"\0").to_bytes()
    assert parse_quote(data).pck_chain == good().pck_chain


@pytest.mark.parametrize("size", [0, 1, 70, 307, 3061])
def test_zeros_behind_a_quote_are_the_hosts_padding(size: int) -> None:
    for quote in (good_bytes(), td15()):
        assert cut_padding(quote + bytes(size)) == quote
    if size:
        with pytest.raises(ParseError):  # evidence stays strict: whoever takes a quote cuts
            parse_quote(good_bytes() + bytes(size))


@pytest.mark.parametrize("rest", [b"\1", bytes(69) + b"\1", b"\1" + bytes(69), b"\xff" * 8])
def test_other_bytes_behind_a_quote_are_refused(rest: bytes) -> None:
    at = len(good_bytes()) + len(rest) - len(rest.lstrip(b"\0"))
    with pytest.raises(ParseError, match=f"expected zero padding .* at byte {at}"):
        cut_padding(good_bytes() + rest)


@pytest.mark.parametrize("name", ["zeros", *BAD])
def test_a_buffer_must_begin_with_a_quote(name: str) -> None:
    buffer = {"zeros": bytes(5243), **BAD}[name]
    if name != "trailing-byte":  # which is padding
        with pytest.raises(ParseError):
            cut_padding(buffer)


def test_fields_stand_where_intel_puts_them() -> None:
    quote = good()
    assert quote.report_data == b"\x07" * 64 == good_bytes()[568:632]
    assert quote.mr_td == b"\x01" * 48 == good_bytes()[48 + 136 : 48 + 184]
    assert quote.signed_region == good_bytes()[:632]
    assert sum(BODY_FIELDS.values()) == 584
    assert quote.report_data not in quote.identity


def test_signed_region_is_what_changes_the_statement_not_the_spelling() -> None:
    other = replace(good(), pck_pem=pem() + good().pck_pem + b"\0", signature=bytes(64))
    assert other.signed_region == good().signed_region


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=6000))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    try:
        assert parse_quote(data).to_bytes() == data
    except UmayError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((good_bytes(), td15())), st.integers(0, 4000), st.integers(1, 255))
def test_what_parses_encodes_back(data: bytes, at: int, mask: int) -> None:
    cut = at % 2
    data = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 : len(data) - cut]
    try:
        assert parse_quote(data).to_bytes() == data
    except ParseError:
        pass


def test_sgx_extension_of_the_simulated_processor() -> None:
    extension = pck.parse_extension(intel.sgx_extension(bytes(range(16))))
    assert extension == pck.PckExtension(
        bytes(range(16)), bytes(2), intel.FMSPC, intel.PLATFORM_INSTANCE
    )


EXTENSION = intel.sgx_extension(bytes(16))
BAD_EXTENSIONS = {
    "empty": b"",
    "trailing-byte": EXTENSION + b"\0",
    "truncated": EXTENSION[:-1],
    "indefinite-length": b"\x30\x80" + EXTENSION[4:] + b"\0\0",
    "long-form-of-a-short-length": b"\x30\x83\0" + EXTENSION[2:],
    "not-a-sequence": b"\x31" + EXTENSION[1:],
    "short-ppid": intel.sgx_extension(bytes(15)),
    "ppid-of-another-type": EXTENSION.replace(b"\x04\x10" + bytes(16), b"\x0c\x10" + bytes(16)),
    "no-fmspc": intel._tlv(0x30, intel._field(b"\1", b"\x04\x10" + bytes(16))),
    "twice": intel._tlv(0x30, *[intel._field(b"\1", b"\x04\x10" + bytes(16))] * 2),
    "other-oid": EXTENSION.replace(intel._SGX_ARC, intel._SGX_ARC[:-1] + b"\x02"),
    "too-long": bytes(5000),
}


def sgx_fields(*more: bytes) -> bytes:
    """The extension with further fields behind its own."""
    return intel._tlv(0x30, pck.read_tlv(EXTENSION)[1], *more)


def octets(number: int, size: int = 1) -> bytes:
    return intel._field(bytes([number]), intel._tlv(4, bytes(size)))


MISSPELT = {
    "field twice": (sgx_fields(octets(1, 16)), "each field once"),
    "a 33rd field": (sgx_fields(*map(octets, range(10, 36))), "at most 32"),
    "field that is no sequence": (sgx_fields(b"\x31" + octets(9)[1:]), "expected a SEQUENCE"),
    "field without an OID": (sgx_fields(intel._tlv(0x30, b"\4\1\0", b"\4\1\0")), "a field's OID"),
    "field whose OID has another tag": (
        sgx_fields(octets(9).replace(b"\x06\x0a", b"\x04\x0a")),
        "a field's OID",
    ),
    "field of another arc": (
        sgx_fields(octets(9).replace(intel._SGX_ARC, b"\x2a" * 9)),
        "a field's OID",
    ),
    "bytes behind a value": (
        sgx_fields(intel._field(b"\x09", b"\4\1\0\0")),
        "field 9: expected its own DER type",
    ),
    "no fields": (b"\x30\0", "expected field 1, got none"),
    "longer than 4096 bytes": (EXTENSION.ljust(4097, b"\0"), "at most 4096 bytes, got 4097"),
    "4096 bytes": (EXTENSION.ljust(4096, b"\0"), "nothing after it"),
}


@pytest.mark.parametrize(("data", "text"), MISSPELT.values(), ids=MISSPELT)
def test_each_rule_of_the_sgx_extension(data: bytes, text: str) -> None:
    with pytest.raises(ParseError, match=text):
        pck.parse_extension(data)


def test_32_fields_are_read() -> None:
    assert pck.parse_extension(sgx_fields(*map(octets, range(10, 35)))).fmspc == intel.FMSPC


BAD_ELEMENTS = {
    "nothing": (b"", "a tag and a length"),
    "tag alone": (b"\x30", "a tag and a length"),
    "tag of two bytes": (b"\x1f\x01\0", "one-byte tag"),
    "indefinite length": (b"\x30\x80\0\0", "at most two bytes"),
    "length of three bytes": (b"\x30\x83\1\0\0" + bytes(65536), "at most two bytes"),
    "one byte for a short length": (b"\x30\x81\x7f" + bytes(127), "shortest form"),
    "two bytes for one": (b"\x30\x82\0\xff" + bytes(255), "shortest form"),
    "a byte too few": (b"\x30\2\0", "expected 2 bytes of content, got 1"),
}


@pytest.mark.parametrize(("data", "text"), BAD_ELEMENTS.values(), ids=BAD_ELEMENTS)
def test_der_element_that_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ParseError, match=text):
        pck.read_tlv(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535])
def test_der_element_of_any_size(size: int) -> None:
    for rest in (b"", b"rest"):
        assert pck.read_tlv(intel._tlv(0x30, bytes(size)) + rest) == (0x30, bytes(size), rest)


@pytest.mark.parametrize("name", BAD_EXTENSIONS)
def test_malformed_sgx_extension_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        pck.parse_extension(BAD_EXTENSIONS[name])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(EXTENSION) - 1), st.binary(max_size=64))
def test_any_extension_raises_only_our_errors(at: int, data: bytes) -> None:
    for attempt in (flip(EXTENSION, at), data, EXTENSION[:at] + data):
        try:
            pck.parse_extension(attempt)
        except UmayError:
            pass
