"""What a reader of the chain found: the anchored checkpoint and a block for freshness.

`level` says how it is known: "proven" (validator signatures and proofs checked here),
"reported" (an endpoint this party chose said so), "claimed" (somebody handed it over;
no policy accepts it).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from attestation.trust.registry import RegistrySnapshot, Unread

Level = Literal["proven", "reported", "claimed"]
RANK = {"claimed": 0, "reported": 1, "proven": 2}


def reaches(level: str, demanded: str) -> bool:
    """Whether knowledge at `level` satisfies a policy that demands `demanded`.

    An unknown word reaches nothing.
    """
    return RANK.get(level, -1) >= RANK[demanded] > 0


@dataclass(frozen=True)
class BlockRef:
    """A masterchain block: sequence number, root hash (32 bytes), time (Unix seconds)."""

    seqno: int
    root_hash: bytes
    utime: int
    level: Level


@dataclass(frozen=True)
class Anchor:
    """The state of one AttestationLog contract.

    `address` is a spelling of the contract's address: compare it with
    formats.address.same_account. code_hash, log_key (raw Ed25519) and root are 32 bytes;
    `time` is when this checkpoint was anchored, `read_at` the time of the masterchain block
    at which the contract was read (both Unix seconds). `seqno` is that block's number, 0 where it
    is not known; `registry` is the Registry at the same block, None where none was read.
    """

    network: str
    address: str
    code_hash: bytes
    origin: str
    log_key: bytes
    sequence: int
    size: int
    root: bytes
    time: int
    forked: bool
    read_at: int
    level: Level
    seqno: int = 0
    registry: RegistrySnapshot | Unread | None = None

    def as_of(self, moment: int) -> Anchor:
        """The same states, judged as if they were read at this Unix second."""
        registry = self.registry.as_of(moment) if self.registry else None
        return dataclasses.replace(self, read_at=moment, registry=registry)
