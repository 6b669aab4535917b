"""Quotes and reports that the strict parsers refuse: what can be read of them all the same.

Nothing here is judged: a check "format" says why the bytes are not what they begin as, and
the fields say what stands where the format has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attestation.errors import ParseError
from attestation.nvidia.rim import MAX_RIM_BYTES
from attestation.platforms.snp.report import REPORT_BYTES, RESPONSE_HEADER
from attestation.platforms.tdx.quote import BODY_FIELDS, HEADER, V5_DESCRIPTOR, VERSION_5
from client_sdk.inspection import cpu as inspect_cpu
from client_sdk.inspection import gpu as inspect_gpu
from client_sdk.inspection.certificates import base64_inside, certificate_fields, pem_inside
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult, malformed

_SNP_FIELDS = {
    "version": (0x00, 4),
    "policy": (0x08, 8),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "chip_id": (0x1A0, 64),
}
_RIM_FIELDS = {
    "product": re.compile(rb"\bproduct=\"([\w. -]{1,40})\""),
    "version": re.compile(rb"\bcolloquialVersion=\"([\w. -]{1,40})\""),
}
_GPU_NONCE = slice(4, 36)
_BEFORE_IT_ENDS = "read from broken bytes"


def quote(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A TDX or SGX quote, or the body and the certificates of a broken one."""
    try:
        return inspect_cpu.quote(file, data, inputs)
    except ParseError as error:
        found = malformed(file, f"TDX quote, version {inspect_cpu.version(data)}", error)
    start = HEADER.size + (V5_DESCRIPTOR.size if inspect_cpu.version(data) == VERSION_5 else 0)
    places = {}
    for name, size in BODY_FIELDS.items():
        places[name] = (start, size)
        start += size
    found.fields += _at(data, places) + certificate_fields(pem_inside(data))
    return found


def snp_report(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """An SNP report, or what stands at the places of one."""
    try:
        return inspect_cpu.snp_report(file, data, inputs)
    except ParseError as error:
        found = malformed(file, "SEV-SNP report", error)
    report = data.removeprefix(RESPONSE_HEADER)[:REPORT_BYTES]
    found.fields += _at(report, _SNP_FIELDS)
    return found


def gpu_report(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A GPU's or switch's report; of a broken one, the nonce, and the chain that was given."""
    try:
        return inspect_gpu.report(file, data, inputs)
    except ParseError as error:
        found = malformed(file, "NVIDIA device report", error)
    if len(data) >= _GPU_NONCE.stop:
        found.fields.append(ExplainedField("nonce", data[_GPU_NONCE].hex(), _BEFORE_IT_ENDS))
    found.fields += certificate_fields(inputs.certificates[: inspect_gpu.CHAIN_LENGTH])
    return found


def rim(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """A RIM; of one that does not hold, what it says of itself, which nothing vouches for."""
    found = inspect_gpu.rim(file, data, inputs)
    if found.checks[0].status != "passed":
        for name, pattern in _RIM_FIELDS.items():
            if match := pattern.search(data[:MAX_RIM_BYTES]):
                found.fields.append(ExplainedField(name, match[1].decode(), "as the file says"))
    found.fields += certificate_fields(base64_inside(data[:MAX_RIM_BYTES]))
    return found


def _at(data: bytes, places: Mapping[str, tuple[int, int]]) -> list[ExplainedField]:
    """The fields that `data` is long enough for."""
    return [
        ExplainedField(name, data[at : at + size].hex(), _BEFORE_IT_ENDS)
        for name, (at, size) in places.items()
        if at + size <= len(data)
    ]
