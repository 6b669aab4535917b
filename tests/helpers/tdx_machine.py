"""A simulated machine for the TDX tests: one PKI for all of them, made once per run."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from cryptography import x509

from attestation.errors import VerificationError
from attestation.formats.collateral import Collateral
from attestation.platforms.tdx.quote import TdQuote, parse_quote, write_pem
from attestation.trust.roots import Roots
from enclave.simulator import pki
from enclave.simulator.intel import SimulatedIntel

NOW = 1_795_000_000
DAY = 86_400
NOBODY: frozenset[bytes] = frozenset()


@functools.cache
def machine(label: str = "SIMULATED") -> SimulatedIntel:
    return SimulatedIntel(Path(tempfile.mkdtemp()), NOW, label=label)


def roots(intel: SimulatedIntel | None = None) -> Roots:
    return Roots(frozenset({(intel or machine()).root_spki}), NOBODY, NOBODY, NOBODY, True)


def collateral(**options: object) -> Collateral:
    return Collateral(machine().collateral(NOW, **options))


@functools.cache
def good_bytes() -> bytes:
    return machine().quote(report_data=b"\x07" * 64, mr_td=b"\x01" * 48)


def good() -> TdQuote:
    return parse_quote(good_bytes())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(write_pem(pki.der(item)) for item in certificates)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def refuses(code: str, kind: type = VerificationError):
    """pytest.raises for a verification error with exactly this code."""
    return pytest.raises(kind, check=lambda error: error.code == code)
