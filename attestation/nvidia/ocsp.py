"""OCSP (RFC 6960): whether a certificate was revoked, by a dated answer in collateral.

Each answer stands under "nvidia/ocsp/<SHA-256 of the certificate>". It must be signed by
the certificate's issuer or by a responder that issuer named for it (OCSPSigning), and
be current. A certificate without an answer does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import NotAuthentic, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.dates import Window, lapse, seconds
from attestation.formats.digests import sha256
from attestation.remembered import remembered
from attestation.x509.certificate import common_name, fingerprint, load_certificate
from attestation.x509.profile import NVIDIA_OCSP
from attestation.x509.walk import check_dates, check_link

MAX_CLOCK_SKEW_S = 300
REMEMBERED_ANSWERS = 1024
"""Some ten for each machine of eight GPUs and four switches are shared; the rest is its own."""


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
    answer = _answered(data, certificate, issuer)
    if answer.responder is not None:
        check_dates((answer.responder,), NVIDIA_OCSP, now=now)
    _check_status(answer, certificate)
    return _check_dates(answer, now)


@dataclass(frozen=True)
class _Answer:
    """What a signed answer says of one certificate. `responder` signed it where the certificate's
    issuer did not; `window` is None where no next update is named."""

    responder: x509.Certificate | None
    status: ocsp.OCSPCertStatus
    reason: x509.ReasonFlags | None
    window: Window | None


@remembered(
    most=REMEMBERED_ANSWERS,
    key=lambda data, certificate, issuer: (
        sha256(data),
        fingerprint(certificate),
        fingerprint(issuer),
    ),
)
def _answered(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate) -> _Answer:
    """All of `check` that does not depend on the time: the answer is about this certificate, and
    signed by its issuer or a responder of that one."""
    response = _load(data)
    responder = _check_signer(response, issuer)
    single = _single(response, certificate, issuer)
    end = single.next_update_utc
    return _Answer(
        responder,
        single.certificate_status,
        single.revocation_reason,
        None if end is None else (seconds(single.this_update_utc), seconds(end)),
    )


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


def _check_signer(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> x509.Certificate | None:
    """The responder that signed in the issuer's name; None where the issuer did it itself."""
    responder = None
    if response.certificates and response.certificates[0] != issuer:
        # the one object of these bytes, by which its link is remembered
        responder = load_certificate(response.certificates[0].public_bytes(Encoding.DER))
        check_link(responder, issuer, NVIDIA_OCSP)
    signer = responder or issuer
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
    return responder


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


def _check_status(answer: _Answer, certificate: x509.Certificate) -> None:
    if answer.status is ocsp.OCSPCertStatus.GOOD:
        return
    if answer.status is ocsp.OCSPCertStatus.UNKNOWN:
        raise Refused(
            "gpu",
            "revocation-unknown",
            f"{_name(certificate)}: expected the OCSP status good, got unknown",
        )
    if answer.reason is x509.ReasonFlags.certificate_hold:
        raise Refused(
            "gpu",
            "certificate-hold",
            f"{_name(certificate)}: expected the OCSP status good, got on hold",
        )
    raise NotAuthentic(
        "gpu", "revoked", f"{_name(certificate)}: expected the OCSP status good, got revoked"
    )


def _check_dates(answer: _Answer, now: int) -> int:
    if answer.window is None:
        raise Refused("gpu", "ocsp-expired", "OCSP answer: expected a next update, got none")
    if found := lapse(answer.window, now, skew=MAX_CLOCK_SKEW_S):
        word, text = found
        raise Refused("gpu", f"ocsp-{word}", f"OCSP answer: {text}")
    return answer.window[1]
