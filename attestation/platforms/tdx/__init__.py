"""Intel TDX: parse a quote, check who signed it, how the TD was started, its TCB, its log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.lazy import lazy_names

if TYPE_CHECKING:
    from attestation.platforms.tdx.attributes import check_attributes
    from attestation.platforms.tdx.chain import PckIdentity, check_signature
    from attestation.platforms.tdx.eventlog import (
        Event,
        EventLog,
        check_replay,
        cut_fill,
        parse_ccel,
        replay,
    )
    from attestation.platforms.tdx.published import check_answer, check_crl
    from attestation.platforms.tdx.quote import TdQuote, cut_padding, parse_quote, quote_length
    from attestation.platforms.tdx.tcb import TcbResult, check_status, check_tcb

__all__ = [
    "Event",
    "EventLog",
    "PckIdentity",
    "TcbResult",
    "TdQuote",
    "check_answer",
    "check_attributes",
    "check_crl",
    "check_replay",
    "check_signature",
    "check_status",
    "check_tcb",
    "cut_fill",
    "cut_padding",
    "parse_ccel",
    "parse_quote",
    "quote_length",
    "replay",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Event": "attestation.platforms.tdx.eventlog",
        "EventLog": "attestation.platforms.tdx.eventlog",
        "PckIdentity": "attestation.platforms.tdx.chain",
        "TcbResult": "attestation.platforms.tdx.tcb",
        "TdQuote": "attestation.platforms.tdx.quote",
        "check_answer": "attestation.platforms.tdx.published",
        "check_attributes": "attestation.platforms.tdx.attributes",
        "check_crl": "attestation.platforms.tdx.published",
        "check_replay": "attestation.platforms.tdx.eventlog",
        "check_signature": "attestation.platforms.tdx.chain",
        "check_status": "attestation.platforms.tdx.tcb",
        "check_tcb": "attestation.platforms.tdx.tcb",
        "cut_fill": "attestation.platforms.tdx.eventlog",
        "cut_padding": "attestation.platforms.tdx.quote",
        "parse_ccel": "attestation.platforms.tdx.eventlog",
        "parse_quote": "attestation.platforms.tdx.quote",
        "quote_length": "attestation.platforms.tdx.quote",
        "replay": "attestation.platforms.tdx.eventlog",
    },
)
