"""A certificate revocation list in whichever form a service writes it.

Intel's own service answers in DER, its PCCS in hex, other caches in PEM or base64. What the
verifier reads is DER; anything else is named here, where the address is known.
"""

from __future__ import annotations

import base64
import binascii
import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import ParseError
from attestation.formats.collateral import FetchedAnswer
from attestation.net.error_text import answer_summary

_PEM = b"-----BEGIN X509 CRL-----"
_HEX = re.compile(rb"[0-9A-Fa-f]+")


def der(answer: FetchedAnswer, *, what: str, url: str) -> bytes:
    """The list in DER, unverified. Raises ParseError, which says what came from where."""
    try:
        data = _binary(answer.body)
        x509.load_der_x509_crl(data)
    except (ValueError, binascii.Error):
        got = answer_summary(answer.headers.get("content-type", ""), answer.body)
        raise ParseError(
            f"{what}: expected a revocation list (DER, PEM, hex or base64) from {url}, got {got}"
        ) from None
    return data


def _binary(body: bytes) -> bytes:
    if body[:1] == b"\x30":
        return body  # an ASN.1 SEQUENCE; as text this is "0", with which no other form begins
    if _PEM in body:
        return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
    text = b"".join(body.strip().strip(b'"').split())
    if _HEX.fullmatch(text) and len(text) % 2 == 0:
        return bytes.fromhex(text.decode())
    return base64.b64decode(text, validate=True)
