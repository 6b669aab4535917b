"""What a log needs beyond its store: a policy, a Registry, and blocks of a chain it chose."""

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
from attestation.verify.verifier import Presented, Verifier
from contracts.chain import ReadOnlyChain
from contracts.registry import GUEST, MODEL, read_registry


@dataclass(frozen=True)
class Registry:
    """The Registry at `address`, read anew for each question: revocation counts at once."""

    chain: ReadOnlyChain
    address: str

    def check_machine(self, measurement: bytes, model: bytes) -> None:
        """Both 32-byte digests are in force. Raises Refused("registry", …), Unavailable,
        NotAuthentic or ParseError where the Registry cannot be read."""
        state, moment = read_registry(self.chain, address=self.address)
        for kind, what, digest in ((GUEST, "release", measurement), (MODEL, "model", model)):
            if not any(entry.kind == kind for entry in state.allowed(digest, moment)):
                text = f"the Registry does not allow this {what} now: {digest.hex()}"
                raise Refused("registry", f"{what}-not-allowed", text)

    def check_release(self, manifest: bytes) -> None:
        """The Registry has an entry of exactly this manifest. Raises as check_machine."""
        state, _ = read_registry(self.chain, address=self.address)
        if sha256(manifest) not in state.entries:
            text = f"the Registry has no entry of the manifest {sha256(manifest).hex()}"
            raise Refused("registry", "unlisted", text)


class PolicyAdmission:
    """Steps 1 to 10 of the plan, under the policy file as it is at that moment.

    The file may appear after the log has started: a policy pins the contract, whose
    address depends on the log's first checkpoint.
    """

    def __init__(
        self, policy: Path, chain: ReadOnlyChain, registry: Registry | None = None
    ) -> None:
        self._path, self._chain, self._registry = policy, chain, registry

    def __call__(self, submission: Submission) -> Leaf:
        """The leaf to append. Raises UmayError saying why there is none."""
        verifier = Verifier(self._policy())
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
        )
        if self._registry is not None:
            self._registry.check_machine(leaf.measurement_digest, bundle.model_digest)
        return leaf

    def _policy(self) -> Policy:
        try:
            return Policy.from_toml(self._path.read_bytes())
        except FileNotFoundError:
            raise Unavailable("the log has no policy yet: try again later") from None
