"""A GPU's report, byte by byte: every malformation by name, and no byte that may change."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import ParseError, UmayError
from attestation.formats.evidence import GPU, Device
from attestation.nvidia import check as device_check
from attestation.nvidia import cut_padding, parse_report
from attestation.nvidia.report import MAX_REPORT_BYTES
from attestation.x509.profile import NVIDIA
from attestation.x509.walk import load_chain
from enclave.simulator.hopper import BOARD, DRIVER_VERSION, MEASUREMENTS, OPAQUE, VBIOS_VERSION
from tests.helpers.nvidia_machine import NONCE, checked, device, opaque, unsigned_report

GOOD = device().report
BLOCK, BLOCKS_AT, COUNT_AT, LENGTH_AT = 55, 45, 41, 42
OPAQUE_AT = BLOCKS_AT + 64 * BLOCK + 32
FIELDS = b"".join(struct.pack("<HH", kind, len(raw)) + raw for kind, raw in OPAQUE.items())


def patched(at: int, new: bytes, data: bytes = GOOD) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_opaque(fields: bytes) -> bytes:
    return GOOD[:OPAQUE_AT] + len(fields).to_bytes(2, "little") + fields + bytes(96)


def with_blocks(count: int, blocks: bytes) -> bytes:
    head = GOOD[:COUNT_AT] + bytes([count]) + len(blocks).to_bytes(3, "little")
    return head + blocks + GOOD[OPAQUE_AT - 32 :]


def block(index: int) -> bytes:
    return GOOD[BLOCKS_AT + (index - 1) * BLOCK :][:BLOCK]


RECORD = GOOD[BLOCKS_AT : BLOCKS_AT + 64 * BLOCK]
BAD = {
    "empty": b"",
    "truncated-by-one-byte": GOOD[:-1],
    "truncated-in-the-request": GOOD[:20],
    "truncated-in-a-block": GOOD[: BLOCKS_AT + 100],
    "request-alone": GOOD[:37],
    "trailing-byte": GOOD + b"\0",
    "two-reports": GOOD + GOOD,
    "larger-than-any-report": GOOD + bytes(MAX_REPORT_BYTES),
    "another-request-code": patched(1, b"\x83"),
    "request-for-one-measurement": patched(3, b"\x01"),
    "request-without-signature": patched(2, b"\x00"),
    "request-of-spdm-1.2": patched(0, b"\x12"),
    "response-of-spdm-1.0": patched(37, b"\x10"),
    "error-response": patched(38, b"\x7f"),
    "63-blocks": with_blocks(63, RECORD[: 63 * BLOCK]),
    "65-blocks": with_blocks(65, RECORD + patched(0, b"\x41", block(64))),
    "no-block": with_blocks(0, b""),
    "63-blocks-called-64": with_blocks(64, RECORD[: 63 * BLOCK]),
    "record-longer-than-its-blocks": with_blocks(64, RECORD + b"\0"),
    "blocks-out-of-order": with_blocks(64, block(2) + block(1) + RECORD[2 * BLOCK :]),
    "block-twice": with_blocks(64, block(1) + block(1) + RECORD[2 * BLOCK :]),
    "block-from-zero": patched(BLOCKS_AT, b"\0"),
    "block-of-another-specification": patched(BLOCKS_AT + 1, b"\x02"),
    "block-of-another-size": patched(BLOCKS_AT + 2, b"\x32"),
    "digest-of-32-bytes": patched(BLOCKS_AT + 5, b"\x20"),
    "raw-measurement": patched(BLOCKS_AT + 4, b"\x81"),
    "opaque-longer-than-the-report": patched(OPAQUE_AT, b"\xff\xff"),
    "opaque-field-twice": with_opaque(FIELDS + struct.pack("<HH", 3, 1) + b"5"),
    "opaque-field-beyond-its-data": with_opaque(FIELDS + struct.pack("<HH", 99, 2) + b"5"),
    "opaque-field-without-size": with_opaque(FIELDS + b"\x63\0\1"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_report_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_report(BAD[name])


@pytest.mark.parametrize("size", [0, 1, 99, 8192 - len(GOOD)])
def test_zeros_behind_a_report_are_the_drivers_padding(size: int) -> None:
    assert cut_padding(GOOD + bytes(size)) == GOOD
    if size:
        with pytest.raises(ParseError):
            parse_report(GOOD + bytes(size))


@pytest.mark.parametrize("rest", [b"\n", bytes(98) + b"\1", b"\xff" * 4])
def test_other_bytes_behind_a_report_are_refused(rest: bytes) -> None:
    with pytest.raises(ParseError, match="expected zero padding"):
        cut_padding(GOOD + rest)


@pytest.mark.parametrize("buffer", [b"", bytes(8192), GOOD[:-1]], ids=len)
def test_a_buffer_must_begin_with_a_report(buffer: bytes) -> None:
    with pytest.raises(ParseError, match="NVIDIA device report"):
        cut_padding(buffer)


def test_report_says_what_the_gpu_said() -> None:
    report = parse_report(GOOD)
    assert (report.nonce, report.measurements) == (NONCE, MEASUREMENTS)
    assert (report.driver_version, report.vbios_version) == (DRIVER_VERSION, VBIOS_VERSION)
    assert report.board == "_".join(BOARD)
    assert not report.nvdec0_disabled
    assert report.signed_region + report.signature == GOOD
    assert dict(report.opaque) == dict(OPAQUE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vbios_version", {"f6": bytes(7)}),
        ("vbios_version", {"f6": bytes(9)}),
        ("vbios_version", {"f6": bytes.fromhex("009f009601000100")}),
        ("vbios_version", {"f6": None}),
        ("driver_version", {"f3": b"550\x0090.07\0"}),
        ("driver_version", {"f3": b"550.90.07 \0"}),
        ("driver_version", {"f3": b"../550\0"}),
        ("driver_version", {"f3": b"\xff\xfe"}),
        ("driver_version", {"f3": b"\0\0"}),
        ("driver_version", {"f3": b"5" * 33}),
        ("driver_version", {"f3": None}),
        ("board", {"f17": b"10/10\0"}),
        ("board", {"f18": b"02_00\0"}),
        ("board", {"f15": b""}),
    ],
)
def test_version_text_is_read_strictly(field: str, value: dict) -> None:
    report = parse_report(unsigned_report(opaque=opaque(**value)) + bytes(96))
    with pytest.raises(ParseError):
        getattr(report, field)


def test_report_of_a_switch_parses_with_31_blocks() -> None:
    switch = unsigned_report(measurements=MEASUREMENTS[:31]) + bytes(96)
    assert len(parse_report(switch).measurements) == 31


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for given_bytes in (data, GOOD[:37] + data, GOOD[:OPAQUE_AT] + data):
        try:
            parse_report(given_bytes)
        except UmayError:
            pass


@given(st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=64)), max_size=12))
def test_opaque_fields_survive_the_round_trip(fields: list) -> None:
    chosen = dict(fields)
    data = unsigned_report(opaque=chosen) + bytes(96)
    report = parse_report(data)
    assert dict(report.opaque) == chosen
    assert unsigned_report(opaque=report.opaque) + report.signature == data


def test_no_byte_of_a_report_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes. The chain is the same each time and checked once, above the loop."""
    good = device()
    checked(good)
    loaded = load_chain(good.chain, NVIDIA)
    monkeypatch.setattr(device_check, "load_chain", lambda *_, **__: loaded)
    monkeypatch.setattr(device_check, "check_chain", lambda *_, **__: None)
    passed = []
    for at in range(len(GOOD)):
        changed = Device(GPU, patched(at, bytes([GOOD[at] ^ (1 << at % 8)])), good.chain)
        try:
            checked(changed)
        except UmayError:
            continue
        passed.append(at)
    assert passed == []


