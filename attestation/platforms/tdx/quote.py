"""Intel TDX quotes, versions 4 and 5 with ECDSA-P256 signature data, byte for byte.

Parsing proves nothing: it only says that the bytes are exactly one quote, with no byte
over. What `parse_quote` accepts, `TdQuote.to_bytes` gives back unchanged. All integers
are little-endian (Intel TDX DCAP Quoting Library API, appendix "Quote format").
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from attestation.errors import ParseError
from attestation.formats.buffers import cut_zeros

MAX_QUOTE_BYTES = 16 * 1024
"""A v4 quote with its PCK chain is about 5 kB; the kernel's own limit is 32 KiB."""

VERSION_4, VERSION_5 = 4, 5
BODY_TD10, BODY_TD15, BODY_TD15EX = 2, 3, 4
KEY_TYPE_ECDSA_P256 = 2
TEE_TDX = 0x81
CERTIFICATION_QE_REPORT = 6
CERTIFICATION_PCK_CHAIN = 5

HEADER = struct.Struct("<HHI4s16s20s")
BODY_FIELDS = {
    "tee_tcb_svn": 16,
    "mr_seam": 48,
    "mrsigner_seam": 48,
    "seam_attributes": 8,
    "td_attributes": 8,
    "xfam": 8,
    "mr_td": 48,
    "mr_config_id": 48,
    "mr_owner": 48,
    "mr_owner_config": 48,
    "rt_mr0": 48,
    "rt_mr1": 48,
    "rt_mr2": 48,
    "rt_mr3": 48,
    "report_data": 64,
}
"""Body fields in order, with their length in bytes (584 in all)."""

TD15_FIELDS = {"tee_tcb_svn2": 16, "mr_servicetd": 48}
"""What a version 5 quote of a TDX 1.5 module adds after them."""

TD15EX_FIELDS = {
    "vm_id": 1,
    "td_id": 32,
    "dev_info": 48,
    "init_servtd_hash": 48,
    "init_servtd_attr": 8,
    "init_cpu_svn": 16,
    "init_tee_tcb_svn": 16,
    "init_fmspc": 12,
    "curr_servtd_hash": 48,
    "curr_servtd_attr": 8,
}
"""What the extended body of 885 bytes adds after those."""

ADDED_FIELDS = {**TD15_FIELDS, **TD15EX_FIELDS}
BODY_BYTES = sum(BODY_FIELDS.values())
BODIES = {
    BODY_TD10: BODY_FIELDS,
    BODY_TD15: {**BODY_FIELDS, **TD15_FIELDS},
    BODY_TD15EX: {**BODY_FIELDS, **ADDED_FIELDS},
}
"""Of version 5, by the body type in its descriptor."""

V5_DESCRIPTOR = struct.Struct("<HI")
SIGNATURE_BYTES = 64
KEY_BYTES = 64
QE_REPORT_BYTES = 384
CHAIN_LENGTH = 3

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_PEM_END = b"-----END CERTIFICATE-----\n"
_PEM_LINE = 64


