"""A TDX machine with Intel's names under a root of its own, for the contract's tests.

The contract pins Intel's names and its quoting enclave's signer, and the root by its key:
so all but the keys is as Intel makes it.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from attestation.platforms.tdx import parse_quote, pck
from enclave.simulator import pki
from enclave.simulator.intel import SimulatedIntel, sgx_extension

NOW = 1_795_000_000
ROOT, PLATFORM, PROCESSOR, PCK = (
    f"Intel SGX {what}"
    for what in ("Root CA", "PCK Platform CA", "PCK Processor CA", "PCK Certificate")
)
QE_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")


def name(common: str) -> x509.Name:
    """In the order in which Intel writes it."""
    parts = (
        (NameOID.COMMON_NAME, common),
        (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def day(year: int) -> datetime.datetime:
    return datetime.datetime(year, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)


class IntelLike(SimulatedIntel):
    """Quotes signed up to a root that has Intel's name and another key."""

    def __init__(self, *, authority: str = PLATFORM, **changes: Any) -> None:
        super().__init__(Path(tempfile.mkdtemp()), NOW)
        keys = self._keys
        self.qe: dict[str, Any] = {}
        self._root = self.certify(ROOT, ROOT, "root", "root")
        self._platform = self.certify(authority, ROOT, "platform", "root")
        self._pck = self.certify(PCK, authority, "pck", "platform", **changes)
        self.root_key = pki.raw_point(keys["root"])
        self.pck_x, self.ca_x = (pki.raw_point(keys[k])[:32] for k in ("pck", "platform"))

    def certify(
        self,
        subject: str,
        issuer: str,
        key: str,
        signer: str,
        *,
        years: tuple[int, int] = (2020, 2040),
        extensions: Iterable[bytes] | None = None,
    ) -> x509.Certificate:
        """`extensions` are contents of the SGX extension; the genuine one unless said."""
        if extensions is None:
            extensions = (sgx_extension(self.ppid),) if subject == PCK else ()
        builder = (
            x509.CertificateBuilder(
                name(issuer),
                name(subject),
                self._keys[key].public_key(),
                x509.random_serial_number(),
            )
            .not_valid_before(day(years[0]))
            .not_valid_after(day(years[1]))
        )
        for number, content in enumerate(extensions):
            oid = x509.ObjectIdentifier(pck.OID + (f".{number}" if number else ""))
            builder = builder.add_extension(
                x509.UnrecognizedExtension(oid, content), critical=False
            )
        usage = x509.BasicConstraints(subject != PCK, None)
        return builder.add_extension(usage, critical=True).sign(self._keys[signer], hashes.SHA256())

    def qe_report(self, attestation_key: bytes, auth_data: bytes) -> bytes:
        report = bytearray(super().qe_report(attestation_key, auth_data))
        report[128:160] = QE_SIGNER
        for at, value in self.qe.items():
            report[int(at) : int(at) + len(value)] = value
        return bytes(report)

    def bent(self, quote: bytes, qe: dict[int, bytes] | None = None, **changes: Any) -> bytes:
        """The quote with other header or body fields or QE bytes, signed anew."""
        self.qe = dict(qe or {})
        try:
            return self.forge(replace(parse_quote(quote), **changes))
        finally:
            self.qe = {}
