"""The policy: what this client, auditor or log accepts. policy_file reads one from TOML.

Simulated roots stand in [unsafe] alone, and a policy that has them accepts no vendor's root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.errors import Refused
from attestation.trust.roots import PRODUCTION, Roots

if TYPE_CHECKING:
    from attestation.log.note import VerifierKey

SNP_SIGNERS = frozenset({"VCEK", "VLEK"})
TCB_STATUSES = frozenset(
    {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    }
)
"""Intel's words that a policy may accept; "Revoked" is not among them."""

SNP_TCB_PARTS = ("bootloader", "tee", "snp", "microcode")
"""Of every family; Turin's FMC is not among them."""


@dataclass(frozen=True)
class Release:
    """A named set of accepted digests; None stands for a written "any".

    `shapes` has the measurements of each VM shape: firmware measures the devices and memory
    it finds, so one release has several; it is empty where a Registry says which measurements
    there are. `launch_ids` is empty where the host may set nothing.
    """

    name: str
    shapes: Mapping[str, frozenset[bytes]]
    launch_ids: frozenset[bytes]
    engine_configs: frozenset[bytes] | None
    host_configs: frozenset[bytes] | None

    @property
    def by_registry(self) -> bool:
        """Whether the measurements are those that the Registry allows."""
        return not self.shapes

    def shape(self, measurement: bytes) -> str | None:
        """The VM shape that measures so, None where none does."""
        return next((name for name, listed in self.shapes.items() if measurement in listed), None)

    def allows_launch(self, launch: bytes | None) -> bool:
        """`launch` as of `measurement.launch_id`."""
        return launch in self.launch_ids if self.launch_ids else launch is None


@dataclass(frozen=True)
class RegistryRules:
    """The pinned Registry contract, and for releases and for models who has to allow them: one of
    registry.SOURCES."""

    contract: str
    code_hash: bytes
    releases: str
    models: str


@dataclass(frozen=True)
class WitnessRules:
    """How many domains have to cosign, how old a cosignature may be, and each witness's key with
    the domain of its operator."""

    required: int
    max_age_s: int
    witnesses: tuple[tuple[VerifierKey, str], ...]

    @property
    def domains(self) -> tuple[str, ...]:
        """Each once, in the order of the file."""
        return tuple(dict.fromkeys(domain for _, domain in self.witnesses))


@dataclass(frozen=True)
class Policy:
    """Fields as in the file (docs/spec/policy.md); ages in seconds, digests 32 bytes,
    `log_contract` the address's one form. None stands for a written "any" or "none"; the digest of
    a model is None where the Registry says which models there are."""

    network: str
    log_contract: str
    log_code_hash: bytes
    log_origin: str
    log_key: bytes
    anchor: str
    max_anchor_age_s: int
    registry: RegistryRules | None
    witnesses: WitnessRules | None
    max_beacon_age_s: int
    challenge: str
    platforms: frozenset[str]
    tcb_status: frozenset[str]
    refuse_advisories: frozenset[str]
    min_tcb_evaluation_number: int
    max_collateral_age_s: int
    families: frozenset[str] | None
    instances: frozenset[str] | None
    snp_signers: frozenset[str]
    snp_min_tcb: Mapping[str, int] | None
    snp_alias_check: bool
    gpu_count: int | None
    gpu_architectures: frozenset[str] | None
    gpu_min_driver: str | None
    gpu_revocation: str
    releases: tuple[Release, ...]
    models: tuple[tuple[str, bytes | None], ...]
    pq: str
    simulated_roots: Roots | None

    @property
    def roots(self) -> Roots:
        """Vendors' roots, or only the simulator's where [unsafe] names them."""
        return self.simulated_roots or PRODUCTION

    def names_launch(self, launch: bytes | None) -> bool:
        """Whether any release names this launch id; which one is the measurement step's."""
        return any(launch in release.launch_ids for release in self.releases)

    @classmethod
    def from_toml(cls, data: bytes) -> Policy:
        """Raises ParseError naming the first key that is absent, unknown or wrong."""
        from attestation.trust.policy_file import read  # which builds on this module

        return read(data)


def accept(step: str, what: str, got: str, accepted: frozenset[str] | None) -> None:
    """Raises Refused(step, "<what>-not-accepted") unless listed; None stands for "any"."""
    if accepted is not None and got not in accepted:
        expected = ", ".join(sorted(accepted)) if len(accepted) < 9 else f"{len(accepted)} values"
        text = f"{what}: expected one that the policy lists ({expected}), got {got}"
        raise Refused(step, f"{what}-not-accepted", text)
