"""What a host hands over for a verification."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.arguments import expect
from attestation.formats.collateral import Collateral
from attestation.verify.case import OpenedSession


@dataclass(frozen=True)
class Presented:
    """What a host hands over: Evidence, the three configs, collateral and log proof.

    `proof` is a tlog-proof to the anchored size, None where the host has none yet;
    `session` the answer to a nonce of the caller's own.
    """

    evidence: bytes
    engine_config: bytes
    price_table: bytes
    host_config: bytes
    collateral: Collateral
    proof: bytes | None = None
    session: OpenedSession | None = None

    def __post_init__(self) -> None:
        """Raises UsageError that names a part of a wrong type."""
        for name in ("evidence", "engine_config", "price_table", "host_config"):
            expect(f"presented.{name}", getattr(self, name), bytes)
        expect("presented.collateral", self.collateral, Collateral)
        expect("presented.proof", self.proof, bytes, type(None), what="bytes or None")
        expect(
            "presented.session",
            self.session,
            OpenedSession,
            type(None),
            what="OpenedSession or None",
        )
