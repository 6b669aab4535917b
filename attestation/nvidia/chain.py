"""Certificate chains of NVIDIA: a device's five certificates, and those inside RIMs.

All of P-384 with SHA-384. A chain comes with the evidence; only its root is pinned. A
critical extension that this module does not judge refuses the certificate (RFC 5280 §4.2).
"""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from attestation.errors import NotAuthentic
from attestation.formats.digests import sha256

STEP = "gpu"
SCALAR_BYTES = 48
_JUDGED = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}


def load(chain: tuple[bytes, ...], *, length: int | None = None) -> tuple[x509.Certificate, ...]:
    """DER, leaf first. Raises NotAuthentic("gpu", "bad-certificate")."""
    if length is not None and len(chain) != length:
        raise broken("bad-chain", f"expected {length} certificates, got {len(chain)}")
    try:
        certificates = tuple(x509.load_der_x509_certificate(der) for der in chain)
        for certificate, der in zip(certificates, chain, strict=True):
            # The library reads these only when asked.
            _ = certificate.extensions, certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            certificate.public_key()
            if not der.endswith(b"\0" + certificate.signature):  # a BIT STRING of whole bytes
                raise ValueError
    except Exception as error:  # the library lets several kinds through
        raise broken("bad-certificate", f"malformed ({type(error).__name__})") from None
    return certificates


def check(chain: tuple[x509.Certificate, ...], *, pinned: frozenset[bytes], now: int) -> None:
    """Every link, role and date, up to a root whose SPKI SHA-256 is pinned.

    `now` is Unix seconds. Raises NotAuthentic("gpu", ...).
    """
    check_links(chain, pinned=pinned)
    for certificate in chain:
        check_dates(certificate, now)


def check_links(chain: tuple[x509.Certificate, ...], *, pinned: frozenset[bytes]) -> None:
    """All of `check` that does not depend on the time."""
    _check_root(chain[-1], pinned)
    issuers = (*chain[1:], chain[-1])
    for depth, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True)):
        _check_role(certificate, depth)
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            raise broken("wrong-hash", f"expected ECDSA with SHA-384 on {name(certificate)!r}")
        check_issuer(certificate, issuer)


@lru_cache(maxsize=1024)  # the same few authorities stand above every device
def check_issuer(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Names and signature. Raises NotAuthentic("gpu", "bad-chain")."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # an algorithm the library lacks is no ValueError
        raise broken("bad-chain", f"{name(certificate)!r} is not issued by the next") from None


def verify(certificate: x509.Certificate, signature: bytes, message: bytes, what: str) -> None:
    """A raw P-384/SHA-384 signature, r ‖ s of 96 bytes. Raises NotAuthentic."""
    key = public_key(certificate)
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise broken("bad-signature", f"the signature of {what} does not hold") from None


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise broken("wrong-curve", f"expected a P-384 key in {name(certificate)!r}")
    return key


def name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def spki_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: what `Roots` pins."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki)


def broken(code: str, message: str) -> NotAuthentic:
    return NotAuthentic(STEP, code, message)


def _check_root(root: x509.Certificate, pinned: frozenset[bytes]) -> None:
    got = spki_digest(root)
    if got in pinned:
        return
    if "SIMULATED" in name(root):
        text = "this is a simulated device; this policy accepts vendor roots only"
        raise broken("simulated-root", text)
    expected = ", ".join(sorted(digest.hex() for digest in pinned)) or "none"
    raise broken("wrong-root", f"expected root key {expected}, got {got.hex()}")


def check_dates(certificate: x509.Certificate, now: int) -> None:
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    if not start <= now <= end:
        window = f"{int(start)}..{int(end)}"
        raise broken("certificate-expired", f"{name(certificate)!r}: {window} is not now, {now}")


def _check_role(certificate: x509.Certificate, depth: int) -> None:
    public_key(certificate)
    check_critical(certificate)
    authority, path = _constraints(certificate)
    if authority != (depth > 0) or not _may_sign(certificate, authority):
        raise broken("bad-chain", f"{name(certificate)!r}: authority and leaf are mixed up")
    if path is not None and depth - 1 > path:
        raise broken("bad-chain", f"{name(certificate)!r}: the chain below is too long")


def check_critical(certificate: x509.Certificate) -> None:
    """Raises NotAuthentic("gpu", "bad-chain") for a critical extension nobody judges here."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _JUDGED:
            what = extension.oid.dotted_string
            raise broken("bad-chain", f"{name(certificate)!r}: unknown critical extension {what}")


def _constraints(certificate: x509.Certificate) -> tuple[bool, int | None]:
    """Whether it is an authority, and over how many others."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False, None
    return constraints.ca, constraints.path_length


def _may_sign(certificate: x509.Certificate, authority: bool) -> bool:
    """By its key usage: certificates if it is an authority, else messages."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return usage.key_cert_sign if authority else usage.digital_signature
