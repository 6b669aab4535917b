"""What a log needs beyond its store: a policy, and blocks read from a chain it chose."""

from __future__ import annotations

import time
from pathlib import Path

from attestation.collateral import Collateral
from attestation.errors import Unavailable
from attestation.evidence import Evidence
from attestation.keys import KeyBundle
from attestation.log.admission import Submission
from attestation.log.leaf import Leaf
from attestation.policy import Policy
from attestation.verifier import Presented, Verifier
from contracts.chain import Chain


class PolicyAdmission:
    """Steps 1 to 10 of the plan, under the policy file as it is at that moment.

    The file may appear after the log has started: a policy pins the contract, whose
    address depends on the log's first checkpoint.
    """

    def __init__(self, policy: Path, chain: Chain) -> None:
        self._path, self._chain = policy, chain

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
        return verifier.admit(
            presented,
            beacon=self._chain.block(bundle.beacon[0]),
            now=int(time.time()),
            kind=submission.kind,
            release=submission.release,
            previous=submission.previous,
        )

    def _policy(self) -> Policy:
        try:
            return Policy.from_toml(self._path.read_bytes())
        except FileNotFoundError:
            raise Unavailable("the log has no policy yet: try again later") from None
