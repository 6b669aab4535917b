"""Inspection of what NVIDIA signs: GPU and switch reports, RIMs, OCSP answers."""

from __future__ import annotations

import base64
import collections
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cryptography import x509

from attestation import nvidia
from attestation.errors import NotChecked, ParseError, Refused, UmayError
from attestation.formats.collateral import Collateral
from attestation.formats.dates import stamp
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia.report import SWITCH_BLOCKS
from attestation.x509.certificate import has_signed, load_any
from client_sdk.inspection.inspected import Explained, Given, Inspected

MAX_RIM_SETS = 16
MAX_CERTIFICATES = 64
MAX_DEVICES = 64
_CLAIMS = ("dbgstat", "eat_nonce", "hwmodel", "measres", "secboot", "ueid")


def report(file: str, data: bytes, given: Given) -> Inspected:
    """A report alone answers an unknown nonce: that it is fresh is for its asker to check."""
    end = nvidia.report_length(data)
    data, rest = data[:end], data[end:]
    parsed = nvidia.parse_report(data)
    is_switch = len(parsed.measurements) == SWITCH_BLOCKS
    found = Inspected(file, f"NVIDIA {parsed.what}")
    add = found.fields.append
    add(Explained("nonce", parsed.nonce.hex(), "32 bytes chosen by whoever asked"))
    names = ("bios_version",) if is_switch else ("driver_version", "vbios_version", "board")
    for name in names:
        add(Explained(name, _value(parsed, name), "as the device reports it"))
    count = str(len(parsed.measurements))
    add(Explained("measurements", count, "48-byte digests of firmware and configuration"))
    found.after("report", rest)
    _judge(found, data, parsed, given)
    return found


def _judge(found: Inspected, data: bytes, parsed: nvidia.GpuReport, given: Given) -> None:
    checked: list[nvidia.CheckedDevice] = []

    def device() -> str:
        chain = _chain(parsed, given.certificates)
        is_switch = len(parsed.measurements) == SWITCH_BLOCKS
        item = Device(SWITCH if is_switch else GPU, data, chain)
        checked.append(
            nvidia.check_device(item, nonce=parsed.nonce, roots=given.roots, now=given.now)
        )
        return f"signed by a {checked[0].architecture} device under a pinned root"

    def firmware() -> str:
        if not checked:
            raise NotChecked("needs the report's signature to hold")
        sets = list(itertools.islice(_with_rims(checked[0], given), MAX_RIM_SETS))
        for number, collateral in enumerate(sets, 1):
            try:
                nvidia.check_measurements(checked[0], collateral, roots=given.roots, now=given.now)
                break
            except UmayError:
                if number == len(sets):
                    raise
        return "every published measurement matches"

    found.check("gpu", device)
    found.check("gpu-firmware", firmware)


