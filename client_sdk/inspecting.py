"""Which of all formats a file is: the first whose strict parser accepts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attestation.collateral import Collateral
from attestation.errors import ParseError, UmayError
from attestation.snp import report as snp
from client_sdk import inspect_cpu, inspect_gpu, inspect_own
from client_sdk.inspection import Given, Inspected, read_file, readings

Inspect = Callable[[str, bytes, Given], Inspected | list[Inspected]]
_PEM = b"-----BEGIN CERTIFICATE-----"


def inspect_files(paths: Sequence[Path], given: Given) -> list[Inspected]:
    """Everything found in the files, in their order. Raises UsageError, ParseError."""
    given = offered(paths, given)
    found: list[Inspected] = []
    for path in paths:
        found += inspect(str(path), read_file(path), given)
    return found


def offered(paths: Sequence[Path], given: Given) -> Given:
    """`given`, and all that these files add for checks."""
    for path in paths:
        given = _offered(read_file(path), given)
    return given


def inspect(name: str, data: bytes, given: Given) -> list[Inspected]:
    """What one file is. Raises ParseError saying what it is not, or what is wrong with it."""
    wrong = ""
    for encoding, content in readings(data):
        known = _by_first_bytes(content)
        for candidate in known or _UNMARKED:
            try:
                found = candidate(name, content, given)
            except UmayError as error:
                wrong = str(error) if len(known) == 1 else wrong
                continue
            items = found if isinstance(found, list) else [found]
            return [replace(item, encoding=encoding) for item in items]
    expected = wrong or f"expected evidence in a known format, got {len(data)} other bytes"
    raise ParseError(f"{name}: {expected}")


def _by_first_bytes(data: bytes) -> tuple[Inspect, ...]:
    """What a file must be that begins like this; nothing where the beginning does not tell."""
    start = data.lstrip()[:4096]
    table: tuple[tuple[bool, tuple[Inspect, ...]], ...] = (
        (start.startswith(_PEM), (_certificates,)),
        (b"<SoftwareIdentity" in start or b":SoftwareIdentity" in start, (inspect_gpu.rim,)),
        (data[:2] == bytes.fromhex("11e0"), (inspect_gpu.report,)),
        (data[:1] in (b"\3", b"\4", b"\5") and data[1:4] == b"\0\2\0", (inspect_cpu.quote,)),
        (len(data) == snp.REPORT_BYTES, (inspect_cpu.snp_report,)),
        (start[:1] in (b"{", b"["), _JSON),
        (start.startswith(b"HCLA"), (inspect_cpu.azure,)),
    )
    return next((candidates for match, candidates in table if match), ())


def _offered(data: bytes, given: Given) -> Given:
    """`given`, and what this file adds for the others: certificates, RIMs, collateral."""
    for _, content in readings(data):
        if content.lstrip().startswith(_PEM):
            more = inspect_gpu.pem_certificates(content)
            return replace(given, certificates=given.certificates + more)
        if b"SoftwareIdentity" in content[:4096]:
            return replace(given, rims=(*given.rims, content))
        for read in (_collateral, inspect_own.intel_bundle):
            try:
                parts = read(content).parts
            except ParseError:
                continue
            return _with_parts(given, parts)
        if (family := inspect_cpu.crl_family(content)) is not None:
            return _with_parts(given, {f"amd/crl/{family}": content})
        try:
            inspect_own.certificate("", content, given)
        except ParseError:
            continue
        return replace(given, certificates=(*given.certificates, content))
    return given


def _with_parts(given: Given, parts: Mapping[str, bytes]) -> Given:
    before = given.collateral.parts if given.collateral else {}
    return replace(given, collateral=Collateral({**before, **parts}))


def _collateral(data: bytes) -> Collateral:
    return Collateral.from_bytes(data)


def _certificates(name: str, data: bytes, given: Given) -> list[Inspected]:
    ders = inspect_gpu.pem_certificates(data)
    return [
        inspect_own.certificate(f"{name}[{number}]", der, given) for number, der in enumerate(ders)
    ]


def _intel_bundle(name: str, data: bytes, given: Given) -> Inspected:
    whole = inspect_own.intel_bundle(data)
    return inspect_own.collateral(name, whole.to_bytes(), given)


_JSON: tuple[Inspect, ...] = (
    inspect_cpu.azure,
    inspect_gpu.sdk_evidence,
    inspect_own.intel_answer,
    _intel_bundle,
)
_UNMARKED: tuple[Inspect, ...] = (
    inspect_own.evidence,
    inspect_own.collateral,
    *inspect_own.OWN,
    inspect_own.certificate,
    inspect_own.revocation_list,
    inspect_cpu.event_log,
)
