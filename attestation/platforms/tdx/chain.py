"""Who signed a quote: body ← attestation key ← QE report ← PCK leaf ← pinned root.

Everything is P-256 with SHA-256. The chain comes with the quote and is worth nothing
but for its last key, whose SHA-256 is pinned. Step "cpu-signature" of the plan.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.errors import NotAuthentic, ParseError
from attestation.platforms.tdx import pck
from attestation.platforms.tdx.quote import TdQuote
from attestation.trust.roots import Roots

STEP = "cpu-signature"
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_QE_ATTRIBUTES = 48
_QE_REPORT_DATA = slice(320, 384)
_QE_INIT, _QE_DEBUG = 0x01, 0x02
_READ_EXTENSIONS = frozenset({x509.BasicConstraints.oid, x509.KeyUsage.oid})


@dataclass(frozen=True)
class Pck:
    """Who signed: FMSPC (6 bytes), PPID (16), PCE-ID (2), and the root it hangs from (DER)."""

    fmspc: bytes
    ppid: bytes
    pce_id: bytes
    root_der: bytes
    not_after: int
    """Unix seconds at which the first certificate of the chain ends."""


def check_signature(quote: TdQuote, *, roots: Roots, now: int) -> Pck:
    """Every signature from the quote's body up to a root in `roots.intel`.

    `now` is Unix seconds. Raises NotAuthentic("cpu-signature", ...).
    """
    chain = load_certificates(quote.pck_chain)
    check_pinned(chain, roots=roots, now=now)
    _check_qe(quote, public_key(chain[0]))
    attestation_key = _raw_key(quote.attestation_key)
    _verify(attestation_key, quote.signature, quote.signed_region, "quote-signature", "the quote")
    extension = _extension(chain[0])
    return Pck(
        fmspc=extension.fmspc,
        ppid=extension.ppid,
        pce_id=extension.pce_id,
        root_der=quote.pck_chain[-1],
        not_after=min(int(item.not_valid_after_utc.timestamp()) for item in chain),
    )


def spki_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's SubjectPublicKeyInfo: what `Roots` pins."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def check_pinned(chain: tuple[x509.Certificate, ...], *, roots: Roots, now: int) -> None:
    """Leaf first, pinned root last: links, roles, dates. Raises NotAuthentic."""
    check_root(chain[-1], roots)
    _check_chain(chain, now)


def check_authority(
    authority: x509.Certificate, root: x509.Certificate, *, roots: Roots, now: int
) -> None:
    """A CA that is the pinned root or directly under it. Raises NotAuthentic."""
    check_root(root, roots)
    public_key(authority)
    _check_validity(authority, now)
    _check_role(authority, 1)
    _check_issued(authority, root)


def verify(
    certificate: x509.Certificate, signature: bytes, data: bytes, code: str, what: str
) -> None:
    """Raises NotAuthentic(code) unless this P-256 certificate's key signed `data`, raw r‖s."""
    _verify(public_key(certificate), signature, data, code, what)


def load_certificates(chain: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """DER to X.509, every field that is read later read once. Raises NotAuthentic."""
    try:
        certificates = tuple(x509.load_der_x509_certificate(der) for der in chain)
        for certificate in certificates:  # cryptography reads these only when asked
            _ = certificate.extensions, certificate.subject, certificate.issuer
            certificate.public_key()
    except Exception as error:  # cryptography lets several kinds through
        raise _broken("bad-certificate", f"malformed ({type(error).__name__})") from None
    return certificates


def check_root(root: x509.Certificate, roots: Roots) -> None:
    """Raises NotAuthentic unless the root's key is pinned."""
    got = spki_digest(root)
    if got in roots.intel:
        return
    if "SIMULATED" in common_name(root):
        text = "this is a simulated machine; this policy accepts vendor roots only"
        raise _broken("simulated-root", text)
    expected = ", ".join(sorted(digest.hex() for digest in roots.intel))
    raise _broken("wrong-root", f"expected root key {expected}, got {got.hex()}")


def common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return "" if not names else str(names[0].value)


def _check_chain(chain: tuple[x509.Certificate, ...], now: int) -> None:
    for certificate in chain:
        public_key(certificate)
    issuers = (*chain[1:], chain[-1])
    for depth, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True)):
        _check_validity(certificate, now)
        _check_role(certificate, depth)
        _check_issued(certificate, issuer)


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _broken("wrong-curve", f"expected a P-256 key in {common_name(certificate)!r}")
    return key


def _check_validity(certificate: x509.Certificate, now: int) -> None:
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    if not start <= now <= end:
        name, window = common_name(certificate), f"{int(start)}..{int(end)}"
        raise _broken("certificate-expired", f"{name!r}: expected a time in {window}, got {now}")


def _check_role(certificate: x509.Certificate, depth: int) -> None:
    """CA bits and path length: depth 0 is the leaf, 1 its issuer, 2 the root."""
    name = common_name(certificate)
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _READ_EXTENSIONS:
            oid = extension.oid.dotted_string
            raise _broken("unknown-extension", f"{name!r}: unknown critical extension {oid}")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise _broken("not-a-ca", f"{name!r}: expected basic constraints and key usage") from None
    if constraints.ca != (depth > 0):
        raise _broken("not-a-ca", f"{name!r}: expected CA {depth > 0}, got {constraints.ca}")
    if constraints.path_length is not None and constraints.path_length < depth - 1:
        raise _broken(
            "path-length", f"{name!r}: path length {constraints.path_length} is too short"
        )
    if not (usage.key_cert_sign if depth else usage.digital_signature):
        raise _broken("key-usage", f"{name!r}: its key usage does not allow what it signed")


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    name = common_name(certificate)
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise _broken("wrong-algorithm", f"{name!r}: expected ECDSA with SHA-256")
    if certificate.issuer != issuer.subject:
        got = common_name(issuer)
        raise _broken("chain-order", f"{name!r}: its issuer is not the next certificate, {got!r}")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        text = f"{name!r}: signature of its issuer does not verify"
        raise _broken("chain-signature", text) from None


def _check_qe(quote: TdQuote, pck_key: ec.EllipticCurvePublicKey) -> None:
    if quote.qe_vendor_id != QE_VENDOR_INTEL:
        raise _broken("qe-vendor", f"expected Intel's QE, got vendor {quote.qe_vendor_id.hex()}")
    report = quote.qe_report
    _verify(pck_key, quote.qe_report_signature, report, "qe-signature", "the QE report")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if report[_QE_REPORT_DATA] != bound:
        raise _broken("qe-binding", "the QE report does not name this attestation key")
    flags = report[_QE_ATTRIBUTES]
    if not flags & _QE_INIT or flags & _QE_DEBUG:
        raise _broken("qe-debug", f"expected a production QE, got attribute byte {flags:#04x}")


def _raw_key(raw: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError:
        raise _broken("attestation-key", "the attestation key is no point on P-256") from None


def _verify(
    key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, code: str, what: str
) -> None:
    """Raw r‖s, 32 bytes each, big-endian."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _broken(code, f"the signature over {what} does not verify") from None


def _extension(leaf: x509.Certificate) -> pck.PckExtension:
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(pck.OID)).value
    except x509.ExtensionNotFound:
        raise _broken("not-a-pck", "the leaf has no SGX extension: no PCK certificate") from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise _broken("not-a-pck", "the leaf's SGX extension has an unexpected form")
    try:
        return pck.parse_extension(value.value)
    except ParseError as error:
        raise _broken("not-a-pck", str(error)) from None


def _broken(code: str, message: str) -> NotAuthentic:
    return NotAuthentic(STEP, code, message)
