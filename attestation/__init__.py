"""What two parties must agree on byte for byte, and the judge of a machine's evidence.

    import time
    from pathlib import Path

    from attestation import Anchor, BlockRef, Collateral, Policy, Presented, Verifier

    def judge(folder: Path, anchor: Anchor, beacon: BlockRef) -> None:
        presented = Presented(
            evidence=(folder / "evidence").read_bytes(),
            engine_config=(folder / "engine").read_bytes(),
            price_table=(folder / "price").read_bytes(),
            host_config=(folder / "host").read_bytes(),
            collateral=Collateral.from_bytes((folder / "collateral").read_bytes()),
            proof=(folder / "proof").read_bytes(),
        )
        policy = Policy.from_toml((folder / "policy.toml").read_bytes())
        now = int(time.time())
        enclave = Verifier(policy).verify(presented, anchor=anchor, beacon=beacon, now=now)
        for step in enclave.report.steps:
            print(step.number, step.name, step.status, step.detail)

Verification is pure: whoever asks brings the time and what was read from the chain (`anchor`
and `beacon`; `contracts.reader.read_anchor` reads the one, a chain's `block` the other).
`verify` raises errors.VerificationError of the first step that fails. Every name below is
imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation import errors
from attestation.lazy import lazy_names

if TYPE_CHECKING:
    from attestation.formats.collateral import Collateral
    from attestation.formats.evidence import Evidence
    from attestation.trust.anchor import Anchor, BlockRef
    from attestation.trust.policy import Policy
    from attestation.verify.case import OpenedSession
    from attestation.verify.presented import Presented
    from attestation.verify.verdict import Report, VerifiedEnclave
    from attestation.verify.verifier import Verifier
else:  # hidden from type checkers, who would take any name for an object
    __getattr__ = lazy_names(
        __name__,
        {
            "Anchor": "attestation.trust.anchor",
            "BlockRef": "attestation.trust.anchor",
            "Collateral": "attestation.formats.collateral",
            "Evidence": "attestation.formats.evidence",
            "OpenedSession": "attestation.verify.case",
            "Policy": "attestation.trust.policy",
            "Presented": "attestation.verify.presented",
            "Report": "attestation.verify.verdict",
            "VerifiedEnclave": "attestation.verify.verdict",
            "Verifier": "attestation.verify.verifier",
        },
    )

__all__ = [
    "Anchor",
    "BlockRef",
    "Collateral",
    "Evidence",
    "OpenedSession",
    "Policy",
    "Presented",
    "Report",
    "VerifiedEnclave",
    "Verifier",
    "errors",
]


def __dir__() -> list[str]:
    return sorted(__all__)
