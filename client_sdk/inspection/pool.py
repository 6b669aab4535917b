"""Certificates that stand beside reports: each is read once, and found by what names it.

A report's own fields decide which key is tried on it. If they name no key, keys are tried in
turn, and all tries for one file are bounded together, because reports and certificates multiply.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import Protocol

from cryptography import x509

from attestation.errors import NotChecked
from attestation.platforms import snp
from attestation.platforms.snp.chain import hardware_id
from attestation.platforms.snp.report import VLEK
from attestation.x509.certificate import common_name, has_signed, key_kind, load_any

MAX_TRIES = 2048
"""Signatures tried for one file: about three seconds. Chains of GPUs stand with their own
reports, and a VCEK is found by its chip, so that one try for each report is the rule."""

_CHIP = re.compile(r"SEV-V([CL])EK$")
SNP_CHAIN = 3


class SignedReport(Protocol):
    """What a processor or a device signed: `signature` is r ‖ s, over `signed_region`."""

    @property
    def signature(self) -> bytes: ...

    @property
    def signed_region(self) -> bytes: ...


class SignatureTries:
    """Counts the signatures that are tried for one file. Raises NotChecked beyond MAX_TRIES."""

    def __init__(self) -> None:
        self._count = 0

    def one_more(self) -> None:
        self._count += 1
        if self._count > MAX_TRIES:
            raise NotChecked(
                f"too many to try: expected at most {MAX_TRIES} pairs of a signature and a key for "
                "one file, got more; give fewer reports and certificates together"
            )

    def signed(self, certificate: x509.Certificate, report: SignedReport) -> bool:
        """Whether this certificate's key signed the report, with P-384."""
        if key_kind(certificate) != "P-384":
            return False
        self.one_more()
        return has_signed(certificate.public_key(), report.signature, report.signed_region)


class CertificatePool:
    """Readable certificates by their DER, in their order; chip keys by chip, VLEKs apart."""

    def __init__(self, certificates: tuple[bytes, ...]) -> None:
        read = ((der, load_any(der)) for der in certificates)
        self.loaded = {der: item for der, item in read if item is not None}
        self.by_subject: dict[x509.Name, list[bytes]] = defaultdict(list)
        self.by_chip: dict[bytes, list[bytes]] = defaultdict(list)
        self.chips: list[bytes] = []
        self.vleks: list[bytes] = []
        for der, item in self.loaded.items():
            self.by_subject[item.subject].append(der)
            if (match := _CHIP.search(common_name(item))) is None:
                continue
            self.chips.append(der)
            if match[1] == "L":
                self.vleks.append(der)
            else:
                self.by_chip[hardware_id(item)].append(der)

    def upwards(self, der: bytes, length: int) -> tuple[bytes, ...]:
        """This certificate and its issuers by name, as far as they were given."""
        chain = [der]
        while len(chain) < length:
            issuers = self.by_subject.get(self.loaded[chain[-1]].issuer)
            if not issuers:
                break
            chain.append(issuers[0])
        return tuple(chain)


@lru_cache(maxsize=8)  # all reports of a file ask for the same one
def certificate_pool(certificates: tuple[bytes, ...]) -> CertificatePool:
    """The certificates (DER) of one file, and of those given beside it."""
    return CertificatePool(certificates)


def chip_chain(
    report: snp.SnpReport, certificates: tuple[bytes, ...], tries: SignatureTries
) -> tuple[bytes, ...]:
    """Chip key, ASK and ARK for `snp.check_signature`: of the key that signed the report, else of
    the chip that it names or the only one at hand, so that the check can say what is wrong.

    Raises NotChecked where they are not there, and where none of several signed a report that names
    no chip key.
    """
    pool = certificate_pool(certificates)
    named = _named(report, pool)
    chains = {der: pool.upwards(der, SNP_CHAIN) for der in named}
    whole = [der for der, chain in chains.items() if len(chain) == SNP_CHAIN]
    for der in whole:
        if tries.signed(pool.loaded[der], report):
            return chains[der]
    unnamed = report.signer == VLEK or not any(report.chip_id)
    if whole and unnamed and len(pool.chips) > 1:
        raise NotChecked(
            f"none of the {len(whole)} chip certificates that were tried has signed this report, "
            "which names none: the report is forged, or its certificate was not given"
        )
    leaf = next(iter(named or pool.chips), None)
    chain = pool.upwards(leaf, SNP_CHAIN) if leaf else ()
    if len(chain) < SNP_CHAIN:
        raise NotChecked(
            "needs the chip certificate (VCEK or VLEK), its ASK and its ARK, and not all were "
            "given; name their files in the same call"
        )
    if not named and len(pool.chips) > 1:
        raise NotChecked(
            f"none of the {len(pool.chips)} chip certificates that were given is this chip's"
        )
    return chain


def _named(report: snp.SnpReport, pool: CertificatePool) -> list[bytes]:
    """The keys that may have signed: a VCEK is its chip's, a VLEK its provider's for any chip."""
    if report.signer == VLEK and pool.vleks:
        return pool.vleks
    if not any(report.chip_id):  # hidden
        return pool.chips
    return pool.by_chip.get(report.chip_id, [])
