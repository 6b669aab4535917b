"""OCSP (RFC 6960): whether a certificate was revoked, by a dated answer in collateral.

Each answer stands under "nvidia/ocsp/<SHA-256 of the certificate>". It must be signed by
the certificate's issuer or by a responder that issuer named for it (OCSPSigning), and
be current. A certificate without an answer does not pass.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import NotAuthentic, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.dates import lapse, seconds
from attestation.formats.digests import sha256
from attestation.x509.certificate import common_name, load_certificate
from attestation.x509.profile import NVIDIA_OCSP
from attestation.x509.walk import check_under

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
    """A certificate is not revoked, by a current OCSP answer of its issuer (RFC 6960).

    Returns the Unix second at which that answer expires. Raises NotAuthentic or
    Refused("gpu", …).
    """
    data = collateral.parts.get(part_name(certificate))
    if data is None:
        raise Refused(
            "gpu",
            "revocation-unknown",
            f"{_name(certificate)}: expected an OCSP answer in the collateral, got none; "
            "fetch it anew",
        )
    response = _load(data)
    _check_signer(response, issuer, now)
    single = _single(response, certificate, issuer)
    _check_status(single, certificate)
    return _check_dates(single, now)


def _load(data: bytes) -> ocsp.OCSPResponse:
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Refused(
                "gpu",
                "revocation-unknown",
                f"OCSP answer: expected SUCCESSFUL, got {response.response_status.name}",
            )
        _ = response.tbs_response_bytes, response.signature_hash_algorithm
        for certificate in response.certificates:
            load_certificate(certificate.public_bytes(Encoding.DER))
        singles = list(response.responses)
        for single in singles:
            _ = single.hash_algorithm, single.next_update_utc, single.this_update_utc
        extensions = [*response.extensions]
        if len(singles) == 1:  # the library reads them of a lone answer only
            extensions += response.single_extensions
    except Refused:
        raise
    except Exception:  # the library lets several kinds through
        raise NotAuthentic(
            "gpu",
            "ocsp-malformed",
            "OCSP answer: expected an OCSP response in DER, got other bytes",
        ) from None
    if any(extension.critical for extension in extensions):
        raise NotAuthentic(
            "gpu", "ocsp-malformed", "OCSP answer: expected no critical extension, got one"
        )
    return response


def _check_signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: int) -> None:
    signer = issuer
    if response.certificates and response.certificates[0] != issuer:
        signer = response.certificates[0]
        check_under(signer, issuer, NVIDIA_OCSP, now=now)
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512
    ):
        raise NotAuthentic(
            "gpu",
            "ocsp-signature",
            "OCSP answer: expected a signature by ECDSA with SHA-2, got another algorithm",
        )
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise NotAuthentic(
            "gpu",
            "ocsp-signature",
            "OCSP answer: expected a signature by the issuer or its responder, got one "
            "that does not hold",
        ) from None


def _single(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    found = []
    for single in response.responses:
        builder = ocsp.OCSPRequestBuilder()
        request = builder.add_certificate(certificate, issuer, single.hash_algorithm).build()
        if (single.serial_number, single.issuer_key_hash, single.issuer_name_hash) == (
            request.serial_number,
            request.issuer_key_hash,
            request.issuer_name_hash,
        ):
            found.append(single)
    if len(found) != 1:  # two answers could contradict each other
        text = f"{_name(certificate)}: expected one OCSP answer about it, got {len(found)}"
        raise NotAuthentic("gpu", "ocsp-other", text)
    return found[0]


def _name(certificate: x509.Certificate) -> str:
    return f"certificate {common_name(certificate)!r}"


def _check_status(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate) -> None:
    if single.certificate_status is ocsp.OCSPCertStatus.GOOD:
        return
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
        raise Refused(
            "gpu",
            "revocation-unknown",
            f"{_name(certificate)}: expected the OCSP status good, got unknown",
        )
    if single.revocation_reason is x509.ReasonFlags.certificate_hold:
        raise Refused(
            "gpu",
            "certificate-hold",
            f"{_name(certificate)}: expected the OCSP status good, got on hold",
        )
    raise NotAuthentic(
        "gpu", "revoked", f"{_name(certificate)}: expected the OCSP status good, got revoked"
    )


def _check_dates(single: ocsp.OCSPSingleResponse, now: int) -> int:
    if (end := single.next_update_utc) is None:
        raise Refused("gpu", "ocsp-expired", "OCSP answer: expected a next update, got none")
    window = seconds(single.this_update_utc), seconds(end)
    if found := lapse(window, now, skew=MAX_CLOCK_SKEW_S):
        word, text = found
        raise Refused("gpu", f"ocsp-{word}", f"OCSP answer: {text}")
    return window[1]
