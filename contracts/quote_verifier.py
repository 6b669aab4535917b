"""Messages and storage of QuoteVerifier, mirroring the structs of its Tolk source.

A quote and its certificates are cut into the parts that the contract reads. This module only
checks that they can be cut; the contract judges them. Layouts: docs/spec/quote-verifier.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pytoniq_core import Address, Cell, HashMap, Slice, begin_cell

from attestation.errors import ParseError
from attestation.platforms.tdx import TdQuote, parse_quote
from attestation.trust.roots import Roots
from attestation.x509.profile import INTEL
from attestation.x509.walk import check_root, load_chain
from contracts.chain import raw_address
from contracts.p256 import hinted

STORAGE_VERSION = 1
CELL_BYTES = 127
OP_FULL, OP_UNDER_CA, OP_CACHED = 0x554D5101, 0x554D5102, 0x554D5103
OP_SET_FLOOR, OP_BLOCK, OP_VERIFIED = 0x554D5111, 0x554D5112, 0x554D5120
FMSPC_MARK = bytes.fromhex("3014060a2a864886f84d010d01040406")
BODY_CUTS = (112, 120, 96, 96, 96, 112)
QE_CUTS = (96, 124, 100, 64)
MAX_AUTH_BYTES = CELL_BYTES - 64


class Exit(IntEnum):
    """TVM exit codes with which the contract ends the handling of a message."""

    OK = 0
    CELL_UNDERFLOW = 9
    UNDERFUNDED = 130
    VERSION = 138
    FORM = 150
    SIGNATURE = 151
    RANGE = 152
    HINT = 153
    NAME = 154
    DATES = 155
    NO_FMSPC = 156
    UNKNOWN_KEY = 157
    BLOCKED = 158
    QUOTE_VERSION = 159
    QE = 160
    QE_BINDING = 161
    MODULE = 162
    ATTRIBUTES = 163
    LAUNCH = 164
    NO_FLOOR = 165
    TCB = 166
    FULL = 167
    SENDER = 168
    UNKNOWN_OP = 0xFFFF


@dataclass(frozen=True)
class Floor:
    """The minimum TCB level of a platform family (FMSPC): tee_tcb_svn is 16 security version
    numbers, one byte each; qe_isv_svn is the minimum ISVSVN of the quoting enclave."""

    tee_tcb_svn: bytes
    qe_isv_svn: int


def genesis(*, root_key: bytes, registry: str) -> Cell:
    """The storage of a new contract. `root_key` is Intel's root key, x ‖ y (64 bytes); the
    contract pins x. `registry` is an address in any spelling."""
    body = begin_cell().store_uint(STORAGE_VERSION, 8).store_bytes(root_key[:32])
    body.store_address(Address(raw_address(registry))).store_uint(0, 16 + 32 + 16 + 16 + 8)
    return body.store_bits("0000").end_cell()


def verify_full(quote: bytes, *, query_id: int = 0) -> Cell:
    """The message with the CA certificate, the PCK certificate and the quote.

    Raises ParseError for what the contract does not accept: a quote version other than 4, long
    QE authentication data, or certificates of another shape.
    """
    parsed, (pck, ca, root) = _parsed(quote)
    body = begin_cell().store_uint(OP_FULL, 32).store_uint(query_id, 64)
    body.store_ref(certificate(ca, key_of(root))).store_ref(certificate(pck, key_of(ca)))
    return body.store_ref(_quote(parsed, key_of(pck))).end_cell()


def verify_under_ca(quote: bytes, *, query_id: int = 0) -> Cell:
    """The message with the PCK certificate and the quote, under a CA that the contract knows."""
    parsed, (pck, ca, _) = _parsed(quote)
    body = begin_cell().store_uint(OP_UNDER_CA, 32).store_uint(query_id, 64)
    body.store_bytes(key_of(ca)[:32]).store_ref(certificate(pck, key_of(ca)))
    return body.store_ref(_quote(parsed, key_of(pck))).end_cell()


def verify_cached(quote: bytes, *, query_id: int = 0) -> Cell:
    """The message with a quote of a machine whose PCK certificate the contract knows."""
    parsed, (pck, _, _) = _parsed(quote)
    body = begin_cell().store_uint(OP_CACHED, 32).store_uint(query_id, 64)
    return body.store_bytes(key_of(pck)[:32]).store_ref(_quote(parsed, key_of(pck))).end_cell()


def set_floor(fmspc: bytes, floor: Floor, *, query_id: int = 0) -> Cell:
    body = begin_cell().store_uint(OP_SET_FLOOR, 32).store_uint(query_id, 64).store_bytes(fmspc)
    return body.store_bytes(floor.tee_tcb_svn).store_uint(floor.qe_isv_svn, 16).end_cell()


def block(key: bytes, *, query_id: int = 0) -> Cell:
    """`key` is the x-coordinate (32 bytes) of a CA's or a machine's key."""
    return (
        begin_cell().store_uint(OP_BLOCK, 32).store_uint(query_id, 64).store_bytes(key).end_cell()
    )


def key_of(certificate: x509.Certificate) -> bytes:
    """The P-256 public key of a certificate, x ‖ y (64 bytes)."""
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point[1:]


def root_key_of(quote: bytes) -> bytes:
    """The key, x ‖ y (64 bytes), of the root certificate inside a quote. It is unchecked: check it
    before you pass it to genesis."""
    return key_of(x509.load_der_x509_certificate(parse_quote(quote).pck_chain[-1]))


def pinned_root_key(der: bytes, roots: Roots) -> bytes:
    """The key, x ‖ y (64 bytes), of a root certificate. Raises NotAuthentic unless the key is
    pinned in `roots`."""
    (root,) = load_chain((der,), INTEL)
    check_root(root, INTEL, pinned=roots.intel)
    return key_of(root)


def certificate(given: x509.Certificate, issuer_key: bytes) -> Cell:
    """A certificate cut for the contract, with hints for its signature by `issuer_key` (64
    bytes)."""
    tbs = given.tbs_certificate_bytes
    r, s = decode_dss_signature(given.signature)
    raw = r.to_bytes(32) + s.to_bytes(32)
    signed = signature(hashlib.sha256(tbs).digest(), raw, issuer_key)
    return begin_cell().store_ref(chain_of(cut_certificate(given))).store_ref(signed).end_cell()


def cut_certificate(given: x509.Certificate) -> list[bytes]:
    """The parts: head, issuer, validity, subject, key, then the extensions. If the certificate has
    an FMSPC, one part begins with it."""
    tbs, issuer, subject = (
        given.tbs_certificate_bytes,
        given.issuer.public_bytes(),
        given.subject.public_bytes(),
    )
    start = tbs.find(issuer)
    ends = [start, start + len(issuer), start + len(issuer) + 32]
    ends += [ends[-1] + len(subject), ends[-1] + len(subject) + 91]
    parts = [tbs[a:b] for a, b in zip((0, *ends), ends, strict=False)]
    rest = tbs[ends[-1] :]
    mark = rest.find(FMSPC_MARK)
    pieces = (rest[:mark], rest[mark:]) if mark >= 0 else (rest,)
    parts += [
        piece[at : at + CELL_BYTES] for piece in pieces for at in range(0, len(piece), CELL_BYTES)
    ]
    if parts[3] != subject or any(len(part) > CELL_BYTES for part in parts):
        raise ParseError(
            "certificate: expected the field order of Intel's PCK certificates and parts of at "
            "most "
            f"{CELL_BYTES} bytes, got parts of {[len(part) for part in parts]} bytes"
        )
    return parts


def chain_of(parts: list[bytes]) -> Cell:
    """A chain of cells: each holds one part and refers to the next."""
    cell = begin_cell().store_bytes(parts[-1]).end_cell()
    for part in reversed(parts[:-1]):
        cell = begin_cell().store_bytes(part).store_ref(cell).end_cell()
    return cell


def signature(digest: bytes, raw: bytes, key: bytes) -> Cell:
    """A signature (r ‖ s, 64 bytes) over a digest by a key (x ‖ y), with its hints."""
    found = hinted(digest, raw, key)
    hint = begin_cell().store_uint(found.s1, 256).store_uint(found.s2, 256)
    body = begin_cell().store_uint(found.r, 256).store_uint(found.s, 256)
    return body.store_ref(hint.store_bytes(found.point).end_cell()).end_cell()


def _quote(parsed: TdQuote, pck_key: bytes) -> Cell:
    if len(parsed.qe_auth_data) > MAX_AUTH_BYTES:
        raise ParseError(
            f"quote: QE authentication data: expected at most {MAX_AUTH_BYTES} bytes for the "
            f"contract, got {len(parsed.qe_auth_data)}"
        )
    region = parsed.signed_region
    signed = signature(hashlib.sha256(region).digest(), parsed.signature, parsed.attestation_key)
    digest = hashlib.sha256(parsed.qe_report).digest()
    qe = begin_cell().store_ref(chain_of(_cut(parsed.qe_report, QE_CUTS)))
    qe.store_ref(signature(digest, parsed.qe_report_signature, pck_key))
    key = begin_cell().store_bytes(parsed.attestation_key + parsed.qe_auth_data)
    body = begin_cell().store_ref(chain_of(_cut(region, BODY_CUTS))).store_ref(signed)
    return body.store_ref(key.end_cell()).store_ref(qe.end_cell()).end_cell()


def _cut(data: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return parts


def _parsed(quote: bytes) -> tuple[TdQuote, tuple[x509.Certificate, ...]]:
    parsed = parse_quote(quote)
    if parsed.version != 4:
        raise ParseError(f"quote: expected version 4 for the contract, got {parsed.version}")
    return parsed, tuple(x509.load_der_x509_certificate(der) for der in parsed.pck_chain)


@dataclass(frozen=True)
class RecordedQuote:
    """The contract's record of a machine's last verified quote. `time` is Unix seconds; `blocked`
    is true if the Registry has since blocked the PCK key or the CA above it."""

    time: int
    tee_tcb_svn: bytes
    measurement: bytes
    rtmrs: bytes
    mr_td: bytes
    report_data: bytes
    blocked: bool

    @classmethod
    def from_cell(cls, cell: Cell, *, blocked: bool, blocked_authorities: int) -> RecordedQuote:
        body = cell.begin_parse()
        body.load_bits(48 + 64 + 64)
        time, svn = body.load_uint(64), body.load_bytes(16)
        measurement, rtmrs = body.load_bytes(32), body.load_bytes(32)
        blocked = blocked or bool(blocked_authorities >> body.load_uint(8) & 1)
        quoted = body.load_ref().begin_parse()
        digests = quoted.load_bytes(48), quoted.load_bytes(64)
        return cls(time, svn, measurement, rtmrs, *digests, blocked)


def read_machine(data: Cell, pck: bytes) -> RecordedQuote | None:
    """The record of the machine whose PCK key has this x-coordinate (32 bytes), or None."""
    body = data.begin_parse()
    body.load_bits(8 + 256 + 267 + 16 + 32 + 16 + 16)
    authorities = body.load_uint(8)
    body.load_maybe_ref()
    machines, blocked = (_entries(body.load_maybe_ref()) for _ in range(2))
    key = int.from_bytes(pck)
    if key not in machines:
        return None
    cell = machines[key].load_ref()
    return RecordedQuote.from_cell(cell, blocked=key in blocked, blocked_authorities=authorities)


def _entries(root: Cell | None) -> dict[int, Slice]:
    return HashMap.parse(root.begin_parse(), 256) if root else {}
