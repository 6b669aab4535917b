"""Inspection of the JSON in which providers of private inference hand out evidence.

Every provider has its own names for the same parts. So the parts are found by what they are:
quotes, reports, event logs, chains and tokens, in hex, base64, gzip, lists of numbers, or JSON
inside a text. Each part is judged as if it had come alone, together with what stands beside it.
What the provider claims about a part is compared with what the part says.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.platforms import snp, tdx
from attestation.platforms.snp.report import REPORT_BYTES
from client_sdk.inspection import eventlog as inspect_log
from client_sdk.inspection import gpu as inspect_gpu
from client_sdk.inspection import own as inspect_own
from client_sdk.inspection.certificates import PEM, pem_inside
from client_sdk.inspection.jsontext import MAX_DEPTH, is_json_text, read_json
from client_sdk.inspection.known import KnownFormat, by_first_bytes
from client_sdk.inspection.result import (
    CheckInputs,
    ExplainedField,
    InspectionResult,
    attempt,
    readings,
)
from client_sdk.inspection.tokens import BASE64_OBJECT

MAX_PARTS = 512
"""Enough for some forty machines with eight GPUs, a quote and an event log each."""

MAX_CERTIFICATES = 256
"""Each certificate is tried for each report. Chains of GPUs stand beside their own reports."""

MAX_NODES = 200_000
MAX_INFLATED_BYTES = 1 << 20
"""Limit for one piece."""

MAX_ALL_INFLATED_BYTES = 16 << 20
"""Limit for all pieces in one file together, whether they are evidence or not."""

MAX_FIELDS = 64
MIN_PART_CHARACTERS = 256
"""All evidence is longer than this; digests, nonces and keys are shorter."""

_SHOWN_CHARACTERS = 200
_GZIP = b"\x1f\x8b"
_DER = b"\x30\x82"

SHAPES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"gateway_attestation"}), "near.ai's attestation report"),
    (frozenset({"intel_quote"}), "attestation report of dstack's inference proxy"),
    (frozenset({"quote", "gpu_evidence"}), "attestation of Chutes"),
    (frozenset({"quote", "cc_eventlog"}), "TDX evidence of Confidential Containers"),
    (frozenset({"attestation_report", "cert_chain"}), "SNP evidence of Confidential Containers"),
    (frozenset({"evidence_list"}), "NVIDIA payload"),
    (frozenset({"format", "body"}), "attestation document of Tinfoil"),
    (frozenset({"quote", "event_log"}), "dstack quote"),
)
"""Keys by which the form of a provider is recognised, and the name of that form."""

_CLAIMED = {"mrtd": "mr_td", **{f"rtmr{number}": f"rt_mr{number}" for number in range(4)}}

Read = Callable[[str, CheckInputs], list[InspectionResult]]


@dataclass(frozen=True)
class EvidencePart:
    """A part that was recognised: its path, the path of the object in which it stands, and how it
    is inspected.

    `content` is the bytes of a quote, a report or a certificate. It is empty for other parts."""

    path: str
    scope: str
    read: Read
    content: bytes = b""


def provider(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """Everything found in a provider's JSON. Raises ParseError if there is no evidence in it."""
    root = read_json(data)
    walk = _Walk()
    parts = list(walk.parts(root, "", "", 0))
    if not parts:
        raise ParseError(f"JSON: expected evidence in a known format, got none; {_keys(root)}")
    inputs = replace(inputs, certificates=inputs.certificates + _certificates(parts))
    items: list[InspectionResult] = []
    for scope in dict.fromkeys(["", *(part.scope for part in parts)]):
        inside = [part for part in parts if part.scope == scope]
        items += _scope(f"{file}{_at(scope)}", walk.objects.get(scope, {}), file, inside, inputs)
    return items