@dataclass(frozen=True)
class TdQuote:
    """A parsed quote. Header and body fields carry Intel's names; all values as bytes.

    `signed_region` is what the attestation key signed and what a statement is made of;
    `pck_pem` is the chain exactly as it stood in the quote. The fields of TDX 1.5 and of its
    extended body are empty where the quote has a smaller one.
    """

    header_reserved: bytes
    qe_vendor_id: bytes
    user_data: bytes
    tee_tcb_svn: bytes
    mr_seam: bytes
    mrsigner_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    report_data: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_pem: bytes
    version: int = VERSION_4
    tee_tcb_svn2: bytes = b""
    mr_servicetd: bytes = b""
    vm_id: bytes = b""
    td_id: bytes = b""
    dev_info: bytes = b""
    init_servtd_hash: bytes = b""
    init_servtd_attr: bytes = b""
    init_cpu_svn: bytes = b""
    init_tee_tcb_svn: bytes = b""
    init_fmspc: bytes = b""
    curr_servtd_hash: bytes = b""
    curr_servtd_attr: bytes = b""

    @property
    def body_type(self) -> int:
        if self.td_id:
            return BODY_TD15EX
        return BODY_TD15 if self.tee_tcb_svn2 else BODY_TD10

    @property
    def signed_region(self) -> bytes:
        """Header and body: 632 bytes of version 4; 638, 702 or 939 of version 5."""
        header = (self.version, KEY_TYPE_ECDSA_P256, TEE_TDX, self.header_reserved)
        body = b"".join(getattr(self, name) for name in (*BODY_FIELDS, *ADDED_FIELDS))
        descriptor = V5_DESCRIPTOR.pack(self.body_type, len(body))
        descriptor = descriptor if self.version == VERSION_5 else b""
        return HEADER.pack(*header, self.qe_vendor_id, self.user_data) + descriptor + body

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        return self.rt_mr0, self.rt_mr1, self.rt_mr2, self.rt_mr3

    @property
    def registers(self) -> tuple[bytes, bytes, bytes, bytes]:
        """MRTD, RTMR0, RTMR1, RTMR2: what a release's measurement names."""
        return self.mr_td, self.rt_mr0, self.rt_mr1, self.rt_mr2

    @property
    def identity(self) -> tuple[bytes, ...]:
        """Every body field but REPORT_DATA: equal for two quotes of one running TD."""
        names = (*BODY_FIELDS, *ADDED_FIELDS)
        return tuple(getattr(self, name) for name in names if name != "report_data")

    @cached_property
    def pck_chain(self) -> tuple[bytes, ...]:
        """The PCK certificates as DER, leaf first, root last. Not yet parsed as X.509."""
        return parse_pem_chain(self.pck_pem)

    def to_bytes(self) -> bytes:
        """The quote; `parse_quote` of it gives an equal value."""
        qe = (
            self.qe_report
            + self.qe_report_signature
            + struct.pack("<H", len(self.qe_auth_data))
            + self.qe_auth_data
            + struct.pack("<HI", CERTIFICATION_PCK_CHAIN, len(self.pck_pem))
            + self.pck_pem
        )
        certification = struct.pack("<HI", CERTIFICATION_QE_REPORT, len(qe)) + qe
        data = self.signature + self.attestation_key + certification
        return self.signed_region + struct.pack("<I", len(data)) + data


def parse_quote(data: bytes) -> TdQuote:
    """The one TDX quote that `data` is.

    Raises ParseError where the bytes are longer, shorter or other than that.
    """
    if len(data) > MAX_QUOTE_BYTES:
        raise ParseError(f"TDX quote: expected at most {MAX_QUOTE_BYTES} bytes, got {len(data)}")
    cursor = Cursor(data, "TDX quote")
    version, key_type, tee, reserved, vendor, user_data = HEADER.unpack(cursor.take(HEADER.size))
    if version not in (VERSION_4, VERSION_5):
        raise ParseError(f"TDX quote: expected version 4 or 5, got {version}")
    _expect("attestation key type", KEY_TYPE_ECDSA_P256, key_type)
    _expect("TEE type", TEE_TDX, tee)
    body = _body(cursor, version)
    signature_data = Cursor(cursor.take(cursor.u32()), "TDX quote signature data")
    cursor.end()
    fields = body | _signature_data(signature_data)
    quote = TdQuote(reserved, vendor, user_data, version=version, **fields)
    _ = quote.pck_chain  # what is malformed must fail now
    return quote


def cut_padding(buffer: bytes) -> bytes:
    """The quote at the start of a host's buffer, whose rest must be zero.

    For whoever takes a quote: evidence carries the quote alone. Real hosts hand over 70,
    307 or 3,065 zero bytes after it. Raises ParseError, also for bytes that are not a quote.
    """
    quote = cut_zeros(buffer, quote_length(buffer), "TDX quote")
    parse_quote(quote)
    return quote


def quote_length(data: bytes) -> int:
    """How many bytes of `data` are the quote by its own lengths; nothing else is looked at.

    Raises ParseError where `data` ends before its lengths do.
    """
    cursor = Cursor(data, "TDX quote")
    version = HEADER.unpack(cursor.take(HEADER.size))[0]
    _body(cursor, version)
    cursor.take(cursor.u32())
    return len(data) - cursor.left


