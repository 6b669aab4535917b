"""Each format at its limits, and each of its checks alone.

Every row changes one field of a good value, and says with which words it has to be refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Device, Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.measurement import measurement_digest
from attestation.formats.origin import check_origin
from attestation.formats.receipt import Receipt, SignedReceipt
from tests.attestation.test_core_bytes import BUNDLE, EVIDENCE, RECEIPT

Value = KeyBundle | Evidence | Receipt


def changed(good: Value, change: dict[int, Any]) -> bytes:
    return cbor.encode(cbor.decode(good.to_bytes()) | change)


def devices(*items: Any) -> dict[int, Any]:
    return {6: list(items)}


BAD: dict[str, tuple[Value, dict[int, Any], str]] = {
    "evidence of version 2": (EVIDENCE, {0: 2}, "expected version 1"),
    "evidence of version true": (EVIDENCE, {0: True}, "expected version 1"),
    "another platform": (EVIDENCE, {1: "sgx"}, "one of the platforms tdx, "),
    "platform as a number": (EVIDENCE, {1: 7}, "one of the platforms tdx, "),
    "bundle as text": (EVIDENCE, {2: "b"}, "KeyBundle as bytes, got str"),
    "quote as a number": (EVIDENCE, {3: 7}, "quote as bytes, got int"),
    "certificates as a map": (EVIDENCE, {4: {}}, "CPU certificates as a list"),
    "65 certificates": (EVIDENCE, {4: [b"c"] * 65}, "CPU certificates as a list of at most 64"),
    "certificate as text": (EVIDENCE, {4: ["c"]}, "CPU certificates as bytes, got str"),
    "logs as a list": (EVIDENCE, {5: [b"", []]}, "0: CCEL, 1: "),
    "no events": (EVIDENCE, {5: {0: b""}}, "0: CCEL, 1: "),
    "a third log": (EVIDENCE, {5: {0: b"", 1: [], 2: b""}}, "0: CCEL, 1: "),
    "log as text": (EVIDENCE, {5: {0: "", 1: []}}, "CCEL as bytes, got str"),
    "event of 47 bytes": (EVIDENCE, {5: {0: b"", 1: [bytes(47)]}}, "events of 48 bytes"),
    "devices as a map": (EVIDENCE, {6: {}}, "a list of at most 64 devices"),
    "65 devices": (EVIDENCE, devices(*[[0, b"", []]] * 65), "a list of at most 64 devices"),
    "device as a map": (EVIDENCE, devices({0: 0, 1: b"", 2: []}), "kind, report, chain"),
    "device without a chain": (EVIDENCE, devices([0, b""]), "kind, report, chain"),
    "device with more": (EVIDENCE, devices([0, b"", [], 0]), "kind, report, chain"),
    "device of kind 2": (EVIDENCE, devices([2, b"", []]), "or 1 .NVSwitch., got 2"),
    "device of kind true": (EVIDENCE, devices([True, b"", []]), "NVSwitch., got True"),
    "report as text": (EVIDENCE, devices([0, "", []]), "report as bytes, got str"),
    "chain as a map": (EVIDENCE, devices([0, b"", {}]), "device chain as a list"),
    "65 certificates of a device": (
        EVIDENCE,
        devices([0, b"", [b"c"] * 65]),
        "device chain as a list of at most 64",
    ),
    "boot id of 15 bytes": (BUNDLE, {1: bytes(15)}, "boot id is 16 bytes"),
    "key configs as a map": (BUNDLE, {2: {}}, "key 2 of type list"),
    "65 GPUs": (BUNDLE, {6: 65}, "0 to 64 GPUs"),
    "GPUs as text": (BUNDLE, {6: "1"}, "key 6 of type int"),
    "keys from before 1970": (BUNDLE, {7: -1}, "not_before before not_after"),
    "keys for no second": (BUNDLE, {7: BUNDLE.not_after}, "not_before before not_after"),
    "keys of 64 bits": (BUNDLE, {8: 2**63}, "not_before before not_after"),
    "network of 65": (BUNDLE, {9: "n" * 65}, "network id is 1 to 64 characters"),
    "beacon as a map": (BUNDLE, {10: {7: 0, b"\6" * 32: 0}}, r"key 10 as \[seqno"),
    "beacon seqno as bytes": (BUNDLE, {10: [b"\7", b"\6" * 32]}, r"key 10 as \[seqno"),
    "payee that is none": (BUNDLE, {11: "0:xy"}, "key 11, payee: expected a TON address"),
    "receipt of version 2": (RECEIPT, {0: 2}, "version 1"),
    "receipt of version true": (RECEIPT, {0: True}, "version 1"),
    "digest of 31 bytes": (RECEIPT, {1: bytes(31)}, "32-byte digests"),
    "digest as text": (RECEIPT, {7: "x" * 32}, "32-byte digests"),
    "another reason": (RECEIPT, {5: "bored"}, "finish reason"),
    "tokens as a map": (RECEIPT, {6: dict.fromkeys(range(4), 0)}, "counts"),
    "three counts": (RECEIPT, {6: [1, 0, 2]}, "counts"),
    "tokens as text": (RECEIPT, {6: [1, 0, 2, "0"]}, "counts"),
    "tokens below zero": (RECEIPT, {6: [1, 0, 2, -1]}, "counts"),
    "tokens of 64 bits": (RECEIPT, {6: [1, 0, 2, 2**63]}, "counts"),
    "amount true": (RECEIPT, {8: True}, "counts"),
    "sequence below zero": (RECEIPT, {11: -1}, "counts"),
    "a second too much": (RECEIPT, {9: RECEIPT.time + 1}, "steps of 60 s"),
    "deterministic data as text": (RECEIPT, {10: "x"}, "deterministic data as bytes"),
    "deterministic data null": (RECEIPT, {10: None}, "deterministic data as bytes"),
}


@pytest.mark.parametrize(("good", "change", "words"), BAD.values(), ids=BAD)
def test_a_field_of_another_form(good: Value, change: dict[int, Any], words: str) -> None:
    assert type(good).from_bytes(changed(good, {})) == good
    with pytest.raises(ParseError, match=words):
        type(good).from_bytes(changed(good, change))


FULL = 2**63 - 1
AT_THE_LIMIT: dict[str, Value] = {
    "evidence of 64 each": dataclasses.replace(
        EVIDENCE,
        cpu_certificates=(b"c",) * 64,
        rtmr3_events=(bytes(48),) * 64,
        devices=(Device(1, b"", (b"c",) * 64),) * 64,
    ),
    "evidence of nothing": Evidence("snp", b"", b""),
    "bundle": dataclasses.replace(
        BUNDLE,
        gpu_count=64,
        not_before=0,
        not_after=FULL,
        network="n" * 64,
        beacon=(2**32 - 1, bytes(32)),
        key_configs=(b"k",) * 8,
        tls_spki=bytes(32),
    ),
    "bundle without GPUs": dataclasses.replace(BUNDLE, gpu_count=0, network="n", not_before=0),
    "receipt": dataclasses.replace(
        RECEIPT, tokens=(FULL,) * 4, amount=FULL, time=FULL // 60 * 60, sequence=FULL
    ),
    "receipt of nothing": dataclasses.replace(
        RECEIPT, tokens=(0, 0, 0, 0), amount=0, time=0, sequence=0, deterministic=b""
    ),
}


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_a_value_at_its_limits(name: str) -> None:
    value = AT_THE_LIMIT[name]
    assert type(value).from_bytes(value.to_bytes()) == value


def filled(good: Value, field: str, size: int) -> bytes:
    """As many bytes as `size`, most of them of this field."""
    most = 2 * size - 1000 - len(with_field(good, field, size - 1000))
    return with_field(good, field, most)


def with_field(good: Value, field: str, size: int) -> bytes:
    return dataclasses.replace(good, **{field: bytes(size)}).to_bytes()


@pytest.mark.parametrize(
    ("good", "field", "most"),
    [(EVIDENCE, "quote", 1 << 20), (RECEIPT, "deterministic", 4096)],
    ids=["evidence", "receipt"],
)
def test_the_longest_bytes(good: Value, field: str, most: int) -> None:
    assert len(data := filled(good, field, most)) == most
    assert type(good).from_bytes(data).to_bytes() == data
    with pytest.raises(ParseError, match=f"at most {most} bytes, got {most + 1}"):
        type(good).from_bytes(filled(good, field, most + 1))


BODY = RECEIPT.to_bytes()
SIGNED: dict[str, tuple[Any, str]] = {
    "a map": ({0: BODY, 1: bytes(64)}, "body, signature"),
    "body alone": ([BODY], "body, signature"),
    "a third part": ([BODY, bytes(64), b""], "body, signature"),
    "signature as text": ([BODY, "s" * 64], "body, signature"),
    "body as text": (["body", bytes(64)], "body, signature"),
    "signature of 63 bytes": ([BODY, bytes(63)], "a 64-byte signature"),
    "body that is none": ([b"\xa0", bytes(64)], "expected key 0"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_is_no_signed_receipt(name: str) -> None:
    value, words = SIGNED[name]
    assert SignedReceipt.from_bytes(cbor.encode([BODY, bytes(64)])).body == BODY
    with pytest.raises(ParseError, match=words):
        SignedReceipt.from_bytes(cbor.encode(value))


# Collateral

PARTS = {
    "a number": {7: b""},
    "no slash": {"intel": b""},
    "nothing behind the slash": {"intel/": b""},
    "capitals": {"Intel/x": b""},
    "a line end": {"intel/x\n": b""},
    "five words": {"a/b/c/d/e": b""},
    "a word of 161": {"intel/" + "x" * 161: b""},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_name(name: str) -> None:
    with pytest.raises(ParseError, match="expected part names such as intel/tcb_info"):
        Collateral(PARTS[name])  # type: ignore[arg-type]


def test_the_parts_of_collateral_have_limits() -> None:
    most = {f"intel/{number}": b"" for number in range(256)}
    assert len(Collateral(most).parts) == 256
    with pytest.raises(ParseError, match="at most 256 parts, got 257"):
        Collateral(most | {"intel/more": b""})
    longest = {"nvidia/rim/" + "x" * 160: bytes(2 << 20)}
    assert Collateral(longest).parts == longest
    for part in (bytes((2 << 20) + 1), "text"):
        with pytest.raises(ParseError, match="a/b: expected at most 2097152 bytes"):
            Collateral({"a/b": part})  # type: ignore[dict-item]


def test_collateral_is_a_copy_that_nobody_changes() -> None:
    given = {"a/b": b"first"}
    collateral = Collateral(given)
    given["a/b"] = b"second"
    assert collateral.parts == {"a/b": b"first"}
    with pytest.raises(TypeError):
        collateral.parts["a/b"] = b"third"  # type: ignore[index]


@pytest.mark.parametrize("fields", [{0: 2, 1: {}}, {0: True, 1: {}}, {0: 1, 1: []}], ids=str)
def test_what_is_no_collateral_set(fields: dict[int, Any]) -> None:
    with pytest.raises(ParseError, match="expected version 1 with a map of parts"):
        Collateral.from_bytes(cbor.encode(fields))


# CBOR, registers, origins

HEADS = {
    "a length of 16 bytes": b"\x1c" + bytes(16),
    "an argument that is not there": b"\x18",
    "an argument cut short": b"\x1a\1\1\1",
    "false in two bytes": b"\xf8\x14",
    "a float": b"\xf9\x3c\0",
    "a long float": b"\xfb" + bytes(8),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_of_a_value_that_is_malformed(name: str) -> None:
    with pytest.raises(ParseError, match="expected the head of a value"):
        cbor.decode(HEADS[name])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xc2\x41\1", "no tag, float or simple value"),
        (b"\xd8\x1c\x80", "no tag, float or simple value"),
        (b"\xf7", "no tag, float or simple value"),
        (b"\1\2", "expected 1 bytes, got 2"),
        (b"\x42\1", "expected 3 bytes, got 2"),
        (b"\x82\1", "it ends within one"),
        (b"", "it ends within one"),
    ],
)
def test_bytes_are_looked_through_before_anything_is_built(data: bytes, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        cbor.decode(data)


@pytest.mark.parametrize(
    "data", [b"\xa1\0\xa1\x80\1", b"\x81\xa1\x80\1", b"\xa1\xf5\0"], ids=bytes.hex
)
def test_keys_at_any_depth_are_numbers_or_strings(data: bytes) -> None:
    with pytest.raises(ParseError, match="numbers or strings as keys"):
        cbor.decode(data)


def test_the_depth_and_number_of_values_are_limited() -> None:
    assert cbor.decode(b"\x81" * 8 + b"\1") == [[[[[[[[1]]]]]]]]
    assert len(cbor.decode(cbor.encode([0] * 65_535))) == 65_535
    for data in (b"\x81" * 9 + b"\1", cbor.encode([0] * 65_536)):
        with pytest.raises(ParseError, match="at most 65536 values, 8 deep"):
            cbor.decode(data)


def test_bytes_have_the_limit_that_is_asked_for() -> None:
    data = cbor.encode(bytes(98))
    assert cbor.decode(data, limit=100) == bytes(98)
    with pytest.raises(ParseError, match="at most 99 bytes, got 100"):
        cbor.decode(data, limit=99)


def test_the_first_key_that_is_missing_is_named() -> None:
    with pytest.raises(ParseError, match="expected key 2, got none"):
        cbor.decode_map(b"\xa1\1\1", required=frozenset({1, 2, 3}))
    for other in (b"\x80", b"\xa1\x61a\1"):
        with pytest.raises(ParseError, match="a map with integer keys"):
            cbor.decode_map(other, required=frozenset())
    with pytest.raises(ParseError, match="critical, got -1"):
        cbor.decode_map(b"\xa1\x20\1", required=frozenset())


def test_registers_are_those_of_the_platform() -> None:
    for registers, words in (((bytes(47),) * 4, "of 48 bytes"), ((bytes(48),) * 3, "got 3")):
        with pytest.raises(ParseError, match=words):
            measurement_digest("tdx", registers)
    with pytest.raises(ParseError, match="got sgx"):
        measurement_digest("sgx", ())


def test_an_origin_is_printable_ascii_of_at_most_60_bytes() -> None:
    for good in ("!", "~", "o" * 60, "log.example/umay"):
        check_origin(good)
    for bad in ("", "o" * 61):
        with pytest.raises(ParseError, match=f"1 to 60 bytes, got {len(bad)}"):
            check_origin(bad)
    for bad in ("a+b", "a b", "\x7f", "\u00e9", "a\n"):
        with pytest.raises(ParseError, match="printable ASCII without plus"):
            check_origin(bad)
