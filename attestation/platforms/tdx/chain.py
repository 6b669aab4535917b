"""Who signed a quote: body ← attestation key ← QE report ← PCK leaf ← pinned root.

Everything is P-256 with SHA-256. The chain comes with the quote and is worth nothing
but for its last key, whose SHA-256 is pinned. Step "cpu-signature" of the plan.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import ParseError
from attestation.platforms.tdx import pck
from attestation.platforms.tdx.quote import TdQuote
from attestation.trust.roots import Roots
from attestation.x509.certificate import expires, has_signed
from attestation.x509.profile import INTEL
from attestation.x509.walk import check_chain, load_chain

STEP = "cpu-signature"
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_QE_ATTRIBUTES = 48
_QE_REPORT_DATA = slice(320, 384)
_QE_INIT, _QE_DEBUG = 0x01, 0x02


@dataclass(frozen=True)
class PckIdentity:
    """What the PCK certificate of a quote names: FMSPC (6 bytes), PPID (16), PCE-ID (2); and the
    root of its chain (DER)."""

    fmspc: bytes
    ppid: bytes
    pce_id: bytes
    root_der: bytes
    not_after: int
    """Unix seconds at which the first certificate of the chain ends."""

    @property
    def platform(self) -> tuple[bytes, bytes, bytes]:
        """What names the CPU, whichever certificate says it."""
        return self.fmspc, self.ppid, self.pce_id


def check_signature(quote: TdQuote, *, roots: Roots, now: int) -> PckIdentity:
    """Every signature holds, from the quote's body by way of QE report and PCK to a root in
    `roots.intel`. Source: Intel TDX DCAP quote; Intel SGX PCK Certificate and CRL Profile.

    `now` is Unix seconds. Raises NotAuthentic("cpu-signature", ...).
    """
    chain = load_chain(quote.pck_chain, INTEL)
    check_chain(chain, INTEL, pinned=roots.intel, now=now)
    _check_qe(quote, chain[0])
    if not has_signed(_attestation_key(quote), quote.signature, quote.signed_region):
        raise INTEL.broken(
            "quote-signature",
            "quote: expected a signature by its attestation key, got one that does not hold",
        )
    extension = _extension(chain[0])
    return PckIdentity(
        fmspc=extension.fmspc,
        ppid=extension.ppid,
        pce_id=extension.pce_id,
        root_der=quote.pck_chain[-1],
        not_after=expires(chain),
    )


def _check_qe(quote: TdQuote, signer: x509.Certificate) -> None:
    if quote.qe_vendor_id != QE_VENDOR_INTEL:
        raise INTEL.broken(
            "qe-vendor",
            f"quote header: expected the QE vendor id of Intel, {QE_VENDOR_INTEL.hex()}, "
            f"got {quote.qe_vendor_id.hex()}",
        )
    report = quote.qe_report
    if not has_signed(signer.public_key(), quote.qe_report_signature, report):
        raise INTEL.broken(
            "qe-signature", "QE report: expected a signature by the PCK, got one that does not hold"
        )
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if report[_QE_REPORT_DATA] != bound:
        raise INTEL.broken(
            "qe-binding",
            "QE report: expected report_data over the quote's attestation key, got other bytes",
        )
    flags = report[_QE_ATTRIBUTES]
    if not flags & _QE_INIT or flags & _QE_DEBUG:
        raise INTEL.broken(
            "qe-debug", f"QE report: expected attributes INIT without DEBUG, got byte {flags:#04x}"
        )


def _attestation_key(quote: TdQuote) -> ec.EllipticCurvePublicKey:
    point = b"\x04" + quote.attestation_key
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise INTEL.broken(
            "attestation-key",
            "quote: expected an attestation key on P-256, got a point that is not",
        ) from None


def _extension(leaf: x509.Certificate) -> pck.PckExtension:
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(pck.OID)).value
    except x509.ExtensionNotFound:
        raise INTEL.broken(
            "not-a-pck",
            f"PCK certificate: expected Intel's SGX extension {pck.OID} in the leaf, got none",
        ) from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise INTEL.broken(
            "not-a-pck",
            "PCK certificate: expected the SGX extension as opaque bytes, got another form",
        )
    try:
        return pck.parse_extension(value.value)
    except ParseError as error:
        raise INTEL.broken("not-a-pck", str(error)) from None