def _body(cursor: Cursor, version: int) -> dict[str, bytes]:
    layout: Mapping[str, int] = BODY_FIELDS
    if version == VERSION_5:
        kind, size = V5_DESCRIPTOR.unpack(cursor.take(V5_DESCRIPTOR.size))
        layout = BODIES.get(kind, {})
        if not layout or size != sum(layout.values()):
            text = f"expected a TD 1.0, 1.5 or extended body, got type {kind} of {size} bytes"
            raise ParseError(f"TDX quote: {text}")
    return {name: cursor.take(size) for name, size in layout.items()}


def _signature_data(cursor: Cursor) -> dict[str, bytes]:
    signature, key = cursor.take(SIGNATURE_BYTES), cursor.take(KEY_BYTES)
    _expect("certification data type", CERTIFICATION_QE_REPORT, cursor.u16())
    qe = Cursor(cursor.take(cursor.u32()), "TDX quote QE report data")
    cursor.end()
    fields = {
        "signature": signature,
        "attestation_key": key,
        "qe_report": qe.take(QE_REPORT_BYTES),
        "qe_report_signature": qe.take(SIGNATURE_BYTES),
        "qe_auth_data": qe.take(qe.u16()),
    }
    _expect("inner certification data type", CERTIFICATION_PCK_CHAIN, qe.u16())
    fields["pck_pem"] = qe.take(qe.u32())
    qe.end()
    return fields


def parse_pem_chain(pem: bytes) -> tuple[bytes, ...]:
    """Three certificates as DER from PEM as Intel writes it: 64-column base64 lines, "\\n"
    between, at most one NUL at the end. Raises ParseError for any other spelling."""
    text = pem.removesuffix(b"\0")
    chain = []
    while text:
        if not text.startswith(_PEM_BEGIN) or (end := text.find(_PEM_END)) < 0:
            raise ParseError(
                "PCK chain: expected PEM certificates and nothing else, got other text"
            )
        chain.append(_pem_body(text[len(_PEM_BEGIN) : end]))
        text = text[end + len(_PEM_END) :]
    if len(chain) != CHAIN_LENGTH:
        raise ParseError(f"PCK chain: expected {CHAIN_LENGTH} certificates, got {len(chain)}")
    return tuple(chain)


def write_pem(der: bytes) -> bytes:
    """One certificate in the only PEM spelling that `parse_pem_chain` accepts."""
    text = base64.b64encode(der)
    lines = [text[i : i + _PEM_LINE] + b"\n" for i in range(0, len(text), _PEM_LINE)]
    return _PEM_BEGIN + b"".join(lines) + _PEM_END


def _pem_body(body: bytes) -> bytes:
    text = body.replace(b"\n", b"")
    try:
        der = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ParseError(
            "PCK chain: expected base64 between the PEM lines, got other text"
        ) from None
    if base64.b64encode(der) != text or not _in_lines(body, len(text)):
        raise ParseError("PCK chain: expected base64 in lines of 64 characters, got another layout")
    return der


def _in_lines(body: bytes, size: int) -> bool:
    """Whether `size` characters stand in whole lines and a last one, each with its end and no
    other end anywhere: what `write_pem` writes, without writing it."""
    lines = -(-size // _PEM_LINE)
    ends = body[_PEM_LINE :: _PEM_LINE + 1] + body[-1:]
    return len(body) == size + lines and ends == b"\n" * len(ends)


def _expect(what: str, expected: int, got: int) -> None:
    if got != expected:
        raise ParseError(f"TDX quote: expected {what} {expected}, got {got}")


class Cursor:
    """Reads little-endian fields off `data`; `end` demands that nothing is left."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if self.left < size:
            raise ParseError(f"{self._what}: expected {size} more bytes, got {self.left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def peek(self, size: int) -> bytes:
        return self._data[self._at : self._at + size]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def end(self) -> None:
        if self.left:
            raise ParseError(f"{self._what}: expected the end, got {self.left} more bytes")
