"""Finds the format of a file: the first one whose strict parser accepts the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, UmayError
from attestation.formats.collateral import Collateral
from attestation.platforms.tdx import cut_padding
from client_sdk.inspection import azure as inspect_azure
from client_sdk.inspection import collateral as inspect_collateral
from client_sdk.inspection import cpu as inspect_cpu
from client_sdk.inspection import eventlog as inspect_log
from client_sdk.inspection import gpu as inspect_gpu
from client_sdk.inspection import own as inspect_own
from client_sdk.inspection import tcglog as inspect_tcg
from client_sdk.inspection import tokens as inspect_tokens
from client_sdk.inspection import wrapped as inspect_wrapped
from client_sdk.inspection.certificates import PEM, pem_certificates
from client_sdk.inspection.jsontext import read_json
from client_sdk.inspection.known import by_first_bytes
from client_sdk.inspection.pool import SignatureTries
from client_sdk.inspection.result import (
    CheckInputs,
    Inspect,
    InspectionResult,
    attempt,
    malformed,
    not_checked,
    read_file,
    readings,
)


def inspect_files(paths: Sequence[Path], inputs: CheckInputs) -> list[InspectionResult]:
    """Everything found in the files, in their order. A file in no known format, or one that is too
    long, gets a result that says so, beside the results of the others. Raises UsageError if a file
    cannot be read."""
    contents = {path: _content(path) for path in paths}
    for data in contents.values():
        if isinstance(data, bytes):
            inputs = _offered(data, inputs, strict=False)
    return [item for path in paths for item in _judged(path, contents[path], inputs)]


def _content(path: Path) -> bytes | ParseError:
    """The content of the file, or the error if it is too long, which says nothing against the
    others."""
    try:
        return read_file(path)
    except ParseError as error:
        return error


def _judged(path: Path, data: bytes | ParseError, inputs: CheckInputs) -> list[InspectionResult]:
    if isinstance(data, ParseError):
        found = InspectionResult(str(path), "a file that was not read")
        found.check("length", not_checked(str(data)))
        return [found]
    try:
        return inspect(str(path), data, replace(inputs, tries=SignatureTries()))
    except ParseError as error:
        return [malformed(str(path), "no known format", error)]


def offered(paths: Sequence[Path], inputs: CheckInputs) -> CheckInputs:
    """The inputs, with everything that these files add for the checks. Raises ParseError for a file
    that begins like one of the formats and is not one."""
    for path in paths:
        inputs = _offered(read_file(path), inputs, strict=True)
    return inputs


def inspect(name: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """What one file is. If a format is recognised but broken, the result names it and says what is
    wrong. Raises ParseError if no format is recognised."""
    for encoding, content in readings(data):
        items = _inspect(name, content, inputs)
        if items:
            return [replace(item, encoding=encoding) for item in items]
    text = f"expected evidence in a known format, got {len(data)} {_looks(data)}"
    raise ParseError(f"{name}: {text}")


def _looks(data: bytes) -> str:
    """What kind of bytes these are. None of them is shown, because the file may be somebody's
    key."""
    if not any(data):
        return "zero bytes"
    head = data[:4096]
    return "bytes of text" if head.isascii() and b"\0" not in head else "bytes of another kind"


def _inspect(name: str, content: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """The results, or an empty list if the content is of no known kind."""
    known = by_first_bytes(content)
    if known is not None:
        return attempt(name, known.name, content, known.inspect, inputs)
    if content[:_HEAD_BYTES].lstrip()[:1] in (b"{", b"[", b'"'):
        return _json(name, content, inputs)
    for candidate in _UNMARKED:
        try:
            found = candidate(name, content, inputs)
        except UmayError:
            continue
        return found if isinstance(found, list) else [found]
    return []


def _json(name: str, content: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """Inspects JSON by the keys of its outermost value, or else by what stands anywhere in it."""
    raw = read_json(content)
    if isinstance(raw, str):  # one value that was copied with its quotation marks
        return inspect(name, raw.encode(errors="replace"), inputs)
    for kind, is_this, read in _JSON:
        if is_this(raw):
            return attempt(name, kind, content, read, inputs)
    return inspect_wrapped.provider(name, content, inputs)


def _offered(data: bytes, inputs: CheckInputs, *, strict: bool) -> CheckInputs:
    """The inputs, with what this file adds for the checks of the others."""
    for _, content in readings(data):
        try:
            more = _adds(content, inputs)
        except ParseError:
            if strict:
                raise
            return inputs
        if more is not None:
            return more
    return inputs


def _adds(content: bytes, inputs: CheckInputs) -> CheckInputs | None:
    """The inputs with these certificates, this RIM, quote or collateral; None if it is none of
    them."""
    if content.lstrip().startswith(PEM):
        return replace(inputs, certificates=inputs.certificates + pem_certificates(content))
    if b"SoftwareIdentity" in content[:4096]:
        return replace(inputs, rims=(*inputs.rims, content))
    if _parses(cut_padding, content):
        return replace(inputs, quotes=(*inputs.quotes, cut_padding(content)))
    for read in (Collateral.from_bytes, inspect_collateral.read_intel_bundle):
        if _parses(read, content):
            return _with_parts(inputs, read(content))
    return _adds_signed(content, inputs) or _adds_der(content, inputs)


def _adds_signed(content: bytes, inputs: CheckInputs) -> CheckInputs | None:
    """The inputs with the chains of GPUs, or with the PCRs that a vTPM signed; None otherwise."""
    if _parses(inspect_gpu.read_sdk, content):
        more = tuple(inspect_gpu.read_sdk(content))
        return replace(inputs, certificates=inputs.certificates + more)
    for read in (inspect_azure.read_bincode, inspect_azure.read_evidence_quote):
        if _parses(read, content):
            return replace(inputs, pcrs=(*inputs.pcrs, read(content).pcrs))
    return None


def _adds_der(content: bytes, inputs: CheckInputs) -> CheckInputs | None:
    if (family := inspect_cpu.crl_family(content)) is not None:
        return _with_parts(inputs, Collateral({f"amd/crl/{family}": content}))
    if _parses(lambda data: inspect_own.certificate("", data, inputs), content):
        return replace(inputs, certificates=(*inputs.certificates, content))
    return None


def _parses(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except ParseError:
        return False
    return True


def _with_parts(inputs: CheckInputs, more: Collateral) -> CheckInputs:
    before = inputs.collateral.parts if inputs.collateral else {}
    certificates = inputs.certificates + inspect_collateral.chains(more)
    merged = Collateral({**before, **more.parts})
    return replace(inputs, collateral=merged, certificates=certificates)


def _has(*keys: str) -> Callable[[Any], bool]:
    """Whether JSON is an object with one of these keys."""
    return lambda raw: isinstance(raw, dict) and any(key in raw for key in keys)


def _is_dstack(raw: Any) -> bool:
    if isinstance(raw, dict) and isinstance(raw.get("quote"), str) and "event_log" in raw:
        return True
    return inspect_log.is_event_list(raw)


_JSON: tuple[tuple[str, Callable[[Any], bool], Inspect], ...] = (
    ("Azure paravisor evidence", inspect_azure.is_evidence, inspect_azure.evidence),
    ("NVIDIA evidence", inspect_gpu.is_device_list, inspect_gpu.sdk_evidence),
    ("dstack quote and event log", _is_dstack, inspect_log.dstack),
    ("Intel answer", _has(*inspect_collateral.INTEL), inspect_collateral.intel_answer),
    ("Intel collateral", _has("tcb_info_signature"), inspect_collateral.intel_bundle),
    ("attestation claims", inspect_tokens.is_claims, inspect_tokens.claims),
)
_UNMARKED: tuple[Inspect, ...] = (
    inspect_own.evidence,
    inspect_collateral.collateral,
    *inspect_own.OWN,
    inspect_own.certificate,
    inspect_collateral.revocation_list,
    inspect_tcg.sha1_log,
)
_HEAD_BYTES = 64
