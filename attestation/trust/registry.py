"""What a Registry contract allowed, and when: one judgement for client, log and audit.

A snapshot holds the contract's whole past, so it answers for every moment until it was read.
Layout and meaning of an entry: docs/spec/registry.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.errors import Refused
from attestation.formats.dates import dated
from attestation.trust.anchor import Level

STEP = "registry"
GUEST, MODEL = 1, 2
KIND_NAMES = {GUEST: "release", MODEL: "model"}
REASONS = {1: "superseded", 2: "flaw", 3: "leaked key", 4: "other"}

FILE, REGISTRY, BOTH = "file", "registry", "both"
SOURCES = (FILE, REGISTRY, BOTH)
"""Who allows a release or a model: the policy file, the Registry, or only both together. What the
Registry revoked is refused in all three."""


@dataclass(frozen=True)
class Entry:
    """A release or a model. Times are Unix seconds; revoked_at is 0 while the entry is not revoked.
    `digests` maps measurement digests or model digests (32 bytes) to the number of a VM shape."""

    kind: int
    manifest: bytes
    proposed_at: int
    active_from: int
    revoked_at: int
    reason: int
    notes: bytes
    digests: Mapping[bytes, int]

    def allowed_at(self, moment: int) -> bool:
        """Whether the entry is in force at this Unix second: after its notice period and before any
        revocation."""
        return self.active_from <= moment and not self.revoked_by(moment)

    def revoked_by(self, moment: int) -> bool:
        """Whether the entry was revoked at this Unix second or before."""
        return 0 < self.revoked_at <= moment


@dataclass(frozen=True)
class Unread:
    """A Registry that was asked for and could not be read, and why."""

    reason: str

    def as_of(self, moment: int) -> Unread:
        """Unread at every moment."""
        return self


@dataclass(frozen=True)
class RegistrySnapshot:
    """A Registry contract as it was read: `address` in any spelling, code_hash of 32 bytes, the
    masterchain block `seqno` and its time `read_at` (Unix seconds), and how that is known."""

    address: str
    code_hash: bytes
    seqno: int
    read_at: int
    level: Level
    entries: tuple[Entry, ...]

    def listing(self, kind: int, digest: bytes) -> tuple[Entry, ...]:
        """The entries of this kind that list the digest, whether they allow it or not."""
        return tuple(e for e in self.entries if e.kind == kind and digest in e.digests)

    def as_of(self, moment: int) -> RegistrySnapshot:
        """The same contract, judged as of this Unix second."""
        return dataclasses.replace(self, read_at=moment)

    def check(self, kind: int, digest: bytes, *, source: str) -> Entry | None:
        """The entry that is in force when this was read; None where `source` needs none.

        Raises Refused("registry", …): "revoked" for every source, "pending" and "unlisted" where
        the Registry has to allow it. A digest that another entry allows is not revoked.
        """
        listed = self.listing(kind, digest)
        allowed = next((entry for entry in listed if entry.allowed_at(self.read_at)), None)
        if allowed is not None:
            return allowed
        revoked = [entry for entry in listed if entry.revoked_by(self.read_at)]
        what = f"{KIND_NAMES[kind]} {digest.hex()}"
        if revoked:
            raise self._revoked(what, max(revoked, key=lambda entry: entry.revoked_at))
        if source == FILE:
            return None
        if listed:
            raise self._pending(what, min(entry.active_from for entry in listed))
        text = f"expected an entry that lists the {what}, found none"
        raise Refused(STEP, "unlisted", f"{self._where()}: {text}; its owner can propose it")

    def _revoked(self, what: str, entry: Entry) -> Refused:
        reason = REASONS.get(entry.reason, "unknown")
        text = f"expected an entry that allows the {what}, it was revoked at "
        text += f"{dated(entry.revoked_at)}, reason {entry.reason}"
        return Refused(STEP, "revoked", f"{self._where()}: {text} ({reason})")

    def _pending(self, what: str, begins: int) -> Refused:
        text = f"expected an entry that allows the {what} now, it is allowed only from "
        text += f"{dated(begins)}, and this state is of "
        return Refused(STEP, "pending", f"{self._where()}: {text}{dated(self.read_at)}")

    def _where(self) -> str:
        return f"Registry {self.address}"
