"""Inspection of Umay's own formats, and of certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.cpu import NotChecked
from attestation.digests import sha256
from attestation.errors import NotAuthentic, ParseError
from attestation.evidence import Evidence, evidence_digest
from attestation.keys import KeyBundle, bundle_digest
from attestation.log.leaf import Leaf
from attestation.log.proof import Proof
from attestation.receipt import SignedReceipt
from attestation.snp.chain import load_any, load_certificate
from attestation.validity import stamp
from client_sdk.auditing import inspect_cpu, inspect_gpu, inspect_log
from client_sdk.auditing.inspection import Explained, Given, Inspected


def evidence(file: str, data: bytes, given: Given) -> list[Inspected]:
    """Evidence, and each thing in it."""
    parsed = Evidence.from_bytes(data)
    found = Inspected(file, f"Evidence of a {parsed.platform.upper()} machine")
    digest = evidence_digest(data).hex()
    found.fields.append(Explained("evidence_digest", digest, "as the log's leaf names it"))
    found.fields.append(Explained("devices", str(len(parsed.devices)), "GPUs and switches"))
    items = [found, _plain(f"{file}[keys]", "KeyBundle", KeyBundle.from_bytes(parsed.bundle))]
    items[1].fields.append(Explained("b", bundle_digest(parsed.bundle).hex(), "its digest"))
    if parsed.platform == "tdx":
        items.append(inspect_cpu.quote(f"{file}[quote]", parsed.quote, given))
    else:
        own = Given(given.now, given.roots, given.collateral, parsed.cpu_certificates)
        items.append(inspect_cpu.snp_report(f"{file}[report]", parsed.quote, own))
    if parsed.ccel:
        with_quote = replace(given, quotes=(parsed.quote,))
        items.append(inspect_log.ccel(f"{file}[log]", parsed.ccel, with_quote))
    for number, device in enumerate(parsed.devices):
        own = Given(given.now, given.roots, given.collateral, device.chain, given.rims)
        items.append(inspect_gpu.report(f"{file}[device {number}]", device.report, own))
    return items


def parsed_by(kind: str, parse: Callable[[bytes], Any]) -> Callable[..., Inspected]:
    """An inspection that shows what a strict parser read."""

    def inspect(file: str, data: bytes, _: Given) -> Inspected:
        return _plain(file, kind, parse(data))

    return inspect


OWN = (
    parsed_by("KeyBundle", KeyBundle.from_bytes),
    parsed_by("log leaf", Leaf.from_bytes),
    parsed_by("signed receipt", SignedReceipt.from_bytes),
    parsed_by("log proof", Proof.from_bytes),
)


def certificate(file: str, data: bytes, given: Given) -> Inspected:
    try:
        parsed = load_certificate(data)
        names = parsed.subject.rfc4514_string(), parsed.issuer.rfc4514_string()
        if parsed.public_bytes(Encoding.DER) != data:
            raise ParseError("certificate: bytes after it")
    except ParseError:
        raise
    except Exception:  # the library lets several kinds through
        raise ParseError("not a certificate") from None
    found = Inspected(file, "X.509 certificate")
    start, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    spki = sha256(_spki(parsed)).hex()
    found.fields += [
        Explained("subject", names[0]),
        Explained("issuer", names[1]),
        Explained("valid", f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"),
        Explained("key", spki, "SHA-256 of the SubjectPublicKeyInfo" + _pinned(spki, given)),
    ]
    found.check("dates", lambda: _dates(parsed, given.now))
    found.check("issuer", lambda: _issued(parsed, spki, given))
    return found


def _dates(parsed: x509.Certificate, now: int) -> str:
    start, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    if not start.timestamp() <= now <= end.timestamp():
        raise NotAuthentic("certificate", "certificate-expired", f"not valid at {stamp(now)}")
    return f"valid at {stamp(now)}"


def _issued(parsed: x509.Certificate, spki: str, given: Given) -> str:
    """Its own issuer's signature, no further: the rest of a chain are other files."""
    if _pinned(spki, given):
        return "a pinned root"
    if parsed.issuer == parsed.subject:
        raise NotChecked("its own issuer, and none of the pinned roots")
    loaded = [load_any(der) for der in given.certificates]
    issuers = [item for item in loaded if item is not None and item.subject == parsed.issuer]
    if not issuers:
        raise NotChecked("its issuer's certificate was not given")
    for issuer in issuers:
        try:
            parsed.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return f"issued by {issuer.subject.rfc4514_string()}"
    raise NotAuthentic("certificate", "bad-signature", "its issuer did not sign it")


def _plain(file: str, kind: str, value: Any) -> Inspected:
    found = Inspected(file, kind)
    given = {name: content for name, content in vars(value).items() if content is not None}
    found.fields += [Explained(name, _text(content)) for name, content in given.items()]
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 64 else f"{len(value)} bytes"
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _spki(parsed: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pinned(spki: str, given: Given) -> str:
    roots = given.roots
    pinned = roots.intel | roots.amd | roots.nvidia_device | roots.nvidia_rim
    return "; a pinned root" if bytes.fromhex(spki) in pinned else ""
