"""Inspection of Umay's own formats, of certificates, and of Intel collateral bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral import Collateral
from attestation.digests import sha256
from attestation.errors import ParseError
from attestation.evidence import Evidence, evidence_digest
from attestation.keys import KeyBundle, bundle_digest
from attestation.log.leaf import Leaf
from attestation.log.proof import Proof
from attestation.receipt import SignedReceipt
from attestation.snp.chain import load_certificate
from client_sdk import inspect_cpu, inspect_gpu
from client_sdk.inspection import Explained, Given, Inspected


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
        items.append(inspect_cpu.event_log(f"{file}[log]", parsed.ccel, given))
    for number, device in enumerate(parsed.devices):
        own = Given(given.now, given.roots, given.collateral, device.chain, given.rims)
        items.append(inspect_gpu.report(f"{file}[device {number}]", device.report, own))
    return items


def collateral(file: str, data: bytes, _: Given) -> Inspected:
    parsed = Collateral.from_bytes(data)
    found = Inspected(file, f"Collateral, {len(parsed.parts)} parts")
    for name, digest in sorted(parsed.manifest().items()):
        found.fields.append(Explained(name, digest.hex(), f"{len(parsed.parts[name])} bytes"))
    return found


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
    return found


def revocation_list(file: str, data: bytes, _: Given) -> Inspected:
    try:
        parsed = x509.load_der_x509_crl(data)
        issuer, end = parsed.issuer.rfc4514_string(), parsed.next_update_utc
    except Exception:  # the library lets several kinds through
        raise ParseError("not a revocation list") from None
    found = Inspected(file, f"revocation list, {len(parsed)} entries")
    found.fields.append(Explained("issuer", issuer))
    found.fields.append(Explained("valid", f"{parsed.last_update_utc} to {end}"))
    return found


def intel_answer(file: str, data: bytes, _: Given) -> Inspected:
    """A TCB info or an enclave identity, as Intel's service answers."""
    try:
        raw = json.loads(data)
        kind = next(name for name in ("tcbInfo", "enclaveIdentity") if name in raw)
        body, _signature = raw[kind], raw["signature"]
        fields = [Explained(key, str(value)) for key, value in body.items() if _is_short(value)]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise ParseError("not an answer of Intel's service") from None
    return Inspected(file, f"Intel {kind}", fields=fields)


def _is_short(value: object) -> bool:
    return isinstance(value, str | int) and len(str(value)) < 200


def intel_bundle(data: bytes) -> Collateral:
    """dcap-qvl's QuoteCollateralV3 JSON as the parts that Intel's service answers with."""
    try:
        raw: dict[str, str] = json.loads(data)
        parts = {
            "intel/tcb_info": _answer("tcbInfo", raw["tcb_info"], raw["tcb_info_signature"]),
            "intel/tcb_info_chain": raw["tcb_info_issuer_chain"].encode(),
            "intel/qe_identity": _answer(
                "enclaveIdentity", raw["qe_identity"], raw["qe_identity_signature"]
            ),
            "intel/qe_identity_chain": raw["qe_identity_issuer_chain"].encode(),
            "intel/pck_crl": bytes.fromhex(raw["pck_crl"]),
            "intel/pck_crl_chain": raw["pck_crl_issuer_chain"].encode(),
            "intel/root_crl": bytes.fromhex(raw["root_ca_crl"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ParseError("not Intel collateral as dcap-qvl keeps it") from None
    return Collateral(parts)


def _answer(kind: str, body: str, signature: str) -> bytes:
    return f'{{"{kind}":{body},"signature":"{signature}"}}'.encode()


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
