"""The client's own view of the chain: anchor and beacon, read from an endpoint it chose.

Never from the host: what a host says about the chain proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy
from contracts.chain import ReadOnlyChain
from contracts.reader import read_anchor


@dataclass(frozen=True)
class ChainReader:
    """Reads what `policy` pins. Raises Unavailable where the endpoint does not answer."""

    chain: ReadOnlyChain
    policy: Policy

    def anchor(self) -> Anchor:
        return read_anchor(
            self.chain, network=self.policy.network, address=self.policy.log_contract
        )

    def beacon(self, seqno: int) -> BlockRef:
        return self.chain.block(seqno)
