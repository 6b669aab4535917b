"""Tokens and claims of attestation services: what they say, and why that is not evidence."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

from attestation.errors import ParseError, Refused
from attestation.formats.dates import stamp
from client_sdk.inspection.jsontext import read_json
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult

MAX_TOKEN_BYTES = 1 << 20
BASE64_OBJECT = "eyJ"
"""A JSON object's first two characters in base64url."""

_TOKEN = re.compile(rb"\s*(eyJ[A-Za-z0-9_-]{8,})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\s*")
_CLAIMS = ("dbgstat", "eat_nonce", "hwmodel", "measres", "secboot", "ueid")
_TIMES = ("iat", "nbf", "exp")
_NAMED = (
    "alg",
    "kid",
    "iss",
    *_TIMES,
    *_CLAIMS,
    "x-nvidia-overall-att-result",
    "x-ms-attestation-type",
)


def is_token(data: bytes) -> bool:
    """Whether this text is a JSON Web Token."""
    return len(data) <= MAX_TOKEN_BYTES and _TOKEN.fullmatch(data) is not None


def token(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """A JSON Web Token: what a service says of evidence that it saw."""
    match = _TOKEN.fullmatch(data[:MAX_TOKEN_BYTES])
    if match is None:
        raise ParseError("token: expected three base64url texts with dots between them")
    says = {**_part(match[2]), **_part(match[1])}
    found = InspectionResult(file, f"token of {says.get('iss', 'an unnamed service')}")
    found.fields += [
        ExplainedField(name, _text(name, says[name])) for name in _NAMED if name in says
    ]
    signed = says.get("alg") != "none" and bool(match[3])
    found.check("support", _refuse("service-token" if signed else "unsigned-claims"))
    return found


def is_claims(raw: Any) -> bool:
    """Whether JSON is what a verifier of NVIDIA's said, as an object or a list of such."""
    return _first(raw) is not None


def claims(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """What a verifier said about a GPU, as JSON: a statement of its own, and no evidence."""
    first = _first(read_json(data))
    if first is None:
        raise ParseError("expected claims of NVIDIA's attestation service, got other JSON")
    found = InspectionResult(file, "NVIDIA attestation claims")
    found.fields += [ExplainedField(name, str(first[name])) for name in _CLAIMS if name in first]
    found.check("support", _refuse("unsigned-claims"))
    return found


def _first(raw: Any) -> Mapping[str, Any] | None:
    items = raw.get("claims") if isinstance(raw, dict) else raw
    first = items[0] if isinstance(items, list) and items else None
    return first if isinstance(first, dict) and first.keys() & set(_CLAIMS) else None


def _part(text: bytes) -> Mapping[str, Any]:
    try:
        content = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ParseError("token: expected base64url, got other text") from None
    value = read_json(content)
    if not isinstance(value, dict):
        raise ParseError("token: expected JSON objects, got another value")
    return value


def _text(name: str, value: object) -> str:
    if name in _TIMES and isinstance(value, int) and 0 <= value < 1 << 37:
        return stamp(value)
    return str(value)[:200]


def _refuse(code: str) -> Callable[[], str]:
    def run() -> str:
        text = "token: expected the report and its chain, got claims of a service about them"
        raise Refused("parse", code, text)

    return run
