"""Which of all formats a file is: the first whose strict parser accepts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from attestation.errors import ParseError, UmayError
from attestation.formats.collateral import Collateral
from attestation.platforms import azure
from attestation.platforms.snp import report as snp
from attestation.platforms.tdx import cut_padding
from client_sdk.inspection import (
    azure as inspect_azure,
)
from client_sdk.inspection import (
    collateral as inspect_collateral,
)
from client_sdk.inspection import (
    cpu as inspect_cpu,
)
from client_sdk.inspection import (
    eventlog as inspect_log,
)
from client_sdk.inspection import (
    gpu as inspect_gpu,
)
from client_sdk.inspection import (
    own as inspect_own,
)
from client_sdk.inspection.inspected import Given, Inspected, read_file, readings

Inspect = Callable[[str, bytes, Given], Inspected | list[Inspected]]
_SPEC_ID = b"Spec ID Event03"
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
        (_begins_like_snp(data), (inspect_cpu.snp_report,)),
        (start[:1] in (b"{", b"["), _JSON),
        (data[32:47] == _SPEC_ID, (inspect_log.ccel,)),
        (data[:4] == b"CCEL", (inspect_log.acpi_table,)),
        (data[:4] == b"HCLA", (inspect_azure.hcl,)),
        (data[8 + 256 + 8 :].startswith(azure.ATTEST_QUOTE), (inspect_azure.vtpm_quote,)),
    )
    return next((candidates for match, candidates in table if match), ())


def _begins_like_snp(data: bytes) -> bool:
    """A report of a version and an algorithm that exist, with whatever behind it."""
    report = data.removeprefix(snp.RESPONSE_HEADER)
    head = (int.from_bytes(report[:4], "little"), int.from_bytes(report[0x34:0x38], "little"))
    known = head in ((version, snp.ECDSA_P384_SHA384) for version in snp.VERSIONS)
    return (known and len(report) >= snp.REPORT_BYTES) or len(data) == snp.REPORT_BYTES


def _offered(data: bytes, given: Given) -> Given:
    """`given`, and what this file adds for the others."""
    for _, content in readings(data):
        if (more := _adds(content, given)) is not None:
            return more
    return given


def _adds(content: bytes, given: Given) -> Given | None:
    """`given` with these certificates, RIM, quote or collateral; None where it is neither."""
    if content.lstrip().startswith(_PEM):
        more = inspect_gpu.pem_certificates(content)
        return replace(given, certificates=given.certificates + more)
    if b"SoftwareIdentity" in content[:4096]:
        return replace(given, rims=(*given.rims, content))
    if _parses(cut_padding, content):
        return replace(given, quotes=(*given.quotes, cut_padding(content)))
    for read in (Collateral.from_bytes, inspect_collateral.read_intel_bundle):
        if _parses(read, content):
            return _with_parts(given, read(content))
    if _parses(inspect_gpu.read_sdk, content):
        more = tuple(der for chain, _ in inspect_gpu.read_sdk(content) for der in chain)
        return replace(given, certificates=given.certificates + more)
    return _adds_der(content, given)


def _adds_der(content: bytes, given: Given) -> Given | None:
    if (family := inspect_cpu.crl_family(content)) is not None:
        return _with_parts(given, Collateral({f"amd/crl/{family}": content}))
    if _parses(lambda data: inspect_own.certificate("", data, given), content):
        return replace(given, certificates=(*given.certificates, content))
    return None


def _parses(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except ParseError:
        return False
    return True


def _with_parts(given: Given, more: Collateral) -> Given:
    before = given.collateral.parts if given.collateral else {}
    certificates = given.certificates + inspect_collateral.chains(more)
    merged = Collateral({**before, **more.parts})
    return replace(given, collateral=merged, certificates=certificates)


def _certificates(name: str, data: bytes, given: Given) -> list[Inspected]:
    ders = inspect_gpu.pem_certificates(data)
    given = replace(given, certificates=given.certificates + ders)
    return [
        inspect_own.certificate(f"{name}[{number}]", der, given) for number, der in enumerate(ders)
    ]


_JSON: tuple[Inspect, ...] = (
    inspect_azure.evidence,
    inspect_gpu.sdk_evidence,
    inspect_log.dstack,
    inspect_collateral.intel_answer,
    inspect_collateral.intel_bundle,
    inspect_gpu.claims,
)
_UNMARKED: tuple[Inspect, ...] = (
    inspect_own.evidence,
    inspect_collateral.collateral,
    *inspect_own.OWN,
    inspect_own.certificate,
    inspect_collateral.revocation_list,
)
