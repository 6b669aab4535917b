"""AMD SEV-SNP: attestation reports, chip keys, what they must say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.lazy import lazy_names

if TYPE_CHECKING:
    from attestation.platforms.snp.chain import (
        ChipKey,
        check_signature,
        find_certificate,
    )
    from attestation.platforms.snp.check import (
        check_alias_free,
        check_attributes,
        check_crl,
        check_revocation,
        check_tcb,
    )
    from attestation.platforms.snp.report import SnpReport, cut_padding, parse_report

__all__ = [
    "ChipKey",
    "SnpReport",
    "check_alias_free",
    "check_attributes",
    "check_crl",
    "check_revocation",
    "check_signature",
    "check_tcb",
    "cut_padding",
    "find_certificate",
    "parse_report",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ChipKey": "attestation.platforms.snp.chain",
        "SnpReport": "attestation.platforms.snp.report",
        "check_alias_free": "attestation.platforms.snp.check",
        "check_attributes": "attestation.platforms.snp.check",
        "check_crl": "attestation.platforms.snp.check",
        "check_revocation": "attestation.platforms.snp.check",
        "check_signature": "attestation.platforms.snp.chain",
        "check_tcb": "attestation.platforms.snp.check",
        "cut_padding": "attestation.platforms.snp.report",
        "find_certificate": "attestation.platforms.snp.chain",
        "parse_report": "attestation.platforms.snp.report",
    },
)
