"""Keys and certificates of the simulated vendors.

Only private keys are stored (0600, in the state directory). Certificates are pure
functions of keys and names: fixed dates, fixed serial numbers, deterministic ECDSA. So
one state directory means one PKI, byte for byte, after any restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from attestation.errors import UsageError
from attestation.files import create, own_directory, read_secret
from attestation.formats.dates import lapse, seconds

NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2044, 1, 1, tzinfo=UTC)


FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""When certificates of devices end: they have no better knowledge (RFC 5280, 4.1.2.5)."""

Form = tuple[type[x509.ExtensionType], ...]
_BOTH_KEYS = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
_AUTHORITY = (x509.BasicConstraints, x509.KeyUsage)
_REVOCATION = (x509.CRLDistributionPoints, x509.AuthorityInformationAccess)
INTEL: Form = (
    x509.AuthorityKeyIdentifier,
    x509.CRLDistributionPoints,
    x509.SubjectKeyIdentifier,
    x509.KeyUsage,
    x509.BasicConstraints,
)
NVIDIA_ROOT: Form = (*_AUTHORITY, *_BOTH_KEYS)
NVIDIA_CA: Form = (*_AUTHORITY, *_REVOCATION, *_BOTH_KEYS)
NVIDIA_DEVICE: Form = (*_AUTHORITY, *_BOTH_KEYS)
NVIDIA_LEAF: Form = (x509.KeyUsage, *_BOTH_KEYS)
NVIDIA_SIGNER: Form = (*_BOTH_KEYS, *_AUTHORITY, x509.AuthorityInformationAccess)
"""Which extensions stand in real certificates, in their order."""

_CRITICAL = (x509.KeyUsage, x509.BasicConstraints)
_URL = x509.UniformResourceIdentifier("http://simulated.invalid/")
_LISTS = x509.CRLDistributionPoints([x509.DistributionPoint([_URL], None, None, None)])
_RESPONDER = x509.AuthorityInformationAccess(
    [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, _URL)]
)


def check_reach(now: int) -> None:
    """Raises UsageError where the PKI is not valid at `now` (Unix seconds)."""
    if found := lapse((seconds(NOT_BEFORE), seconds(NOT_AFTER)), now):
        raise UsageError(f"the simulated PKI is {found[1]}")


def load_or_make_key(
    state_dir: Path, name: str, curve: ec.EllipticCurve | None = None
) -> ec.EllipticCurvePrivateKey:
    """The key `name` of this state directory, made on first use (P-256 unless said)."""
    path = own_directory(state_dir) / f"{name}.key"
    pem = read_secret(path)
    if pem is None:
        made = ec.generate_private_key(curve or ec.SECP256R1())
        create(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pem = read_secret(path) or b""  # of two starters the first wins
    try:
        key = load_pem_private_key(pem, None)
    except ValueError:
        raise UsageError(f"{path}: expected a key in PEM; remove it to make a new one") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: expected an elliptic-curve key")
    return key


def name(common_name: str, serial: str | None = None) -> x509.Name:
    attributes = [
        (NameOID.COMMON_NAME, common_name),
        (NameOID.ORGANIZATION_NAME, "Umay simulator"),
        (NameOID.LOCALITY_NAME, "Nowhere"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    ]
    if serial is not None:
        attributes.append((NameOID.SERIAL_NUMBER, serial))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def certify(
    subject: str,
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    path_length: int | None = None,
    extensions: Iterable[x509.ExtensionType] = (),
    not_after: datetime = NOT_AFTER,
    device: str | None = None,
    form: Form = INTEL,
) -> x509.Certificate:
    """A certificate for `key`. A CA where `path_length` is given; self-signed without issuer.

    Only Intel's certificates say the path length; NVIDIA's leave it open. `device` is the
    serial number of what it names, in hex; `form` the usual extensions in their vendor's
    order, before those in `extensions`.
    """
    is_ca = path_length is not None
    named = name(subject, device)
    usual: dict[type[x509.ExtensionType], x509.ExtensionType] = {
        x509.AuthorityKeyIdentifier: x509.AuthorityKeyIdentifier.from_issuer_public_key(
            signer.public_key()
        ),
        x509.AuthorityInformationAccess: _RESPONDER,
        x509.CRLDistributionPoints: _LISTS,
        x509.SubjectKeyIdentifier: x509.SubjectKeyIdentifier.from_public_key(key),
        x509.KeyUsage: key_usage(is_ca, crl_sign=is_ca and form is not NVIDIA_DEVICE),
        x509.BasicConstraints: x509.BasicConstraints(is_ca, path_length if form is INTEL else None),
    }
    builder = x509.CertificateBuilder(
        named if issuer is None else issuer.subject, named, key, _serial(subject, key)
    )
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(not_after)
    for extension in (*(usual[kind] for kind in form), *extensions):
        builder = builder.add_extension(extension, critical=type(extension) in _CRITICAL)
    return builder.sign(signer, hash_of(signer), ecdsa_deterministic=True)


def revocation_list(
    issuer: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    *,
    issued: datetime,
    next_update: datetime,
    revoked: Iterable[x509.Certificate] = (),
    others: int = 0,
) -> bytes:
    """A DER CRL that lists `revoked`, and `others` that are nobody's; each with its reason."""
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        x509.CertificateRevocationListBuilder(issuer.subject, issued, next_update)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(authority, critical=False)
    )
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    strangers = (int.from_bytes(_digest(b"stranger %d" % n)[:19], "big") for n in range(others))
    for serial in (*strangers, *(certificate.serial_number for certificate in revoked)):
        entry = x509.RevokedCertificateBuilder(serial, issued).add_extension(reason, critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    crl = builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(Encoding.DER)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """r‖s, big-endian, over the hash of the key's curve: the form both vendors' reports carry.

    64 bytes for P-256, 96 for P-384.
    """
    signature = key.sign(data, ec.ECDSA(hash_of(key), deterministic_signing=True))
    size = (key.key_size + 7) // 8
    return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(signature))


def hash_of(key: ec.EllipticCurvePrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """SHA-256 for P-256, SHA-384 for P-384."""
    return hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()


def raw_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """x‖y, 64 bytes for P-256."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point[1:]


def key_usage(is_ca: bool, *, crl_sign: bool | None = None) -> x509.KeyUsage:
    """An authority signs certificates, and lists unless told otherwise; others sign messages."""
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca if crl_sign is None else crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _serial(subject: str, key: ec.EllipticCurvePublicKey) -> int:
    """20 bytes long, as the vendors' are."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = _digest(subject.encode() + b"\0" + spki)
    return int.from_bytes(bytes([0x40 | digest[0] & 0x3F]) + digest[1:20], "big")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