def _chain(parsed: nvidia.GpuReport, certificates: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The five certificates from the one that signed this report upwards."""
    loaded = {der: item for der in certificates if (item := load_any(der)) is not None}
    by_subject = {item.subject: der for der, item in loaded.items()}
    for der, item in loaded.items():
        if not _signed(parsed, item):
            continue
        chain = [der]
        while len(chain) < 5 and loaded[chain[-1]].issuer in by_subject:
            chain.append(by_subject[loaded[chain[-1]].issuer])
        return tuple(chain)
    if not certificates:
        raise NotChecked("no certificate chain was given")
    return tuple(certificates[:5])  # signed by none of them: let the check say so


def _signed(parsed: nvidia.GpuReport, leaf: x509.Certificate) -> bool:
    return has_signed(leaf.public_key(), parsed.signature, parsed.signed_region)


def _with_rims(device: nvidia.CheckedDevice, given: Given) -> Iterator[Collateral]:
    """Every choice of the RIMs at hand: a file has no name that says what it is for, and of
    one version there can be several issues."""
    parts = dict(given.collateral.parts) if given.collateral else {}
    fitting = []
    for name, wanted in nvidia.rim_names(device):
        plain = wanted.replace(".", "").upper()
        own = [data for data in given.rims if _version(data, given).upper() == plain]
        part = f"nvidia/rim/{name}"
        fitting.append([{part: data} for data in own or filter(None, [parts.get(part)])])
    if not any(fitting):
        raise NotChecked("no RIM for this driver and VBIOS was given")
    for choice in itertools.product(*(part or [{}] for part in fitting)):
        yield Collateral(parts | dict(collections.ChainMap(*choice)))


def _version(data: bytes, given: Given) -> str:
    """Empty where the RIM does not hold: its own inspection says why."""
    try:
        found = nvidia.read_rim(data, pinned=given.roots.nvidia_rim, now=given.now)
    except UmayError:
        return ""
    return found.version.replace(".", "")


def rim(file: str, data: bytes, given: Given) -> Inspected:
    found = Inspected(file, "NVIDIA RIM")
    read: list[nvidia.Rim] = []

    def signature() -> str:
        read.append(nvidia.read_rim(data, pinned=given.roots.nvidia_rim, now=given.now))
        return f"signed under a pinned root; holds until {stamp(read[0].expires)}"

    if found.check("rim", signature):
        found.fields.append(Explained("product", read[0].product, "chip"))
        found.fields.append(Explained("version", read[0].version, "of driver or VBIOS"))
        count = str(len(read[0].golden))
        found.fields.append(Explained("measurements", count, "indices with published digests"))
    return found


def sdk_evidence(file: str, data: bytes, given: Given) -> list[Inspected]:
    """NVIDIA's own JSON: a list of {certificate, evidence, nonce}, both in base64."""
    found = []
    for number, (certificates, content) in enumerate(read_sdk(data)):
        own = replace(given, certificates=certificates)
        found.append(report(f"{file}[{number}]", content, own))
    return found


def read_sdk(data: bytes) -> list[tuple[tuple[bytes, ...], bytes]]:
    """(chain as DER, report) of each device. Raises ParseError."""
    try:
        items = json.loads(data)
        if not 0 < len(items) <= MAX_DEVICES:
            raise ParseError(f"NVIDIA's evidence JSON: expected 1 to {MAX_DEVICES} devices")
        return [
            (
                pem_certificates(base64.b64decode(item["certificate"])),
                base64.b64decode(item["evidence"]),
            )
            for item in items
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParseError("not NVIDIA's evidence JSON") from None


def claims(file: str, data: bytes, _: Given) -> Inspected:
    """What a verifier said about a GPU, as JSON: a statement of its own, and no evidence."""
    try:
        raw = json.loads(data)
        first = (raw["claims"] if isinstance(raw, dict) else raw)[0]
        fields = [Explained(name, str(first[name])) for name in sorted(first) if name in _CLAIMS]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise ParseError("not attestation claims") from None
    if not fields:
        raise ParseError("not attestation claims")
    found = Inspected(file, "NVIDIA attestation claims", fields=fields)

    def run() -> str:
        text = "claims are somebody's word; expected the report and chain they were made from"
        raise Refused("parse", "unsigned-claims", text)

    found.check("support", run)
    return found


def pem_certificates(pem: bytes) -> tuple[bytes, ...]:
    """DER of every certificate in a PEM text. Raises ParseError."""
    from cryptography.hazmat.primitives.serialization import Encoding

    if pem.count(b"-----BEGIN") > MAX_CERTIFICATES:
        raise ParseError(f"expected at most {MAX_CERTIFICATES} certificates in one text")
    try:
        loaded = x509.load_pem_x509_certificates(pem)
    except Exception:  # the library lets several kinds through
        raise ParseError("not PEM certificates") from None
    return tuple(item.public_bytes(Encoding.DER) for item in loaded)


def _value(parsed: Any, name: str) -> str:
    try:
        return str(getattr(parsed, name))
    except ParseError:
        return "unknown"
