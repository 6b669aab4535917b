"""Certificates inside other things: read in any number, shown by name and dates."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import warnings
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from attestation.errors import ParseError
from attestation.x509.certificate import load_any
from client_sdk.inspection.result import ExplainedField

MAX_CERTIFICATES = 64
PEM = b"-----BEGIN CERTIFICATE-----"
_XML = re.compile(rb"X509Certificate>([A-Za-z0-9+/=\s]{1,16384})</")
_BLOCK = re.compile(PEM + rb"[A-Za-z0-9+/=\s]{1,16384}?-----END CERTIFICATE-----")


def pem_certificates(pem: bytes) -> tuple[bytes, ...]:
    """DER of every certificate in a PEM text. Raises ParseError."""
    if pem.count(b"-----BEGIN") > MAX_CERTIFICATES:
        raise ParseError(
            f"PEM: expected at most {MAX_CERTIFICATES} certificates in one text, got more"
        )
    try:
        with warnings.catch_warnings():
            # AMD gives every chip key the serial number 0, which the library warns of.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            loaded = x509.load_pem_x509_certificates(pem)
    except Exception:  # the library lets several kinds through
        raise ParseError("PEM: expected certificates, got other text") from None
    return tuple(item.public_bytes(Encoding.DER) for item in loaded)


def pem_inside(data: bytes) -> tuple[bytes, ...]:
    """DER of the PEM certificates that stand anywhere in these bytes and can be read."""
    found: list[bytes] = []
    for block in _BLOCK.findall(data)[:MAX_CERTIFICATES]:
        try:
            found += pem_certificates(block)
        except ParseError:
            continue
    return tuple(found)


def base64_inside(xml: bytes) -> tuple[bytes, ...]:
    """DER of the certificates of an XML signature (ds:X509Certificate), readable or not."""
    found = []
    for text in _XML.findall(xml)[:MAX_CERTIFICATES]:
        with contextlib.suppress(binascii.Error):
            found.append(base64.b64decode(b"".join(text.split()), validate=True))
    return tuple(found)


def certificate_fields(ders: Iterable[bytes]) -> list[ExplainedField]:
    """A line for each certificate: whose it is, and when it is valid."""
    fields = []
    for number, der in enumerate(ders):
        item = load_any(der)
        if item is None:
            fields.append(
                ExplainedField(f"certificate {number}", f"{len(der)} bytes", "unreadable")
            )
            continue
        window = (
            f"valid {item.not_valid_before_utc:%Y-%m-%d} to {item.not_valid_after_utc:%Y-%m-%d}"
        )
        fields.append(
            ExplainedField(f"certificate {number}", item.subject.rfc4514_string(), window)
        )
    return fields
