"""The CPU's half of Evidence, with one interface for every platform.

Each platform parses its own quote or report and answers the plan's CPU steps. Steps keep
their names and order; only what a step looks at differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence
from attestation.trust.policy import Policy
from attestation.trust.roots import Roots


@dataclass(frozen=True)
class TcbAppraisal:
    """The appraisal of a TCB (RFC 9334: appraisal of Evidence): `text` says the TCB in words;
    `issued` and `expires` (Unix seconds) bound the collateral that it was judged by."""

    text: str
    issued: int
    expires: int


class Cpu(Protocol):
    """One parsed quote or report. Methods raise for the step they serve."""

    platform: str

    @property
    def report_data(self) -> bytes:
        """64 bytes."""

    @property
    def registers(self) -> tuple[bytes, ...]:
        """What `measurement_digest` covers, 48 bytes each."""

    @property
    def launch_id(self) -> bytes | None:
        """What the host set at launch, as of `measurement.launch_id`."""

    @property
    def signed_region(self) -> bytes:
        """What the hardware signed: the statement's content."""

    @property
    def certificates_expire(self) -> int:
        """When the first of the chain does, Unix seconds. Needs check_signature to have passed."""

    def check_signature(self, *, roots: Roots, now: int) -> str:
        """Step cpu-signature: who signed it, in words. The chain must lead to a pinned root."""

    def check_attributes(self, policy: Policy) -> str:
        """Step cpu-attributes: how the guest was started, and whether its machine is accepted."""

    def check_tcb(self, collateral: Collateral, policy: Policy, *, now: int) -> TcbAppraisal:
        """Step cpu-tcb. Needs check_signature to have passed."""

    def check_boot(self, evidence: Evidence, host_config: bytes) -> str:
        """Step measurement: the event logs replay to the signed registers, and the host config is
        the one that was measured."""

    def answer(self, quote: bytes) -> Self:
        """Another quote for the same machine, parsed: that of a session."""

    def same_machine(self, other: Self) -> bool:
        """Whether two checked quotes are of one guest on one machine."""
