"""Intel TDX behind the interface of `attestation.platforms.cpu`."""

from __future__ import annotations

import hashlib
import hmac

from attestation.errors import NotAuthentic, NotChecked, ParseError
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import INIT_DONE, Evidence
from attestation.formats.measurement import launch_id
from attestation.formats.platform import TDX
from attestation.platforms.cpu import TcbAppraisal
from attestation.platforms.tdx.attributes import check_attributes
from attestation.platforms.tdx.chain import PckIdentity, check_signature
from attestation.platforms.tdx.eventlog import replay
from attestation.platforms.tdx.quote import parse_quote
from attestation.platforms.tdx.tcb import check_status, check_tcb
from attestation.trust.policy import Policy, accept
from attestation.trust.roots import Roots

FAMILY = "tdx"


class TdxCpu:
    """A quote. Its own bytes bring the certificates."""

    platform = TDX.name

    def __init__(self, quote: bytes) -> None:
        self.bytes = quote
        self.quote = parse_quote(quote)
        self._pck: PckIdentity | None = None

    @classmethod
    def parse(cls, evidence: Evidence) -> TdxCpu:
        if evidence.cpu_certificates:
            text = (
                "Evidence key 4: expected no CPU certificates for TDX, whose quote holds them, got "
            )
            text += str(len(evidence.cpu_certificates))
            raise ParseError(text)
        return cls(evidence.quote)

    @property
    def report_data(self) -> bytes:
        return self.quote.report_data

    @property
    def registers(self) -> tuple[bytes, ...]:
        quote = self.quote
        return (quote.mr_td, quote.rt_mr0, quote.rt_mr1, quote.rt_mr2)

    @property
    def launch_id(self) -> bytes | None:
        quote = self.quote
        return launch_id(TDX.name, (quote.mr_config_id, quote.mr_owner, quote.mr_owner_config))

    @property
    def signed_region(self) -> bytes:
        return self.quote.signed_region

    @property
    def pck(self) -> PckIdentity:
        """Raises NotChecked before check_signature has passed."""
        if self._pck is None:
            raise NotChecked("expected the quote's signature to have passed; it has not")
        return self._pck

    @property
    def certificates_expire(self) -> int:
        return self.pck.not_after

    def check_signature(self, *, roots: Roots, now: int) -> str:
        self._pck = check_signature(self.quote, roots=roots, now=now)
        return f"quote signed; chain ends at a pinned root; FMSPC {self._pck.fmspc.hex()}"

    def check_attributes(self, policy: Policy) -> str:
        check_attributes(self.quote, launch_named=policy.names_launch(self.launch_id))
        accept("cpu-attributes", "family", FAMILY, policy.families)
        accept("cpu-attributes", "instance", self.pck.ppid.hex(), policy.instances)
        return "debug off; no migration; no service TD; launch fields zero or named"

    def check_tcb(self, collateral: Collateral, policy: Policy, *, now: int) -> TcbAppraisal:
        result = check_tcb(self.bytes, collateral, root_der=self.pck.root_der, now=now)
        check_status(
            result,
            accepted=policy.tcb_status,
            refused_advisories=policy.refuse_advisories,
            min_evaluation_number=policy.min_tcb_evaluation_number,
        )
        number = result.tcb_evaluation_number
        text = f"TCB {result.status}, evaluation number {number}"
        return TcbAppraisal(text, result.issued, result.expires)

    def check_boot(self, evidence: Evidence, host_config: bytes) -> str:
        quote = self.quote
        replayed = replay(evidence.ccel, evidence.rtmr3_events)
        quoted = (quote.rt_mr0, quote.rt_mr1, quote.rt_mr2, quote.rt_mr3)
        for index, (got, expected) in enumerate(zip(replayed, quoted, strict=True)):
            if not hmac.compare_digest(got, expected):
                text = (
                    f"RTMR{index}: expected {expected.hex()} as quoted, the event log "
                    f"replays to {got.hex()}"
                )
                raise NotAuthentic("measurement", "log-mismatch", text)
        events = tuple(hashlib.sha384(part).digest() for part in (host_config, INIT_DONE))
        if evidence.rtmr3_events != events:
            text = (
                "RTMR3 events: expected the digest of the served host config and then "
                "of init-done, "
            )
            text += f"got {len(evidence.rtmr3_events)} event(s) with other digests"
            raise NotAuthentic("measurement", "host-config-mismatch", text)
        return "event log replays to RTMR0-3"

    def answer(self, quote: bytes) -> TdxCpu:
        return TdxCpu(quote)

    def same_machine(self, other: TdxCpu) -> bool:
        """A PCK certificate may have been renewed between the two: its dates do not count."""
        return self.pck.platform == other.pck.platform and (
            self.quote.identity == other.quote.identity
        )
