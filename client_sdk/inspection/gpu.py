"""Inspection of what NVIDIA signs: GPU and switch reports, RIMs, OCSP answers."""

from __future__ import annotations

import base64
import collections
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from attestation import nvidia
from attestation.errors import NotAuthentic, NotChecked, ParseError, UmayError
from attestation.formats.collateral import Collateral
from attestation.formats.dates import stamp
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia.report import SWITCH_BLOCKS
from attestation.x509.walk import is_authority
from client_sdk.inspection.certificates import certificate_fields, pem_certificates
from client_sdk.inspection.jsontext import read_json
from client_sdk.inspection.pool import certificate_pool
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult, malformed

MAX_RIM_SETS = 16
CHAIN_LENGTH = 5
MAX_DEVICES = 64


def report(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    """The report of a GPU or a switch. Which nonce it should answer is not known here, so only
    whoever asked for it can check that it is fresh."""
    end = nvidia.report_length(data)
    data, rest = data[:end], data[end:]
    parsed = nvidia.parse_report(data)
    is_switch = len(parsed.measurements) == SWITCH_BLOCKS
    found = InspectionResult(file, f"NVIDIA {parsed.what}")
    add = found.fields.append
    add(
        ExplainedField(
            "nonce", parsed.nonce.hex(), "32 bytes that whoever asked for the report chose"
        )
    )
    names = ("bios_version",) if is_switch else ("driver_version", "vbios_version", "board")
    for name in names:
        add(ExplainedField(name, _value(parsed, name), "as the device reports it"))
    count = str(len(parsed.measurements))
    add(ExplainedField("measurements", count, "48-byte digests of firmware and configuration"))
    found.after("report", rest)
    _judge(found, data, parsed, inputs)
    return found


def _judge(
    found: InspectionResult, data: bytes, parsed: nvidia.GpuReport, inputs: CheckInputs
) -> None:
    checked: list[nvidia.CheckedDevice] = []

    def device() -> str:
        chain = _chain(parsed, inputs)
        found.fields += certificate_fields(chain)
        is_switch = len(parsed.measurements) == SWITCH_BLOCKS
        item = Device(SWITCH if is_switch else GPU, data, chain)
        checked.append(
            nvidia.check_device(item, nonce=parsed.nonce, roots=inputs.roots, now=inputs.now)
        )
        return f"the report is signed by a {checked[0].architecture} device under a pinned root"

    def firmware() -> str:
        if not checked:
            raise NotChecked(
                "needs a report whose signature holds; see the check gpu of this report"
            )
        sets = list(itertools.islice(_with_rims(checked[0], inputs), MAX_RIM_SETS))
        for number, collateral in enumerate(sets, 1):
            try:
                nvidia.check_measurements(
                    checked[0], collateral, roots=inputs.roots, now=inputs.now
                )
                break
            except UmayError:
                if number == len(sets):
                    raise
        return "every measurement that the RIMs publish is one of their digests"

    found.check("gpu", device)
    found.check("gpu-firmware", firmware)


def _chain(parsed: nvidia.GpuReport, inputs: CheckInputs) -> tuple[bytes, ...]:
    """The five certificates from the one that signed this report upwards. A report does not name
    its key, so keys are tried: first those of devices, then those of authorities."""
    pool = certificate_pool(inputs.certificates)
    for der, item in sorted(pool.loaded.items(), key=lambda entry: is_authority(entry[1])):
        if inputs.tries.signed(item, parsed):
            return pool.upwards(der, CHAIN_LENGTH)
    if not inputs.certificates:
        raise NotChecked(
            "needs the certificate chain of the device, and none was given; name its file in the "
            "same call"
        )
    return inputs.certificates[:CHAIN_LENGTH]  # none of them signed it, and the check will say so


def _with_rims(device: nvidia.CheckedDevice, inputs: CheckInputs) -> Iterator[Collateral]:
    """Every choice among the RIMs that were given. A file's name does not say what it is for, and
    there can be several issues of one version."""
    parts = dict(inputs.collateral.parts) if inputs.collateral else {}
    fitting = []
    for name, wanted in nvidia.rim_names(device):
        plain = wanted.replace(".", "").upper()
        pinned = inputs.roots.nvidia_rim
        own = [rim for rim in inputs.rims if _version(rim, pinned, inputs.now).upper() == plain]
        part = f"nvidia/rim/{name}"
        fitting.append([{part: data} for data in own or filter(None, [parts.get(part)])])
    if not any(fitting):
        raise NotChecked(
            "needs the RIMs of this driver and VBIOS, and none was given; name their files in the "
            "same call, or name collateral with --collateral"
        )
    for choice in itertools.product(*(part or [{}] for part in fitting)):
        yield Collateral(parts | dict(collections.ChainMap(*choice)))


@lru_cache(maxsize=256)  # every device of a file asks about every RIM
def _version(data: bytes, pinned: frozenset[bytes], now: int) -> str:
    """The version without dots. It is empty if the RIM does not verify; its own inspection says
    why."""
    try:
        found = nvidia.read_rim(data, pinned=pinned, now=now)
    except UmayError:
        return ""
    return found.version.replace(".", "")


def rim(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    found = InspectionResult(file, "NVIDIA RIM")
    read: list[nvidia.Rim] = []

    def signature() -> str:
        read.append(nvidia.read_rim(data, pinned=inputs.roots.nvidia_rim, now=inputs.now))
        return f"signed under a pinned root; valid until {stamp(read[0].expires)}"

    if found.check("rim", signature):
        found.fields.append(ExplainedField("product", read[0].product, "the chip that it is for"))
        found.fields.append(
            ExplainedField("version", read[0].version, "of the driver or the VBIOS")
        )
        count = str(len(read[0].golden))
        found.fields.append(
            ExplainedField("measurements", count, "number of indices with published digests")
        )
    return found


def sdk_evidence(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """NVIDIA's own JSON: a list of {certificate, evidence, nonce}; the first two are base64."""
    items = devices(read_json(data))
    return [device(f"{file}[{number}]", item, inputs) for number, item in enumerate(items)]


def read_sdk(data: bytes) -> list[bytes]:
    """DER of every certificate in NVIDIA's JSON. Raises ParseError."""
    return [der for item in devices(read_json(data)) for der in _decoded(item)[0]]


def devices(raw: Any) -> list[Mapping[str, str]]:
    """NVIDIA's list of devices, or the one inside an `nvidia_payload`. Raises ParseError."""
    items: Any = raw.get("evidence_list") if isinstance(raw, dict) else raw
    if not is_device_list(items):
        raise ParseError(
            "NVIDIA's evidence JSON: expected a list of devices with certificate and evidence, or "
            "an object with such a list as evidence_list, got other JSON"
        )
    if len(items) > MAX_DEVICES:
        raise ParseError(
            f"NVIDIA's evidence JSON: expected 1 to {MAX_DEVICES} devices, got {len(items)}"
        )
    return list(items)


def is_device_list(raw: Any) -> bool:
    """Whether JSON is a list of devices and nothing else."""
    return isinstance(raw, list) and bool(raw) and all(map(is_device, raw))


def is_device(value: Any) -> bool:
    """Whether JSON is one device: its chain and its report, both as text."""
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("certificate"), str) and isinstance(value.get("evidence"), str)


def device(file: str, item: Mapping[str, str], inputs: CheckInputs) -> InspectionResult:
    """One device of NVIDIA's JSON. Its report must answer the nonce that stands beside it, if
    any."""
    try:
        certificates, content = _decoded(item)
        found = report(file, content, replace(inputs, certificates=certificates))
    except ParseError as error:
        return malformed(file, "NVIDIA device report", error)
    nonce = str(item.get("nonce") or "").lower().removeprefix("0x")
    if nonce:
        found.check("nonce", lambda: _answers(found, nonce))
    return found


def _answers(found: InspectionResult, nonce: str) -> str:
    own = next(field.value for field in found.fields if field.name == "nonce")
    if own != nonce:
        text = f"nonce: expected {nonce[:64]}, which the JSON around the report names, got {own}"
        raise NotAuthentic("gpu", "wrong-nonce", text)
    return "the report answers the nonce that the JSON names"


def _decoded(item: Mapping[str, str]) -> tuple[tuple[bytes, ...], bytes]:
    """The chain as DER, and the report. Raises ParseError."""
    try:
        chain, content = (base64.b64decode(item[key]) for key in ("certificate", "evidence"))
    except ValueError:
        raise ParseError(
            "NVIDIA's evidence JSON: expected certificate and evidence in base64, got other text"
        ) from None
    return pem_certificates(chain), content


def _value(parsed: Any, name: str) -> str:
    try:
        return str(getattr(parsed, name))
    except ParseError as error:
        return f"it cannot be read: {error}"
