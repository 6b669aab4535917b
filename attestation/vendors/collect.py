"""Which collateral a piece of Evidence needs, and getting all of it.

The evidence's own signatures are checked first: what a forged machine names is not asked
for. What comes back is for the verifier to judge.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509

from attestation import nvidia
from attestation.errors import ParseError
from attestation.formats.collateral import Collateral, Fetcher
from attestation.formats.evidence import Evidence
from attestation.formats.platform import SNP, TDX
from attestation.platforms import snp, tdx
from attestation.trust.roots import Roots
from attestation.vendors.fetch import Services, Vendors, together


@dataclass(frozen=True)
class CollectedCollateral:
    """`missing`: names of parts that a vendor does not have, and its answer in words."""

    collateral: Collateral
    missing: Mapping[str, str]


def collect(
    evidence: Evidence, fetcher: Fetcher, *, services: Services, roots: Roots, now: int
) -> CollectedCollateral:
    """Everything that steps 4 and 8 will ask for at `now` (Unix seconds).

    What a vendor does not have is named beside the rest. Raises Unavailable, ParseError, or
    what the signature checks raise.
    """
    vendors = Vendors(fetcher, services)
    parts = [CPU_COLLATERAL[evidence.platform](evidence, vendors, roots, now)]
    for device in evidence.devices:
        nonce = nvidia.parse_report(device.report).nonce
        checked = nvidia.check_device(device, nonce=nonce, roots=roots, now=now)
        parts.append(_gpu(checked, vendors, roots, now))
    return CollectedCollateral(together(*parts), MappingProxyType(vendors.missing))


def _tdx(evidence: Evidence, vendors: Vendors, roots: Roots, now: int) -> dict[str, bytes]:
    quote = tdx.parse_quote(evidence.quote)
    signer = tdx.check_signature(quote, roots=roots, now=now)
    issuer = x509.load_der_x509_certificate(quote.pck_chain[1]).subject.rfc4514_string()
    for ca in ("platform", "processor"):
        if f"pck {ca} ca" in issuer.lower():
            return vendors.intel(signer.fmspc, ca)
    raise ParseError(
        "TDX quote: expected a PCK of Intel's platform or processor CA, got another issuer"
    )


def _snp(evidence: Evidence, vendors: Vendors, roots: Roots, now: int) -> dict[str, bytes]:
    report = snp.parse_report(evidence.quote)
    key = snp.check_signature(report, evidence.cpu_certificates, roots=roots, now=now)
    return vendors.amd(key.family)


def _gpu(
    device: nvidia.CheckedDevice, vendors: Vendors, roots: Roots, now: int
) -> dict[str, bytes]:
    ids = [name for name, _ in nvidia.rim_names(device)]
    parts = vendors.nvidia_rims(ids)
    chains = [device.certificates[1:]]
    for data in parts.values():
        chains.append(nvidia.read_rim(data, pinned=roots.nvidia_rim, now=now).certificates)
    return parts | vendors.nvidia_ocsp(_pairs(chains))


def _pairs(
    chains: list[tuple[x509.Certificate, ...]],
) -> Iterator[tuple[x509.Certificate, x509.Certificate]]:
    """Each certificate with its issuer, once."""
    seen = set()
    for chain in chains:
        for pair in itertools.pairwise(chain):
            if pair not in seen:
                seen.add(pair)
                yield pair


CPU_COLLATERAL = MappingProxyType({TDX.name: _tdx, SNP.name: _snp})
"""What is fetched for each platform's CPU."""