@pytest.mark.parametrize("at", [4, 36, 39, 60, 3600, len(GOOD) - 96, len(GOOD) - 1])
def test_changed_report_fails_the_whole_check(at: int) -> None:
    with pytest.raises(UmayError):
        checked(Device(GPU, patched(at, bytes([GOOD[at] ^ 1])), device().chain))


@pytest.mark.parametrize(("size", "long"), [(16_384, False), (16_385, True)])
def test_a_report_has_at_most_16_kib(size: int, long: bool) -> None:
    with pytest.raises(ParseError) as caught:
        parse_report(bytes(size))
    assert ("expected at most 16384 bytes" in str(caught.value)) == long


@pytest.mark.parametrize(("length", "good"), [(0, False), (1, True), (32, True), (33, False)])
def test_a_text_has_1_to_32_characters(length: int, good: bool) -> None:
    report = parse_report(device(opaque=opaque(f3=b"5" * length)).report)
    if good:
        assert report.driver_version == "5" * length
    else:
        with pytest.raises(ParseError, match="expected a version or a name"):
            _ = report.driver_version


@pytest.mark.parametrize("raw", [bytes(7), bytes(9), b"", None])
def test_a_vbios_version_has_8_bytes(raw: bytes | None) -> None:
    with pytest.raises(ParseError, match="VBIOS version of 8 bytes"):
        _ = parse_report(device(opaque=opaque(f6=raw)).report).vbios_version
