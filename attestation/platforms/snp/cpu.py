"""AMD SEV-SNP behind the interface of `attestation.platforms.cpu`."""

from __future__ import annotations

import hmac

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import Evidence
from attestation.formats.measurement import launch_id
from attestation.formats.platform import SNP
from attestation.platforms.cpu import TcbAppraisal
from attestation.platforms.snp.chain import ChipKey, check_signature
from attestation.platforms.snp.check import (
    check_alias_free,
    check_attributes,
    check_revocation,
    check_tcb,
)
from attestation.platforms.snp.report import parse_report
from attestation.trust.policy import Policy, accept
from attestation.trust.roots import Roots


class SnpCpu:
    """A report, and the certificates that come beside it: chip key, ASK, ARK."""

    platform = SNP.name

    def __init__(self, report: bytes, certificates: tuple[bytes, ...]) -> None:
        self.report = parse_report(report)
        self.certificates = certificates
        self._key: ChipKey | None = None

    @classmethod
    def parse(cls, evidence: Evidence) -> SnpCpu:
        if evidence.ccel or evidence.rtmr3_events:
            raise ParseError(
                "Evidence key 5: expected no event logs for SNP, which has no RTMRs, got some"
            )
        return cls(evidence.quote, evidence.cpu_certificates)

    @property
    def report_data(self) -> bytes:
        return self.report.report_data

    @property
    def registers(self) -> tuple[bytes, ...]:
        return (self.report.measurement,)

    @property
    def launch_id(self) -> bytes | None:
        report = self.report
        keys = (report.id_key_digest, report.author_key_digest)
        return launch_id(SNP.name, (report.family_id, report.image_id, *keys))

    @property
    def signed_region(self) -> bytes:
        return self.report.signed_region

    @property
    def key(self) -> ChipKey:
        """Raises NotChecked before check_signature has passed."""
        if self._key is None:
            raise NotChecked("expected the report's signature to have passed; it has not")
        return self._key

    @property
    def certificates_expire(self) -> int:
        return self.key.expires

    def check_signature(self, *, roots: Roots, now: int) -> str:
        self._key = check_signature(self.report, self.certificates, roots=roots, now=now)
        return f"report signed by a {self._key.signer_name} of {self._key.family}"

    def check_attributes(self, policy: Policy) -> str:
        check_attributes(self.report, launch_named=policy.names_launch(self.launch_id))
        accept("cpu-attributes", "family", self.key.family, policy.families)
        accept("cpu-attributes", "signer", self.key.signer_name, policy.snp_signers)
        accept("cpu-attributes", "instance", self.report.chip_id.hex(), policy.instances)
        return f"debug off; no migration; VMPL 0; ID block absent or named; {self.key.family}"

    def check_tcb(self, collateral: Collateral, policy: Policy, *, now: int) -> TcbAppraisal:
        text = check_tcb(self.report, self.key, floor=policy.snp_min_tcb)
        if policy.snp_alias_check:
            check_alias_free(self.report)
        issued, expires = check_revocation(self.key, collateral, now=now)
        return TcbAppraisal(f"committed TCB: {text}; not revoked", issued, expires)

    def check_boot(self, evidence: Evidence, host_config: bytes) -> str:
        if not hmac.compare_digest(self.report.host_data, sha256(host_config)):
            expected, got = sha256(host_config).hex(), self.report.host_data.hex()
            text = f"HOST_DATA: expected SHA-256 of the served host config, {expected}, got {got}"
            raise NotAuthentic("measurement", "host-config-mismatch", text)
        return "HOST_DATA names the host config"

    def answer(self, quote: bytes) -> SnpCpu:
        return SnpCpu(quote, self.certificates)

    def same_machine(self, other: SnpCpu) -> bool:
        same = self.key.certificate == other.key.certificate
        return same and self.report.identity == other.report.identity
