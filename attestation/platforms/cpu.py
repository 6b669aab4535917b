"""The CPU's half of Evidence, one face for every platform.

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
class Standing:
    """A TCB in words, and the window of what says so: Unix seconds."""

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
        """cpu-signature: by whom, up to a pinned root."""

    def check_attributes(self, policy: Policy) -> str:
        """cpu-attributes: how the guest was started, and which machines are accepted."""

    def check_tcb(self, collateral: Collateral, policy: Policy, *, now: int) -> Standing:
        """cpu-tcb. Needs check_signature to have passed."""

    def check_boot(self, evidence: Evidence, host_config: bytes) -> str:
        """measurement: logs replay and the host config is the one that was measured."""

    def answer(self, quote: bytes) -> Self:
        """Another quote for the same machine, parsed: the answer to a challenge."""

    def same_machine(self, other: Self) -> bool:
        """Whether two checked quotes are of one guest on one machine."""
