"""Inspection of Umay's own formats, and of certificates."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import nvidia
from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.formats import receipt_cose
from attestation.formats.dates import lapse, stamp
from attestation.formats.evidence import (
    Evidence,
    evidence_digest,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.receipt import Receipt, SignedReceipt
from attestation.log.leaf import Leaf
from attestation.log.proof import Proof
from attestation.platforms import snp, tdx
from attestation.trust.roots import Roots
from attestation.x509.certificate import load_any, load_certificate, spki_digest
from attestation.x509.certificate import window as certificate_window
from attestation.x509.profile import AMD, INTEL, NVIDIA, NVIDIA_OCSP, NVIDIA_RIM, Profile
from attestation.x509.walk import (
    Chain,
    check_links,
    check_signed,
    is_authority,
    is_responder,
)
from client_sdk.disclosure import DisclosedReceipt
from client_sdk.inspection import broken as inspect_broken
from client_sdk.inspection import tcglog as inspect_tcg
from client_sdk.inspection.pool import SignatureTries, certificate_pool
from client_sdk.inspection.result import CheckInputs, ExplainedField, InspectionResult, attempt

MAX_CHAIN = 8


def evidence(file: str, data: bytes, inputs: CheckInputs) -> list[InspectionResult]:
    """Evidence, and each thing in it."""
    parsed = Evidence.from_bytes(data)
    found = InspectionResult(file, f"Evidence of a {parsed.platform.upper()} machine")
    digest = evidence_digest(data).hex()
    found.fields.append(ExplainedField("evidence_digest", digest, "the log's leaf has this digest"))
    found.fields.append(ExplainedField("devices", str(len(parsed.devices)), "GPUs and switches"))
    items = [found, *attempt(f"{file}[keys]", "KeyBundle", parsed.bundle, _keys, inputs)]
    if parsed.platform == "tdx":
        items.append(inspect_broken.quote(f"{file}[quote]", parsed.quote, inputs))
    else:
        own = replace(inputs, certificates=parsed.cpu_certificates)
        items.append(inspect_broken.snp_report(f"{file}[report]", parsed.quote, own))
    if parsed.ccel:
        with_quote = replace(inputs, quotes=(parsed.quote,))
        items += attempt(f"{file}[log]", "event log", parsed.ccel, inspect_tcg.log, with_quote)
    for number, device in enumerate(parsed.devices):
        own = replace(inputs, certificates=device.chain)
        items.append(inspect_broken.gpu_report(f"{file}[device {number}]", device.report, own))
    found.check("binding", lambda: _bound(parsed))
    return items


def _keys(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    found = _plain(file, "KeyBundle", KeyBundle.from_bytes(data))
    found.fields.append(
        ExplainedField("b", bundle_digest(data).hex(), "the digest of the KeyBundle")
    )
    return found


def _bound(parsed: Evidence) -> str:
    """Whether all parts are of one machine and time; what each is worth, its own checks say."""
    b = bundle_digest(parsed.bundle)
    data = report_data_binding(b, gpu_evidence_digest(parsed.devices))
    tdx_quote = tdx.parse_quote(parsed.quote) if parsed.platform == "tdx" else None
    quoted = tdx_quote or snp.parse_report(parsed.quote)
    if not hmac.compare_digest(quoted.report_data[:32], data):
        text = (
            "REPORT_DATA[0:32]: expected the digest of this KeyBundle and its devices, got another"
        )
        raise NotAuthentic("binding", "wrong-report-data", text)
    if any(nvidia.parse_report(item.report).nonce != gpu_nonce(b) for item in parsed.devices):
        raise NotAuthentic(
            "binding",
            "wrong-nonce",
            "device report: expected the nonce of this KeyBundle, got another",
        )
    if tdx_quote and tdx.replay(parsed.ccel, parsed.rtmr3_events) != tdx_quote.rtmrs:
        text = "event logs: expected to replay to the RTMRs of the quote, got other values"
        raise NotAuthentic("measurement", "log-mismatch", text)
    return "the quote names these keys and devices"


def parsed_by(kind: str, parse: Callable[[bytes], Any]) -> Callable[..., InspectionResult]:
    """An inspection that shows what a strict parser read."""

    def inspect(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
        found = _plain(file, kind, parse(data))
        found.check("signature", _by_itself)
        return found

    return inspect


def _by_itself() -> str:
    raise NotChecked("this was only read: what could prove it is not in this file")


def disclosed_receipt(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """The receipt, and which parts of its exchange the file shows. None of these is printed."""
    shown = DisclosedReceipt.from_bytes(data)
    found = _plain(file, "disclosed receipt", Receipt.from_bytes(shown.signed.body))
    parts = [
        name for name, part in (("request", shown.request), ("answer", shown.response)) if part
    ]
    found.fields += [
        ExplainedField(
            "receipt_key",
            shown.receipt_key.hex(),
            "the holder says so, and this file does not prove it",
        ),
        ExplainedField("shows", " and ".join(parts) or "neither request nor answer"),
    ]
    found.check("signature", lambda: _holds(shown))
    found.check("enclave", _whose_key)
    return found


def cose_receipt(file: str, data: bytes, _: CheckInputs) -> InspectionResult:
    """A receipt as COSE_Sign1, which names no key."""
    body, _signature = receipt_cose.decode(data)
    found = _plain(file, "receipt as COSE_Sign1", Receipt.from_bytes(body))
    found.check("signature", _whose_key)
    return found


def _holds(shown: DisclosedReceipt) -> str:
    shown.check()
    return "receipt_key signed it, and its hashes are those of what the file shows"


def _whose_key() -> str:
    raise NotChecked(
        "this file does not prove whose key signed it; to check that, use "
        "`umay client receipts verify --proof`"
    )


OWN = (
    parsed_by("KeyBundle", KeyBundle.from_bytes),
    parsed_by("log leaf", Leaf.from_bytes),
    parsed_by("signed receipt", SignedReceipt.from_bytes),
    parsed_by("log proof", Proof.from_bytes),
    disclosed_receipt,
    cose_receipt,
)


def certificate(file: str, data: bytes, inputs: CheckInputs) -> InspectionResult:
    try:
        parsed = load_certificate(data)
        names = parsed.subject.rfc4514_string(), parsed.issuer.rfc4514_string()
        if parsed.public_bytes(Encoding.DER) != data:
            raise ParseError("certificate: expected no bytes after it, got some")
    except ParseError:
        raise
    except Exception:  # the library lets several kinds through
        raise ParseError("certificate: expected X.509 in DER, got other bytes") from None
    found = InspectionResult(file, "X.509 certificate")
    start, end = certificate_window(parsed)
    spki = spki_digest(parsed).hex()
    found.fields += [
        ExplainedField("subject", names[0]),
        ExplainedField("issuer", names[1]),
        ExplainedField("valid", f"{stamp(start)} to {stamp(end)}"),
        ExplainedField("key", spki, "SHA-256 of the SubjectPublicKeyInfo" + _pinned(spki, inputs)),
    ]
    found.check("dates", lambda: _dates(parsed, inputs.now))
    found.check("issuer", lambda: _issued(parsed, inputs))
    return found


def is_certificate(der: bytes) -> bool:
    """Whether these bytes are one certificate and nothing else."""
    found = load_any(der)
    return found is not None and found.public_bytes(Encoding.DER) == der


def _dates(parsed: x509.Certificate, now: int) -> str:
    if found := lapse(certificate_window(parsed), now):
        word, text = found
        raise NotAuthentic("certificate", f"certificate-{word}", text)
    return f"valid at {stamp(now)}"


def _issued(parsed: x509.Certificate, inputs: CheckInputs) -> str:
    """The walk of its vendor, up to a pinned root."""
    chain = _climbed(parsed, inputs)
    check_links(chain, _profile(chain, inputs.roots), pinned={spki_digest(chain[-1])})
    issuer = parsed.issuer.rfc4514_string()
    return f"issued by {issuer}, under a pinned root" if len(chain) > 1 else "it is a pinned root"


def _climbed(parsed: x509.Certificate, inputs: CheckInputs) -> Chain:
    """Each certificate's issuer among those given, up to a pinned root."""
    pool = certificate_pool(inputs.certificates)
    chain = [parsed]
    while not _pinned(spki_digest(chain[-1]).hex(), inputs):
        at = chain[-1]
        if at.issuer == at.subject:
            raise NotChecked(f"{_named(chain)} is its own issuer, and is none of the pinned roots")
        if len(chain) > MAX_CHAIN:
            raise NotChecked(f"none of its next {MAX_CHAIN} issuers is a pinned root")
        issuers = [pool.loaded[der] for der in pool.by_subject.get(at.issuer, [])]
        if not issuers:
            raise NotChecked(
                f"needs the certificate of the issuer of {_named(chain)}, and none was given; name "
                "its file in the same call"
            )
        chain.append(_issuer(at, issuers, inputs.tries))
    return tuple(chain)


