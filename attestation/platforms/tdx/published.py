"""What Intel publishes about its platforms, each document by itself.

`check_tcb` judges a quote by all of them together; these checks are for an archive and for
readers of files: who signed this TCB info, QE identity or CRL, and is it current?
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509

from attestation.errors import NotAuthentic, ParseError
from attestation.formats.dates import Window, lapse
from attestation.platforms.tdx import tcb
from attestation.trust.roots import Roots
from attestation.x509 import crl as crls
from attestation.x509.certificate import common_name, has_signed, load_any, window
from attestation.x509.profile import INTEL, INTEL_CRL
from attestation.x509.walk import check_chain

_SIGNER = "TCB Signing"


def check_answer(
    name: str, data: bytes, certificates: Iterable[bytes], *, roots: Roots, now: int
) -> int:
    """A TCB info or QE identity as Intel's service answers; `name` is its part name.

    `certificates` are DER in any order. Returns the Unix second of its next update. Raises
    NotAuthentic, or Refused where it is not current at `now`.
    """
    signed = tcb.signed_answer(name, data)
    dates = tcb.dates(signed, name)
    pool = _readable(certificates)
    named = [item for item in pool if _SIGNER in common_name(item)]
    text = signed.text.encode()
    signers = [item for item in named if has_signed(item.public_key(), signed.signature, text)]
    if not signers:
        raise _unsigned(
            f"{name}: expected the signature of a TCB-signing certificate that is here, got "
            "none that holds",
            bool(named),
        )
    # Intel renews the certificate for the same key.
    signer = max(signers, key=lambda item: lapse(window(item), now) is None)
    check_chain((signer, _issuer(pool, signer.issuer)), INTEL, pinned=roots.intel, now=now)
    return _current(name, dates, now)


def check_crl(data: bytes, certificates: Iterable[bytes], *, roots: Roots, now: int) -> int:
    """A DER CRL of a PCK CA or of the root. Returns and raises as `check_answer`."""
    try:
        crl = crls.load_crl(data)
    except ParseError as error:
        raise NotAuthentic(tcb.STEP, "collateral-malformed", str(error)) from None
    pool = _readable(certificates)
    issuer = _issuer(pool, crl.issuer)
    root = _issuer(pool, issuer.issuer)
    chain = (issuer,) if issuer == root else (issuer, root)
    check_chain(chain, INTEL_CRL, pinned=roots.intel, now=now)
    if not crls.is_signed(crl, issuer, INTEL_CRL):
        raise _unsigned(
            f"CRL: expected the signature of {common_name(issuer)!r}, got one that does not hold",
            True,
        )
    return _current("the CRL", crls.window(crl), now)


def _readable(certificates: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Those that can be read: among files given together, others may be broken."""
    return tuple(item for item in map(load_any, certificates) if item is not None)


def _current(name: str, dates: Window, now: int) -> int:
    tcb.check_current(name, dates, now)
    return dates[1]


def _issuer(pool: tuple[x509.Certificate, ...], name: x509.Name) -> x509.Certificate:
    found = next((item for item in pool if item.subject == name), None)
    if found is None:
        raise _unsigned(
            f"issuer: expected a certificate of {name.rfc4514_string()}, got none", False
        )
    return found


def _unsigned(message: str, given: bool) -> NotAuthentic:
    return NotAuthentic(tcb.STEP, "collateral-signature" if given else "signer-missing", message)
