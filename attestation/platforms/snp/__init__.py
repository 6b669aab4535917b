"""AMD SEV-SNP: attestation reports, chip keys, what they must say."""

from __future__ import annotations

from attestation.platforms.snp.chain import ChipKey, check_signature, find_certificate, find_chain
from attestation.platforms.snp.check import (
    check_alias_free,
    check_attributes,
    check_crl,
    check_revocation,
    check_tcb,
)
from attestation.platforms.snp.report import SnpReport, parse_report

__all__ = [
    "ChipKey",
    "SnpReport",
    "check_alias_free",
    "check_attributes",
    "check_crl",
    "check_revocation",
    "check_signature",
    "check_tcb",
    "find_certificate",
    "find_chain",
    "parse_report",
]
