"""Which entries of a Registry list a digest, and whether they allowed it at a time."""

from __future__ import annotations

import re
from typing import Any

from attestation.errors import UsageError
from attestation.formats.dates import stamp
from attestation.trust.registry import RegistrySnapshot

_DIGEST = re.compile(r"[0-9a-f]{64}")


def entries_of(state: RegistrySnapshot, digest: str, moment: int) -> list[dict[str, Any]]:
    """Every entry with this digest, allowed at `moment` or not. Raises UsageError."""
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"--measurement: expected 64 lower-case hex digits, got {digest[:80]!r}")
    wanted = bytes.fromhex(digest)
    return [
        {
            "manifest": entry.manifest.hex(),
            "kind": {1: "guest", 2: "model"}[entry.kind],
            "shape": entry.digests[wanted],
            "allowed": entry.allowed_at(moment),
            "proposed": stamp(entry.proposed_at),
            "from": stamp(entry.active_from),
            "revoked": stamp(entry.revoked_at) if entry.revoked_at else None,
            "reason": entry.reason or None,
        }
        for entry in state.entries
        if wanted in entry.digests
    ]
