"""Intel TDX: parse a quote, check who signed it, how the TD was started, its TCB, its log."""

from __future__ import annotations

from attestation.platforms.tdx.attributes import check_attributes
from attestation.platforms.tdx.chain import Pck, check_signature
from attestation.platforms.tdx.eventlog import (
    Event,
    EventLog,
    check_replay,
    cut_fill,
    parse_ccel,
    replay,
)
from attestation.platforms.tdx.published import check_answer, check_crl
from attestation.platforms.tdx.quote import TdQuote, parse_quote, quote_length
from attestation.platforms.tdx.tcb import TcbResult, check_status, check_tcb

__all__ = [
    "Event",
    "EventLog",
    "Pck",
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
    "parse_ccel",
    "parse_quote",
    "quote_length",
    "replay",
]
