"""Inspection of Azure's confidential VMs: every link is checked, and the whole is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attestation.errors import NotChecked, ParseError, Refused
from attestation.platforms import azure, snp, tdx
from client_sdk.inspection import cpu as inspect_cpu
from client_sdk.inspection.certificates import pem_certificates
from client_sdk.inspection.jsontext import read_json
from client_sdk.inspection.result import (
    CheckInputs,
    ExplainedField,
    InspectionResult,
    attempt,
    malformed,
    not_checked,
)
from client_sdk.inspection.tdreport import tdreport

_BINCODE_SIGNATURE = 256
_WRONG = (ValueError, KeyError, TypeError, AttributeError)


def hcl(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """The vTPM's HCL report alone; of a broken one, the chip's report inside it."""
    try:
        end = azure.hcl_length(data)
        items = _whole(file, azure.parse_hcl(data[:end]), None, None, inputs)
    except ParseError as error:
        hardware = data[azure.HEADER_BYTES : azure.HEADER_BYTES + azure.HARDWARE_BYTES]
        inside = attempt(f"{file}[report]", "SEV-SNP report", hardware, _snp, inputs)
        return [malformed(file, "HCL report of Azure", error), *inside]
    items[0].after("HCL report", data[end:])
    return items


def _snp(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """Nothing where it is a TDREPORT, or cut short."""
    known = data[:1] in (b"\2", b"\3", b"\4", b"\5") and len(data) == azure.HARDWARE_BYTES
    return [inspect_cpu.snp_report(file, data, inputs)] if known else []


def is_evidence(raw: Any) -> bool:
    """Whether JSON has the parts that Trustee keeps of an Azure VM."""
    if not isinstance(raw, dict):
        return False
    quote = raw.get("tpm_quote") or raw.get("quote")
    return isinstance(quote, dict) and bool(raw.get("hcl_report") or raw.get("report"))


def evidence(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """HCL report, vTPM quote, and VCEK or TD quote, as Trustee keeps them in JSON."""
    raw = read_json(data)
    signed = _quote(raw)
    try:
        report = _bytes(raw.get("hcl_report") or raw["report"])
        td_quote = _bytes(raw["td_quote"]) if "td_quote" in raw else None
        chip = _certificate(raw.get("vcek", ""))
    except _WRONG:
        raise ParseError(
            "Azure's evidence: expected hcl_report, and td_quote or vcek, got other fields"
        ) from None
    inputs = replace(inputs, certificates=inputs.certificates + chip)
    return _whole(file, azure.parse_hcl(report), signed, td_quote, inputs)


def read_evidence_quote(data: bytes) -> azure.VtpmQuote:
    """The vTPM quote inside the JSON. Raises ParseError."""
    return _quote(read_json(data))


def _quote(raw: Any) -> azure.VtpmQuote:
    if not is_evidence(raw):
        raise ParseError(
            "Azure's evidence: expected JSON with hcl_report and a quote, got other JSON"
        )
    try:
        quote = raw.get("tpm_quote") or raw["quote"]
        message, signature = _bytes(quote["message"]), _bytes(quote["signature"])
        pcrs = tuple(_bytes(pcr) for pcr in quote["pcrs"])
    except _WRONG:
        raise ParseError(
            "Azure's evidence, quote: expected message, signature and pcrs, got other fields"
        ) from None
    return azure.parse_vtpm_quote(message, signature, pcrs)


def vtpm_quote(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """A vTPM quote as the az-cvm-vtpm crate serialises it: signature, message, PCRs."""
    signed = read_bincode(data)
    found = InspectionResult(file, "Azure vTPM quote")
    _explain(found, signed)
    found.check(
        "vtpm",
        not_checked(
            "needs the HCL report, which names the vTPM's key; give Azure's evidence as one JSON "
            "file, which has both"
        ),
    )
    _refuse(found)
    return found


def read_bincode(data: bytes) -> azure.VtpmQuote:
    """Raises ParseError."""
    start = 8 + _BINCODE_SIGNATURE
    if data[:8] != _BINCODE_SIGNATURE.to_bytes(8, "little"):
        raise ParseError(
            "vTPM quote: expected a signature of 256 bytes at its beginning, got other bytes"
        )
    end = start + 8 + int.from_bytes(data[start : start + 8], "little")
    if data[end : end + 8] != azure.PCR_COUNT.to_bytes(8, "little"):
        raise ParseError("vTPM quote: expected 24 PCRs after the message, got other bytes")
    pcrs = tuple(data[at : at + 32] for at in range(end + 8, len(data), 32))
    return azure.parse_vtpm_quote(data[start + 8 : end], data[8:start], pcrs)


def _whole(
    file: str,
    report: azure.HclReport,
    quote: azure.VtpmQuote | None,
    td_quote: bytes | None,
    inputs: CheckInputs,
) -> list[InspectionResult]:
    found = InspectionResult(file, f"Azure paravisor evidence, {report.platform.upper()}")
    add = found.fields.append
    add(ExplainedField("user_data", report.user_data.hex(), "what the guest gave the paravisor"))
    items, report_data = [found], b""
    if report.platform == "snp":
        items.append(inspect_cpu.snp_report(f"{file}[report]", report.hardware, inputs))
        report_data = snp.parse_report(report.hardware).report_data
    elif td_quote is not None:
        td_quote = tdx.cut_padding(td_quote)
        items.append(inspect_cpu.quote(f"{file}[td quote]", td_quote, inputs))
        report_data = tdx.parse_quote(td_quote).report_data
    else:
        items.append(tdreport(f"{file}[tdreport]", report.hardware, inputs))
    found.check("azure-runtime", _runtime(report, report_data))
    if quote is not None:
        _explain(found, quote)
        found.check("vtpm", _vtpm(report, quote))
    _refuse(found)
    return items


def _runtime(report: azure.HclReport, report_data: bytes) -> Callable[[], str]:
    def run() -> str:
        if not report_data:
            raise NotChecked("needs the TD quote, because no public key signs a TDREPORT")
        azure.check_runtime(report, report_data)
        return "REPORT_DATA is the runtime text's digest, which names the vTPM's key"

    return run


def _vtpm(report: azure.HclReport, quote: azure.VtpmQuote) -> Callable[[], str]:
    def run() -> str:
        azure.check_quote(report, quote)
        return "the vTPM's key signed the PCRs and the asker's data"

    return run


def _explain(found: InspectionResult, quote: azure.VtpmQuote) -> None:
    data = quote.qualifying_data.hex()
    found.fields.append(ExplainedField("qualifying_data", data, "what the asker chose"))
    for number, pcr in enumerate(quote.pcrs):
        if any(pcr):
            found.fields.append(ExplainedField(f"pcr {number}", pcr.hex()))


def _refuse(found: InspectionResult) -> None:
    def run() -> str:
        text = (
            "expected a VM whose code is all measured, got one of Azure's, whose paravisor is not"
        )
        raise Refused("parse", "azure-paravisor", text)

    found.check("support", run)


def _bytes(value: Any) -> bytes:
    """Lists of numbers, hex or base64url: each version of the format has its own."""
    if isinstance(value, list):
        return bytes(value)
    try:
        return bytes.fromhex(value)
    except ValueError:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)


def _certificate(text: str) -> tuple[bytes, ...]:
    if text.startswith("-----BEGIN"):
        return pem_certificates(text.encode())
    return (_bytes(text),) if text else ()