class _Walk:
    """Finds every recognised part below a value; `objects` keeps each object by its path."""

    def __init__(self) -> None:
        self.objects: dict[str, Mapping[str, Any]] = {}
        self._nodes = self._parts = self._inflated = 0

    def parts(self, value: Any, path: str, scope: str, depth: int) -> Iterator[EvidencePart]:
        self._count(depth)
        part = self._whole(value, path, scope)
        if part is not None:
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise ParseError(f"JSON: expected at most {MAX_PARTS} pieces of evidence, got more")
            yield part
        elif isinstance(value, dict):
            self.objects[path] = value
            for key, item in value.items():
                yield from self.parts(item, f"{path}.{key}" if path else key, path, depth + 1)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from self.parts(item, f"{path}[{number}]", scope, depth + 1)
        elif isinstance(value, str) and is_json_text(value):
            yield from self.parts(_inner(value), path, scope, depth + 1)

    def _count(self, depth: int) -> None:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            text = f"expected at most {MAX_NODES} values in at most {MAX_DEPTH} levels, got more"
            raise ParseError(f"JSON: {text}")

    def _whole(self, value: Any, path: str, scope: str) -> EvidencePart | None:
        """The part, if this value itself is one."""
        if inspect_gpu.is_device(value):
            return EvidencePart(
                path, scope, lambda file, inputs: [inspect_gpu.device(file, value, inputs)]
            )
        if inspect_log.is_event_list(value):
            return EvidencePart(
                path, scope, lambda file, inputs: inspect_log.event_list(file, value, inputs)
            )
        contents = map(self._plain, _contents(value))
        return next((part for item in contents if (part := _of_bytes(item, path, scope))), None)

    def _plain(self, content: bytes) -> bytes:
        """The content if it is gzip; anything else as it is."""
        if content[:2] != _GZIP:
            return content
        inflated, count = _inflated(content)
        self._inflated += count
        if self._inflated > MAX_ALL_INFLATED_BYTES:
            text = f"expected at most {MAX_ALL_INFLATED_BYTES} bytes inside all gzip texts together"
            raise ParseError(f"JSON: {text}, got more")
        return inflated


def _inner(text: str) -> Any:
    """The JSON inside a text, or None if the text only looks like JSON."""
    try:
        return read_json(text)
    except ParseError:
        return None


def _of_bytes(content: bytes, path: str, scope: str) -> EvidencePart | None:
    known = by_first_bytes(content)
    if known is None and content[:2] == _DER and inspect_own.is_certificate(content):
        known = KnownFormat("X.509 certificate", inspect_own.certificate)
    if known is None:
        return None
    name, inspect = known.name, known.inspect

    def read(file: str, inputs: CheckInputs) -> list[InspectionResult]:
        return attempt(file, name, content, inspect, inputs)

    return EvidencePart(path, scope, read, content)


def _contents(value: Any) -> Iterator[bytes]:
    """The bytes that a value may stand for, by each encoding that fits."""
    if isinstance(value, list):
        if len(value) >= MIN_PART_CHARACTERS and all(type(item) is int for item in value):
            yield bytes(item & 0xFF for item in value if 0 <= item <= 0xFF)
        return
    if not isinstance(value, str) or is_json_text(value):
        return
    if len(value) < MIN_PART_CHARACTERS and not value.startswith(BASE64_OBJECT):
        return
    yield from (content for _, content in readings(value.encode(errors="replace")))


def _inflated(content: bytes) -> tuple[bytes, int]:
    """The content of a complete gzip, else `content` itself; and at most how many bytes were
    inflated."""
    stream = zlib.decompressobj(wbits=31)
    try:
        inflated = stream.decompress(content, MAX_INFLATED_BYTES)
    except zlib.error:  # which does not say how far it came
        return content, MAX_INFLATED_BYTES
    whole = stream.eof and not stream.unused_data
    return inflated if whole else content, len(inflated)


def _scope(
    place: str, named: Mapping[str, Any], file: str, parts: list[EvidencePart], inputs: CheckInputs
) -> list[InspectionResult]:
    """The object's own fields, then its parts, each judged with the quotes in the same object."""
    header = InspectionResult(place, _shape(named))
    header.fields += _fields(named)
    quotes = tuple(part.content for part in parts if _report_data(part.content))
    tdx_quotes = tuple(_cut(quote) for quote in quotes if not _is_snp(quote))
    beside = replace(inputs, quotes=tdx_quotes or inputs.quotes)
    items = [header]
    for part in parts:
        items += part.read(f"{file}[{part.path}]", beside)
    if quotes:
        header.check("binding", lambda: _bound(named, quotes[0]))
    if tdx_quotes and _tcb_info(named):
        header.check("claims", lambda: _claimed(named, tdx_quotes[0]))
    if "evidence_list" in named and "nonce" in named:
        header.check("nonce", lambda: _answered(named, items))
    return items


