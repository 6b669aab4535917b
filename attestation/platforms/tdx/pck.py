"""The SGX extension of a PCK certificate (OID 1.2.840.113741.1.13.1), as strict DER.

Which processor signed: PPID names the package, FMSPC its family and thus its TCB info.
Only definite, minimal lengths are read, and every byte must belong to a field.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import ParseError

OID = "1.2.840.113741.1.13.1"
MAX_BYTES = 4096
MAX_FIELDS = 32

_ARC = bytes.fromhex("2a864886f84d010d01")
_LONG = {0x81: (0x80, 3), 0x82: (0x100, 4)}
"""By the first byte of a long length: the least that needs it, and where the content begins."""
_SEQUENCE, _OCTETS, _OID, _ENUMERATED = 0x30, 0x04, 0x06, 0x0A
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_SIZES = {_PPID: 16, _PCE_ID: 2, _FMSPC: 6, _INSTANCE: 16}
_TAGS = {_TCB: _SEQUENCE, _SGX_TYPE: _ENUMERATED, _CONFIGURATION: _SEQUENCE}


@dataclass(frozen=True)
class PckExtension:
    """PPID (16 bytes), PCE-ID (2), FMSPC (6), platform instance id (16, or empty)."""

    ppid: bytes
    pce_id: bytes
    fmspc: bytes
    platform_instance_id: bytes


def parse_extension(data: bytes) -> PckExtension:
    """The extension's fields. Raises ParseError for anything but strict DER."""
    if len(data) > MAX_BYTES:
        raise ParseError(f"SGX extension: expected at most {MAX_BYTES} bytes, got {len(data)}")
    tag, content, rest = read_tlv(data)
    if tag != _SEQUENCE or rest:
        raise ParseError(
            "SGX extension: expected one SEQUENCE and nothing after it, got other bytes"
        )
    fields: dict[int, bytes] = {}
    while content:
        number, value, content = _field(content)
        if number in fields or len(fields) == MAX_FIELDS:
            raise ParseError(
                f"SGX extension: expected each field once and at most {MAX_FIELDS}, got "
                f"field {number} again"
            )
        fields[number] = value
    missing = {_PPID, _TCB, _PCE_ID, _FMSPC} - fields.keys()
    if missing:
        raise ParseError(f"SGX extension: expected field {min(missing)}, got none")
    return PckExtension(fields[_PPID], fields[_PCE_ID], fields[_FMSPC], fields.get(_INSTANCE, b""))


def _field(data: bytes) -> tuple[int, bytes, bytes]:
    tag, pair, rest = read_tlv(data)
    if tag != _SEQUENCE:
        raise ParseError(f"SGX extension: expected a SEQUENCE, got tag {tag:#x}")
    oid_tag, oid, value = read_tlv(pair)
    if oid_tag != _OID or oid[:-1] != _ARC:
        raise ParseError(
            "SGX extension: expected a field's OID below 1.2.840.113741.1.13.1, got another"
        )
    value_tag, content, after = read_tlv(value)
    number = oid[-1]
    if after or value_tag != _TAGS.get(number, _OCTETS):
        raise ParseError(
            f"SGX extension: field {number}: expected its own DER type, got tag {value_tag:#x}"
        )
    if number in _SIZES and len(content) != _SIZES[number]:
        raise ParseError(
            f"SGX extension: field {number}: expected {_SIZES[number]} bytes, got {len(content)}"
        )
    return number, content, rest


def read_tlv(data: bytes) -> tuple[int, bytes, bytes]:
    """(tag, content, rest) of the DER element at the start of `data`.

    One-byte tags and lengths below 64 KiB only. Raises ParseError.
    """
    if len(data) < 2:
        raise ParseError(f"DER: expected a tag and a length, got {len(data)} byte(s)")
    tag, size, start = data[0], data[1], 2
    if tag & 0x1F == 0x1F or (size >= 0x80 and size not in _LONG):
        raise ParseError(
            "DER: expected a one-byte tag and a length of at most two bytes, got longer ones"
        )
    if size in _LONG:
        shortest, start = _LONG[size]
        size = int.from_bytes(data[2:start], "big")
        if size < shortest:
            raise ParseError("DER: expected the shortest form of a length, got a longer one")
    end = start + size
    if len(data) < end:
        raise ParseError(f"DER: expected {size} bytes of content, got {len(data) - start}")
    return tag, data[start:end], data[end:]
