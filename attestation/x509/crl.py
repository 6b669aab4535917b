"""Revocation lists: strict DER, signed by the authority that they name."""

from __future__ import annotations

from cryptography import x509

from attestation.errors import ParseError
from attestation.formats.dates import Window, seconds
from attestation.x509.certificate import algorithm, is_plain, list_issuer
from attestation.x509.profile import Profile
from attestation.x509.walk import check_role


def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """A whole list with a next update. Raises ParseError.

    A critical extension would narrow what the list speaks of (a part of the certificates, or
    changes alone); none of the vendors' lists has one (RFC 5280 §5.2).
    """
    try:
        crl = x509.load_der_x509_crl(der)
        if not is_plain(list_issuer(der)):
            _ = crl.issuer
        _ = crl.last_update_utc, len(crl)  # the library reads them when asked
        end, extensions = crl.next_update_utc, list(crl.extensions)
    except Exception as error:  # the library lets several kinds through
        raise ParseError(
            f"revocation list: expected strict DER, got other bytes ({type(error).__name__})"
        ) from None
    if end is None:
        raise ParseError("revocation list: expected the time of the next update, got none")
    critical = [item.oid.dotted_string for item in extensions if item.critical]
    if critical:
        raise ParseError(f"revocation list: expected no critical extension, got {critical[0]}")
    return crl


def window(crl: x509.CertificateRevocationList) -> Window:
    """thisUpdate and nextUpdate in Unix seconds."""
    end = crl.next_update_utc
    if end is None:
        raise ParseError("revocation list: expected the time of the next update, got none")
    return seconds(crl.last_update_utc), seconds(end)


def is_signed(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, profile: Profile
) -> bool:
    """Whether this authority signed the list, with an algorithm of the profile (RFC 5280 §5).

    Raises NotAuthentic("key-usage") and such where the authority may not sign lists.
    """
    check_role(issuer, profile, 0)
    if crl.issuer != issuer.subject or algorithm(crl) not in profile.algorithms:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except Exception:  # an algorithm the library lacks is no ValueError
        return False