def _answered(named: Mapping[str, Any], items: list[InspectionResult]) -> str:
    """Whether every report in NVIDIA's payload answers the nonce that the payload names."""
    expected = str(named["nonce"]).lower().removeprefix("0x")
    for item in items:
        for field in item.fields if item.kind.startswith("NVIDIA ") else ():
            if field.name == "nonce" and item is not items[0] and field.value != expected:
                text = (
                    f"{item.file}: nonce: expected {expected[:64]}, which NVIDIA's payload names, "
                )
                text += f"got {field.value}"
                raise NotAuthentic("gpu", "wrong-nonce", text)
    return "every report answers the nonce that the payload names"


def _shape(named: Mapping[str, Any]) -> str:
    return next((name for keys, name in SHAPES if keys <= named.keys()), "JSON with evidence")


def _fields(named: Mapping[str, Any]) -> list[ExplainedField]:
    """The short values of an object. Of a long text only the length is shown."""
    fields = []
    for key, value in named.items():
        if isinstance(value, bool | int | float) or value is None:
            fields.append(ExplainedField(key, str(value)))
        elif isinstance(value, str):
            short = len(value) <= _SHOWN_CHARACTERS
            fields.append(ExplainedField(key, value if short else f"{len(value)} characters"))
    return fields[:MAX_FIELDS]


def _bound(named: Mapping[str, Any], quote: bytes) -> str:
    """Whether REPORT_DATA is the signing address and the nonce of the request, as in dstack's
    proxies."""
    data = _report_data(quote)
    key, nonce = _hex(named, "signing_address"), _hex(named, "request_nonce", "nonce")
    if key and len(nonce) == 32 and hmac.compare_digest(data, key.ljust(32, b"\0") + nonce):
        return "REPORT_DATA is the signing address and the nonce that stand beside the quote"
    raise NotChecked(
        "REPORT_DATA is made by a scheme of the provider's own, which is not known here; ask the "
        "provider what it is the digest of"
    )


def _claimed(named: Mapping[str, Any], quote: bytes) -> str:
    """Whether the measurements that are claimed beside a quote are those of the quote."""
    claims, parsed = _tcb_info(named), tdx.parse_quote(quote)
    told = [name for name in _CLAIMED if name in claims]
    if not told:
        raise NotChecked(
            f"tcb_info has none of the measurements {', '.join(_CLAIMED)}, so there is nothing to "
            "compare"
        )
    for name in told:
        expected = getattr(parsed, _CLAIMED[name]).hex()
        if str(claims[name]).lower() != expected:
            text = f"tcb_info: {name}: expected {expected}, as the quote has it, got "
            text += str(claims[name])[:96]
            raise NotAuthentic("measurement", "claim-mismatch", text)
    return f"tcb_info and the quote have the same {', '.join(told)}"


def _tcb_info(named: Mapping[str, Any]) -> Mapping[str, Any]:
    """dstack's description of the VM, under `info`, as an object or as a text."""
    info = named.get("info")
    value = info.get("tcb_info") if isinstance(info, dict) else named.get("tcb_info")
    value = _inner(value) if isinstance(value, str) else value
    return value if isinstance(value, dict) else {}


def _report_data(content: bytes) -> bytes:
    """The 64 bytes, or none if the content cannot be read as a quote or report of a VM."""
    try:
        if _is_snp(content):
            return snp.parse_report(content).report_data
        return tdx.parse_quote(_cut(content)).report_data
    except ParseError:
        return b""


def _cut(quote: bytes) -> bytes:
    return quote[: tdx.quote_length(quote)]


def _is_snp(content: bytes) -> bool:
    return len(content) == REPORT_BYTES


def _hex(named: Mapping[str, Any], *keys: str) -> bytes:
    value = next((named[key] for key in keys if isinstance(named.get(key), str)), "")
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        return b""


def _certificates(parts: list[EvidencePart]) -> tuple[bytes, ...]:
    """DER of every certificate among the parts, for the checks of the others."""
    found: list[bytes] = []
    for part in parts:
        if part.content.lstrip().startswith(PEM):
            found += pem_inside(part.content)
        elif part.content[:2] == _DER:
            found.append(part.content)
    if len(found) > MAX_CERTIFICATES:
        raise ParseError(
            f"JSON: expected at most {MAX_CERTIFICATES} certificates beside the reports, got "
            f"{len(found)}"
        )
    return tuple(found)


def _at(scope: str) -> str:
    return f"[{scope}]" if scope else ""


def _keys(root: Any) -> str:
    if isinstance(root, dict):
        return "its keys are " + ", ".join(str(key)[:40] for key in list(root)[:16])
    return f"it is a list of {len(root)}" if isinstance(root, list) else "it is a single value"
