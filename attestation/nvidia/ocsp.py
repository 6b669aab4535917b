"""OCSP (RFC 6960): whether a certificate was revoked, by a dated answer in collateral.

Each answer stands under "nvidia/ocsp/<SHA-256 of the certificate>". It must be signed by
the certificate's issuer or by a responder that issuer named for it (OCSPSigning), and
be current. No answer is no pass.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.collateral import Collateral
from attestation.digests import sha256
from attestation.errors import NotAuthentic, Refused

MAX_CLOCK_SKEW_S = 300


def part_name(certificate: x509.Certificate) -> str:
    """Where a certificate's answer stands in collateral."""
    return "nvidia/ocsp/" + sha256(certificate.public_bytes(Encoding.DER)).hex()


def check(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    collateral: Collateral,
    *,
    now: int,
) -> int:
    """When the answer "good" expires (Unix seconds). Raises NotAuthentic or Refused("gpu", …)."""
    data = collateral.parts.get(part_name(certificate))
    if data is None:
        raise Refused("gpu", "revocation-unknown", "no OCSP answer for a device certificate")
    response = _load(data)
    _check_signer(response, issuer, now)
    single = _single(response, certificate, issuer)
    _check_status(single)
    return _check_dates(single, now)


def _load(data: bytes) -> ocsp.OCSPResponse:
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Refused("gpu", "revocation-unknown", "the OCSP responder gave no answer")
        _ = response.tbs_response_bytes, response.certificates, response.extensions
    except ValueError:
        raise NotAuthentic("gpu", "ocsp-malformed", "not an OCSP response") from None
    return response


def _check_signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: int) -> None:
    signer = issuer
    if response.certificates:
        signer = response.certificates[0]
        _check_delegate(signer, issuer, now)
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512
    ):
        raise NotAuthentic("gpu", "ocsp-signature", "expected an ECDSA answer with SHA-2")
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise NotAuthentic("gpu", "ocsp-signature", "the OCSP answer's signature fails") from None


def _check_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: int) -> None:
    try:
        signer.verify_directly_issued_by(issuer)
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise NotAuthentic("gpu", "ocsp-responder", "not a responder of this issuer") from None
    start, end = signer.not_valid_before_utc.timestamp(), signer.not_valid_after_utc.timestamp()
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage or not start <= now <= end:
        raise NotAuthentic("gpu", "ocsp-responder", "the responder may not sign OCSP answers now")


def _single(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    for single in response.responses:
        builder = ocsp.OCSPRequestBuilder()
        request = builder.add_certificate(certificate, issuer, single.hash_algorithm).build()
        if (single.serial_number, single.issuer_key_hash, single.issuer_name_hash) == (
            request.serial_number,
            request.issuer_key_hash,
            request.issuer_name_hash,
        ):
            return single
    raise NotAuthentic("gpu", "ocsp-other", "the OCSP answer is about another certificate")


def _check_status(single: ocsp.OCSPSingleResponse) -> None:
    if single.certificate_status is ocsp.OCSPCertStatus.GOOD:
        return
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        raise Refused("gpu", "revocation-unknown", "the responder does not know the certificate")
    if single.revocation_reason is x509.ReasonFlags.certificate_hold:
        raise Refused("gpu", "certificate-hold", "a device certificate is on hold")
    raise NotAuthentic("gpu", "revoked", "a device certificate was revoked")


def _check_dates(single: ocsp.OCSPSingleResponse, now: int) -> int:
    start, end = single.this_update_utc.timestamp(), single.next_update_utc
    if end is None or not start - MAX_CLOCK_SKEW_S <= now <= end.timestamp():
        raise Refused("gpu", "ocsp-expired", "the OCSP answer is not current")
    return int(end.timestamp())
