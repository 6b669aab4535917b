"""The client's own view of the chain: anchor, Registry and beacon, from an endpoint it chose.

Never from the host: what a host says about the chain proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import Refused, Unavailable, VerificationError
from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy
from attestation.trust.registry import RegistrySnapshot
from attestation.verify.log_step import check_pinned
from attestation.verify.registry_step import check_registry_pinned
from attestation.verify.verifier import not_begun
from contracts.chain import ReadOnlyChain
from contracts.reader import read_anchor

READS = 3
"""Of an anchor at a block before one that was read already."""


@dataclass(frozen=True)
class ChainReader:
    """Reads what `policy` pins. Raises Unavailable where the endpoint does not answer."""

    chain: ReadOnlyChain
    policy: Policy
    floors: Path | None = None
    """The file of what this client has seen of the chain; None keeps nothing."""

    def anchor(self) -> Anchor:
        """The log's anchor, with the Registry at the same block where the policy names one.

        Raises VerificationError where the answer does not follow from trusted blocks, and with
        `floors` Refused or Unavailable where it shows less than was seen before.
        """
        if self.floors is None:
            return self.anchor_of(self.policy.log_contract)
        from client_sdk.floors import Floors

        floors, left = Floors(self.floors), READS
        while True:
            anchor, left = self.anchor_of(self.policy.log_contract), left - 1
            if not self._pinned(anchor):
                return anchor
            try:
                with self._reporting():
                    floors.pass_over(anchor)
                return anchor
            except Unavailable:  # another thread or process may have read a later block meanwhile
                if not left:
                    raise

    def _pinned(self, anchor: Anchor) -> bool:
        """Whether it is of the contracts that the policy pins. What the verification plan refuses
        must not become a floor, under which the right contracts are never accepted again."""
        rules, registry = self.policy.registry, anchor.registry
        try:
            check_pinned(self.policy, anchor)
            if rules is not None and isinstance(registry, RegistrySnapshot):
                check_registry_pinned(rules, registry)
        except Refused:
            return False
        return True

    def anchor_of(self, contract: str) -> Anchor:
        """The same for the log of another contract, whatever the policy pins."""
        registry = self.policy.registry
        with self._reporting():
            return read_anchor(
                self.chain,
                network=self.policy.network,
                address=contract,
                registry=registry.contract if registry else None,
            )

    def beacon(self, seqno: int) -> BlockRef:
        """The block of this number. Raises like `anchor`."""
        with self._reporting():
            return self.chain.block(seqno)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except VerificationError as error:
            error.report = not_begun(error, simulated=self.policy.roots.simulated)
            raise
