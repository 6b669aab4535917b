"""Case: what one verification was given and what its steps have established so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from attestation.errors import NotChecked
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence, statement
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.platform import PLATFORMS, WITH_GPUS
from attestation.log.leaf import Leaf
from attestation.platforms.cpu import Cpu
from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy, Release
from attestation.trust.registry import RegistrySnapshot, Unread
from attestation.verify.verdict import Finding, ResultNames, VerifiedSession


@dataclass(frozen=True)
class OpenedSession:
    """What a guest answered when it was asked for a session with the caller's own 32-byte nonce:
    a SessionAnswer, as bytes."""

    answer: bytes
    nonce: bytes


@dataclass
class Case:
    """The arguments of one verification and what its steps have established so far."""

    evidence_bytes: bytes
    engine_bytes: bytes
    price_bytes: bytes
    host_bytes: bytes
    collateral: Collateral
    proof: bytes | None
    session: OpenedSession | None
    anchor: Anchor | None
    beacon: BlockRef | None
    registry: RegistrySnapshot | Unread | None
    policy: Policy
    now: int
    passed: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    evidence: Evidence = field(init=False)
    evidence_digest: bytes = field(init=False)
    bundle: KeyBundle = field(init=False)
    cpu: Cpu = field(init=False)
    measurement_digest: bytes = field(init=False)
    release: Release = field(init=False)
    named: ResultNames = field(default_factory=ResultNames)
    model_name: str = field(init=False)
    engine_config: dict[str, Any] = field(init=False)
    price_table: dict[str, Any] = field(init=False)
    expiries: list[int] = field(default_factory=list)
    tcb_issued: int | None = None
    verified_session: VerifiedSession | None = None
    valid_until: int = field(init=False)

    def name(self, **found: str) -> None:
        """Keep what a step that passes has found by name."""
        self.named = replace(self.named, **found)

    def needs(self, *names: str) -> None:
        """Raises NotChecked unless every step named has passed."""
        for name in names:
            if name not in self.passed:
                raise NotChecked(f"expected the step {name} to have passed; it has not")

    def leaf(self, *, kind: int, release: int | None, previous: int | None) -> Leaf:
        """What the log should hold about this evidence; the arguments are its own claims."""
        return Leaf(
            kind=kind,
            platform=PLATFORMS[self.evidence.platform].leaf_code
            + (WITH_GPUS if self.bundle.gpu_count else 0),
            evidence_digest=self.evidence_digest,
            bundle_digest=bundle_digest(self.evidence.bundle),
            measurement_digest=self.measurement_digest,
            release=release,
            collateral_digest=self.collateral.manifest_digest(),
            beacon=self.bundle.beacon,
            previous=previous,
            statement=statement(self.cpu.signed_region),
        )
