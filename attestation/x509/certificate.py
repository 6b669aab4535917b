"""Reading X.509 certificates: strict DER, every field that is judged later read once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.errors import ParseError
from attestation.formats.dates import Window, seconds
from attestation.formats.digests import sha256
from attestation.remembered import remembered

MIN_RSA_BITS = 2048
REMEMBERED_CERTIFICATES = 512
"""Some ten authorities stand above the machines of each kind."""
MAX_REMEMBERED_BYTES = 4096
"""Of one certificate: the vendors' have at most 2048."""
_VERSION, _INTEGER, _SEQUENCE, _SET = 0xA0, 0x02, 0x30, 0x31
_TEXTS = b"\x0c\x13"
"""UTF8String and PrintableString."""
_X520 = bytes.fromhex("06035504")
"""Before the last byte of 2.5.4.x: common name, country and the like."""
_SERIAL_ZERO = bytes.fromhex("a003020102020100")
"""Version 3, serial number 0: so AMD's chip keys begin."""
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_HASHES: dict[str, hashes.HashAlgorithm] = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384()}
_ECDSA = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ECDSA with SHA-256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ECDSA with SHA-384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ECDSA with SHA-512",
}


def _short(der: bytes) -> bytes | None:
    return sha256(der) if len(der) <= MAX_REMEMBERED_BYTES else None


@remembered(most=REMEMBERED_CERTIFICATES, key=_short)
def load_certificate(der: bytes) -> x509.Certificate:
    """One certificate of any vendor. Raises ParseError."""
    try:
        certificate = _parsed(der)
        _read(certificate, der)
    except Exception as error:  # the library lets several kinds through
        raise ParseError(
            f"certificate: expected X.509 in strict DER, got other bytes ({type(error).__name__})"
        ) from None
    if not der.endswith(b"\0" + certificate.signature):  # a BIT STRING of whole bytes
        raise ParseError(
            "certificate: expected a signature of whole bytes, got a BIT STRING with unused bits"
        )
    return certificate


def _parsed(der: bytes) -> x509.Certificate:
    if _SERIAL_ZERO not in der[:24]:
        return x509.load_der_x509_certificate(der)
    with warnings.catch_warnings():  # which the library warns of
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(der)


def _read(certificate: x509.Certificate, der: bytes) -> None:
    """Touch what the library reads only when asked; what is malformed must fail now."""
    issuer, subject, _ = fields(der)
    if not is_plain(issuer):
        _ = certificate.issuer
    if not is_plain(subject):
        _ = certificate.subject
    _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    certificate.public_key()


def is_plain(name: bytes) -> bool:
    """Whether a Name (DER) is seen to be one that the library can read: attributes of X.520, one in
    each set, with ASCII text. To have the library read it costs ten times as much."""
    at = 2
    while at < len(name):
        size = name[at + 1]
        if (name[at], name[at + 2], name[at + 3]) != (_SET, _SEQUENCE, size - 2):
            return False
        if name[at + 4 : at + 8] != _X520 or name[at + 9] not in _TEXTS:
            return False
        at += 2 + size
    return name.isascii()


def fields(der: bytes) -> tuple[bytes, bytes, bytes]:
    """Issuer, subject and SubjectPublicKeyInfo, each as whole DER, of a certificate that the
    library has parsed (RFC 5280 §4.1): after version, serial number, algorithm; around the dates.
    """
    at = _inside(der, _inside(der, 0))
    for _ in range(3 if der[at] == _VERSION else 2):
        at = _behind(der, at)
    dates = _behind(der, at)
    subject = _behind(der, dates)
    key = _behind(der, subject)
    return der[at:dates], der[subject:key], der[key : _behind(der, key)]


def list_issuer(der: bytes) -> bytes:
    """The same of a revocation list (RFC 5280 §5.1): after version and algorithm."""
    at = _inside(der, _inside(der, 0))
    for _ in range(2 if der[at] == _INTEGER else 1):
        at = _behind(der, at)
    return der[at : _behind(der, at)]


def _inside(der: bytes, at: int) -> int:
    """Where the content of the DER element at `at` begins."""
    return at + 2 + (der[at + 1] & 0x7F if der[at + 1] & 0x80 else 0)


def _behind(der: bytes, at: int) -> int:
    """Where the DER element at `at` has ended."""
    start = _inside(der, at)
    return start + (int.from_bytes(der[at + 2 : start], "big") if start > at + 2 else der[at + 1])


def load_any(der: bytes) -> x509.Certificate | None:
    """A certificate of any issuer; None where it cannot be read."""
    try:
        return load_certificate(der)
    except ParseError:
        return None


def common_name(certificate: x509.Certificate) -> str:
    """Empty where the subject has none, or more than one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 (32 bytes) of the whole certificate."""
    return certificate.fingerprint(hashes.SHA256())


def spki_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 (32 bytes) of the SubjectPublicKeyInfo: what `Roots` pins."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki)


def window(certificate: x509.Certificate) -> Window:
    """notBefore and notAfter in Unix seconds."""
    return seconds(certificate.not_valid_before_utc), seconds(certificate.not_valid_after_utc)


def expires(chain: Iterable[x509.Certificate]) -> int:
    """The Unix second at which the first certificate of a chain ends."""
    return min(window(certificate)[1] for certificate in chain)


def key_kind(certificate: x509.Certificate) -> str:
    """ "P-256", "P-384", "P-521" or "RSA"; any other key, and a short RSA one, in words."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA" if key.key_size >= MIN_RSA_BITS else f"RSA of {key.key_size} bits"
    return type(key).__name__


def algorithm(signed: x509.Certificate | x509.CertificateRevocationList) -> str:
    """How it was signed: "ECDSA with SHA-384", "RSA-PSS with SHA-384", else the OID."""
    oid = signed.signature_algorithm_oid
    if oid == SignatureAlgorithmOID.RSASSA_PSS:
        try:
            digest = signed.signature_hash_algorithm
        except UnsupportedAlgorithm:
            digest = None
        return f"RSA-PSS with {digest.name.upper().replace('SHA', 'SHA-') if digest else 'unknown'}"
    return _ECDSA.get(oid, f"algorithm {oid.dotted_string}")


def has_signed(key: object, signature: bytes, data: bytes) -> bool:
    """Whether a P-256 or P-384 key signed `data` with the SHA-2 hash of its size.

    `signature` is r ‖ s, big-endian, each as long as the curve's order (64 or 96 bytes). Any
    other key or length has signed nothing.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    size = (key.curve.key_size + 7) // 8
    digest = _HASHES.get(_CURVES.get(key.curve.name, ""))
    if digest is None or len(signature) != 2 * size:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
    except (InvalidSignature, ValueError):
        return False
    return True
