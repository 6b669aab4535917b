"""Inspection of a TDREPORT: what a TD's module says to its own machine, before it is quoted.

REPORTMACSTRUCT, TEE_TCB_INFO and TDINFO (Intel TDX Module ABI, TDREPORT_STRUCT), 1024 bytes. Its
MAC can be checked on that machine alone.
"""

from __future__ import annotations

import hashlib
import hmac

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.platforms.azure import TDREPORT_BYTES
from attestation.platforms.tdx.quote import TEE_TDX
from client_sdk.inspection.cpu import TDX_WORDS
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult

_TEE_INFO_HASH = slice(80, 128)
_TD_INFO = slice(512, TDREPORT_BYTES)
_FIELDS = {
    "report_data": (128, 64),
    "td_attributes": (512, 8),
    "xfam": (520, 8),
    "mr_td": (528, 48),
    "mr_config_id": (576, 48),
    "mr_owner": (624, 48),
    "mr_owner_config": (672, 48),
    "rt_mr0": (720, 48),
    "rt_mr1": (768, 48),
    "rt_mr2": (816, 48),
    "rt_mr3": (864, 48),
}


def begins_like_one(data: bytes) -> bool:
    """Report type TDX, subtype 0, version 0 or 1 (REPORTTYPE)."""
    return data[:2] == bytes([TEE_TDX, 0]) and data[2:4] in (b"\0\0", b"\1\0")


def tdreport(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """Its fields, and whether its own digest names them. Raises ParseError."""
    report, rest = data[:TDREPORT_BYTES], data[TDREPORT_BYTES:]
    if not begins_like_one(report) or len(report) != TDREPORT_BYTES:
        raise ParseError(
            f"TDREPORT: expected {TDREPORT_BYTES} bytes that begin with the type of TDX, got "
            f"{len(data)} bytes that begin with {data[:4].hex() or 'nothing'}"
        )
    found = InspectionResult(file, "TDREPORT")
    for name, (at, size) in _FIELDS.items():
        found.fields.append(ExplainedField(name, report[at : at + size].hex(), TDX_WORDS[name]))
    found.after("TDREPORT", rest)
    found.check("digest", lambda: _named(report))
    found.check("cpu-signature", _needs_a_quote)
    return found


def _named(report: bytes) -> str:
    digest = hashlib.sha384(report[_TD_INFO]).digest()
    if not hmac.compare_digest(digest, report[_TEE_INFO_HASH]):
        raise NotAuthentic(
            "parse",
            "td-info",
            "TDREPORT: expected TEE_INFO_HASH to be the digest of TDINFO, got another",
        )
    return "TEE_INFO_HASH names these fields"


def _needs_a_quote() -> str:
    raise NotChecked(
        "needs the TD quote, because no public key signs a TDREPORT; name its file in the same call"
    )