def _issuer(
    certificate: x509.Certificate, named: list[x509.Certificate], tries: SignatureTries
) -> x509.Certificate:
    """Of several certificates with its issuer's name, the one that signed it."""
    for number, item in enumerate(named):
        if number:
            tries.one_more()
        if _signed_by(certificate, item):
            return item
    _unsigned()


def _profile(chain: Chain, roots: Roots) -> Profile:
    """That of the vendor above, for a certificate at whatever place below."""
    pinned = spki_digest(chain[-1])
    vendors = ((roots.intel, INTEL), (roots.amd, AMD), (roots.nvidia_device, NVIDIA))
    found = next((profile for keys, profile in vendors if pinned in keys), NVIDIA_RIM)
    if is_responder(chain[0]):
        found = NVIDIA_OCSP
    first = found.above if is_authority(chain[0]) else found.first
    return replace(found, step="certificate", prefix="", first=first)


def _named(chain: list[x509.Certificate]) -> str:
    """The last of the chain, in words."""
    return chain[-1].subject.rfc4514_string() if len(chain) > 1 else "this certificate"


def _unsigned() -> NoReturn:
    raise NotAuthentic(
        "certificate",
        "bad-signature",
        "certificate: expected a signature by its issuer, got one that does not hold",
    )


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        check_signed(certificate, issuer)
    except Exception:  # an algorithm the library lacks is no ValueError
        return False
    return True


def _plain(file: str, kind: str, value: Any) -> InspectionResult:
    found = InspectionResult(file, kind)
    inputs = {name: content for name, content in vars(value).items() if content is not None}
    found.fields += [ExplainedField(name, _text(content)) for name, content in inputs.items()]
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 64 else f"{len(value)} bytes"
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _pinned(spki: str, inputs: CheckInputs) -> str:
    roots = inputs.roots
    pinned = roots.intel | roots.amd | roots.nvidia_device | roots.nvidia_rim
    return "; a pinned root" if bytes.fromhex(spki) in pinned else ""
