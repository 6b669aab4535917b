"""Formats that can be recognised by their first bytes, and the function that inspects each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attestation.platforms import azure
from attestation.platforms.snp import report as snp
from client_sdk.inspection import azure as inspect_azure
from client_sdk.inspection import broken as inspect_broken
from client_sdk.inspection import eventlog as inspect_log
from client_sdk.inspection import own as inspect_own
from client_sdk.inspection import tcglog as inspect_tcg
from client_sdk.inspection import tdreport as inspect_tdreport
from client_sdk.inspection import tokens as inspect_tokens
from client_sdk.inspection.certificates import PEM, pem_certificates
from client_sdk.inspection.result import CheckInputs, Inspect, InspectionResult

_QUOTE_VERSIONS = (b"\3", b"\4", b"\5")
_ECDSA_P256_KEY = b"\0\2\0"
_SPDM_REQUEST = bytes.fromhex("11e0")
_SPEC_ID_AT = slice(inspect_tcg.HEADER_BYTES, inspect_tcg.HEADER_BYTES + len(inspect_tcg.SPEC_ID))
_BINCODE_MESSAGE_AT = 8 + 256 + 8
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class KnownFormat:
    """The name of a format, for messages about files that begin like it, and its inspection."""

    name: str
    inspect: Inspect


def by_first_bytes(data: bytes) -> KnownFormat | None:
    """The format of a file that begins like this, or None if the beginning does not say it."""
    start = data[:_HEAD_BYTES].lstrip()
    table = (
        (start.startswith(PEM), KnownFormat("PEM certificates", _certificates)),
        (b"SoftwareIdentity" in start[:2048], KnownFormat("NVIDIA RIM", inspect_broken.rim)),
        (data[:2] == _SPDM_REQUEST, KnownFormat("NVIDIA device report", inspect_broken.gpu_report)),
        (_begins_like_quote(data), KnownFormat("TDX quote", inspect_broken.quote)),
        (_begins_like_snp(data), KnownFormat("SEV-SNP report", inspect_broken.snp_report)),
        (data[_SPEC_ID_AT] == inspect_tcg.SPEC_ID, KnownFormat("event log", inspect_tcg.log)),
        (_begins_like_tdreport(data), KnownFormat("TDREPORT", inspect_tdreport.tdreport)),
        (data[:4] == b"CCEL", KnownFormat("ACPI table CCEL", inspect_log.acpi_table)),
        (data[:4] == b"HCLA", KnownFormat("HCL report of Azure", inspect_azure.hcl)),
        (
            data[_BINCODE_MESSAGE_AT:].startswith(azure.ATTEST_QUOTE),
            KnownFormat("vTPM quote of Azure", inspect_azure.vtpm_quote),
        ),
        (inspect_tokens.is_token(data), KnownFormat("token", inspect_tokens.token)),
    )
    return next((known for match, known in table if match), None)


def _begins_like_quote(data: bytes) -> bool:
    return data[:1] in _QUOTE_VERSIONS and data[1:4] == _ECDSA_P256_KEY and len(data) >= 8


def _begins_like_tdreport(data: bytes) -> bool:
    """Whether it begins like a TDREPORT and is about as long as one: its four bytes alone say
    little."""
    return inspect_tdreport.begins_like_one(data) and 512 <= len(data) <= 4096


def _begins_like_snp(data: bytes) -> bool:
    """Whether it is a report of a version and an algorithm that exist, with anything behind it, or
    has the length of a report and a version that may come later."""
    report = data.removeprefix(snp.RESPONSE_HEADER)
    version, algorithm = (int.from_bytes(report[at : at + 4], "little") for at in (0, 0x34))
    known = version in snp.VERSIONS and algorithm == snp.ECDSA_P384_SHA384
    return (known and len(report) >= snp.REPORT_BYTES) or (
        len(data) == snp.REPORT_BYTES and version < 1 << 8
    )


def _certificates(name: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    ders = pem_certificates(data)
    inputs = replace(inputs, certificates=inputs.certificates + ders)
    return [
        inspect_own.certificate(f"{name}[{number}]", der, inputs) for number, der in enumerate(ders)
    ]
