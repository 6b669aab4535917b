"""What Intel publishes about its platforms, each document by itself.

`check_tcb` judges a quote by all of them together; these checks are for an archive and for
readers of files: who signed this TCB info, QE identity or CRL, and is it current?
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from cryptography import x509

from attestation.errors import NotAuthentic, Refused
from attestation.platforms.tdx import chain as chains
from attestation.platforms.tdx import tcb
from attestation.trust.roots import Roots

_SIGNER = "TCB Signing"


def check_answer(
    name: str, data: bytes, certificates: Iterable[bytes], *, roots: Roots, now: int
) -> int:
    """A TCB info or QE identity as Intel's service answers; `name` is its part name.

    `certificates` are DER in any order. Returns the Unix second of its next update. Raises
    NotAuthentic, or Refused where it is not current at `now`.
    """
    signed = tcb.signed_answer(name, data)
    start, end = tcb.dates(signed, name)
    pool = _readable(certificates)
    named = [item for item in pool if _SIGNER in chains.common_name(item)]
    signers = [item for item in named if _is_by(signed, item)]
    if not signers:
        raise _unsigned("none of the TCB-signing certificates given signed it", bool(named))
    signer = max(signers, key=lambda item: _holds(item, now))  # Intel renews it for the same key
    chains.check_pinned((signer, _issuer(pool, signer.issuer)), roots=roots, now=now)
    return _current(start, end, now)


def check_crl(data: bytes, certificates: Iterable[bytes], *, roots: Roots, now: int) -> int:
    """A DER CRL of a PCK CA or of the root. Returns and raises as `check_answer`."""
    start, end = tcb.crl_dates(data, "the CRL")
    crl = x509.load_der_x509_crl(data)
    pool = _readable(certificates)
    issuer = _issuer(pool, crl.issuer)
    root = _issuer(pool, issuer.issuer)
    chains.check_authority(issuer, root, roots=roots, now=now)
    if not crl.is_signature_valid(chains.public_key(issuer)):
        raise _unsigned("its issuer did not sign the CRL", True)
    return _current(start, end, now)


def _readable(certificates: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Those that can be read: among files given together, others may be broken."""
    pool: list[x509.Certificate] = []
    for der in certificates:
        with contextlib.suppress(NotAuthentic):
            pool += chains.load_certificates((der,))
    return tuple(pool)


def _current(start: int, end: int, now: int) -> int:
    if not start <= now <= end:
        code = "collateral-not-yet-valid" if now < start else "collateral-expired"
        raise Refused(tcb.STEP, code, f"expected a time in {start}..{end}, got {now}")
    return end


def _holds(certificate: x509.Certificate, now: int) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start.timestamp() <= now <= end.timestamp()


def _issuer(pool: tuple[x509.Certificate, ...], name: x509.Name) -> x509.Certificate:
    found = next((item for item in pool if item.subject == name), None)
    if found is None:
        raise _unsigned(f"no certificate of {name.rfc4514_string()} was given", False)
    return found


def _is_by(signed: tcb.Signed, signer: x509.Certificate) -> bool:
    try:
        chains.verify(signer, signed.signature, signed.text.encode(), "collateral-signature", "")
    except NotAuthentic:
        return False
    return True


def _unsigned(message: str, given: bool) -> NotAuthentic:
    return NotAuthentic(tcb.STEP, "collateral-signature" if given else "signer-missing", message)
