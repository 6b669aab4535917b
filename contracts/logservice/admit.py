"""Admission by a policy file, a Registry, and the blocks of a chain that the log's operator
chose."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import Refused, Unavailable
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.log.leaf import Leaf
from attestation.log.submission import Submission
from attestation.trust.policy import Policy
from attestation.trust.registry import GUEST, MODEL, REGISTRY, RegistrySnapshot
from attestation.verify.verifier import Presented, Verifier
from contracts.chain import ReadOnlyChain
from contracts.registry import read_registry, snapshot_of


@dataclass(frozen=True)
class RegistryReader:
    """Reads the Registry at `address`. It is read again for each question, so a revocation takes
    effect at once."""

    chain: ReadOnlyChain
    address: str

    def check_machine(self, measurement: bytes, model: bytes) -> None:
        """Check that both 32-byte digests are in force. Raises Refused("registry", …), and
        Unavailable, NotAuthentic or ParseError if the Registry cannot be read."""
        state = read_registry(self.chain, address=self.address)
        for kind, digest in ((GUEST, measurement), (MODEL, model)):
            state.check(kind, digest, source=REGISTRY)

    def check_release(self, manifest: bytes) -> None:
        """Check that the Registry has an entry for exactly this manifest. Raises like
        check_machine."""
        state = read_registry(self.chain, address=self.address)
        if not any(entry.manifest == sha256(manifest) for entry in state.entries):
            text = (
                f"Registry {self.address}: expected an entry for the manifest with SHA-256 "
                f"{sha256(manifest).hex()}, found none; ask the owner of the Registry to propose it"
            )
            raise Refused("registry", "unlisted", text)


class PolicyAdmission:
    """The steps of the verification plan before the log's, with the policy file of that moment.

    The file may appear after the log has started: a policy pins the contract, whose
    address depends on the log's first checkpoint.
    """

    def __init__(
        self, policy: Path, chain: ReadOnlyChain, registry: RegistryReader | None = None
    ) -> None:
        self._path, self._chain, self._registry = policy, chain, registry

    def __call__(self, submission: Submission) -> Leaf:
        """The leaf to append. Raises a UmayError that says why the submission is not admitted."""
        policy = self._policy()
        verifier = Verifier(policy)
        bundle = KeyBundle.from_bytes(Evidence.from_bytes(submission.evidence).bundle)
        presented = Presented(
            evidence=submission.evidence,
            engine_config=submission.engine_config,
            price_table=submission.price_table,
            host_config=submission.host_config,
            collateral=Collateral.from_bytes(submission.collateral),
        )
        leaf = verifier.admit(
            presented,
            beacon=self._chain.block(bundle.beacon[0]),
            now=int(time.time()),
            kind=submission.kind,
            release=submission.release,
            previous=submission.previous,
            registry=self._pinned(policy),
        )
        if self._registry is not None:
            self._registry.check_machine(leaf.measurement_digest, bundle.model_digest)
        return leaf

    def _pinned(self, policy: Policy) -> RegistrySnapshot | None:
        if policy.registry is None:
            return None
        return snapshot_of(self._chain.account(policy.registry.contract))

    def _policy(self) -> Policy:
        try:
            return Policy.from_toml(self._path.read_bytes())
        except FileNotFoundError:
            raise Unavailable(
                "the log expected its policy file, but the file does not exist yet; try again later"
            ) from None
