"""The CPUs that Umay verifies, behind one face: a folder and a row here for each.

A new platform also has a row in `attestation.formats.platform` for its bytes, and one in
`attestation.vendors.collect` for what is fetched for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attestation.formats.evidence import Evidence
from attestation.formats.platform import SNP, TDX
from attestation.platforms.cpu import Cpu


def _tdx(evidence: Evidence) -> Cpu:
    from attestation.platforms.tdx.cpu import TdxCpu

    return TdxCpu.parse(evidence)


def _snp(evidence: Evidence) -> Cpu:
    from attestation.platforms.snp.cpu import SnpCpu

    return SnpCpu.parse(evidence)


CPUS: Mapping[str, Callable[[Evidence], Cpu]] = MappingProxyType({TDX.name: _tdx, SNP.name: _snp})
"""Each loads its own platform alone."""


def parse_cpu(evidence: Evidence) -> Cpu:
    """The quote or report of this Evidence. Raises ParseError."""
    return CPUS[evidence.platform](evidence)
