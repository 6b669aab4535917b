"""How long a piece of collateral counts: what expires when, before any verification."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import ocsp

from attestation.errors import ParseError
from attestation.formats.dates import Window, seconds, stamp
from attestation.x509.certificate import window as certificate_window
from attestation.x509.crl import load_crl
from attestation.x509.crl import window as crl_window

_CERTIFICATE = re.compile(
    rb"<(?:\w+:)?X509Certificate>([A-Za-z0-9+/=\s]+)</(?:\w+:)?X509Certificate>"
)


def window(name: str, data: bytes) -> Window:
    """(from, until) in Unix seconds, by the part's own dates. Nothing here is verified.

    Raises ParseError for a part whose name or content is unknown.
    """
    try:
        found = _window(name, data)
        _ = stamp(found[0]), stamp(found[1])  # years that people can read
        return found
    except Exception:  # the libraries let several kinds through
        raise ParseError(
            f"collateral: {name}: expected a known part with dates of its own, got another"
        ) from None


def _window(name: str, data: bytes) -> Window:
    vendor, _, kind = name.partition("/")
    if name in ("intel/tcb_info", "intel/qe_identity"):
        return _intel(data)
    if vendor == "intel" and kind.endswith("_chain"):
        return _certificates(x509.load_pem_x509_certificates(data))
    if kind.endswith("_crl") or kind.startswith("crl/"):
        return crl_window(load_crl(data))
    if kind.startswith("ocsp/"):
        single = next(iter(ocsp.load_der_ocsp_response(data).responses))
        if single.next_update_utc is None:
            raise ValueError("no date")
        return seconds(single.this_update_utc), seconds(single.next_update_utc)
    if kind.startswith("rim/"):
        ders = [_pem(found) for found in _CERTIFICATE.findall(data)]
        return _certificates([x509.load_pem_x509_certificate(pem) for pem in ders])
    raise ValueError(name)


def _intel(data: bytes) -> Window:
    body = next(iter(json.loads(data).values()))
    dates = (datetime.fromisoformat(body[key]) for key in ("issueDate", "nextUpdate"))
    start, end = (seconds(date if date.tzinfo else date.replace(tzinfo=UTC)) for date in dates)
    return start, end


def _certificates(chain: list[x509.Certificate]) -> Window:
    windows = [certificate_window(item) for item in chain]
    return max(start for start, _ in windows), min(end for _, end in windows)


def _pem(body: bytes) -> bytes:
    text = b"".join(body.split())
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
