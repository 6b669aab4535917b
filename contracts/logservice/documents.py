"""Leaves without a quote: releases, collateral sets, retirements.

Each leaf is about one document, which the log keeps by its SHA-256, in evidence_digest. The
ReleaseAdmission admits a release; a collateral set is submitted with the machine that it was
used for; a retirement is signed by the enclave whose boot ends.
"""

from __future__ import annotations

from typing import Protocol

from attestation.errors import ParseError, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.digests import domain_digest
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.retirement import Retirement
from attestation.log.documents import (
    RetireRequest,
    collateral_leaf,
    retire_key,
    retire_leaf,
)
from attestation.log.leaf import BOOT, RENEW, Leaf, release_leaf
from attestation.log.submission import release_key
from contracts.logservice.admission import Reader
from contracts.logservice.store import Entry

MAX_MANIFEST_BYTES = 64 * 1024


def release_entry(manifest: bytes) -> Entry:
    """The entry for a release manifest. Raises ParseError unless it has 1 to MAX_MANIFEST_BYTES
    bytes."""
    if not 0 < len(manifest) <= MAX_MANIFEST_BYTES:
        raise ParseError(
            f"release: expected a manifest of 1 to {MAX_MANIFEST_BYTES} bytes, got {len(manifest)}"
        )
    return Entry(release_key(manifest), release_leaf(manifest).to_bytes(), blobs=(manifest,))


def collateral_entry(collateral: Collateral) -> Entry:
    """The entry for a collateral set. Its parts are kept with the manifest."""
    manifest = collateral.manifest_bytes()
    key = domain_digest("umay/log-collateral/v1", collateral.manifest_digest())
    blobs = (manifest, *collateral.parts.values())
    return Entry(key, collateral_leaf(manifest).to_bytes(), blobs=blobs)


def retire_entry(request: RetireRequest, log: Reader) -> Entry:
    """The entry for a retirement. Raises ParseError, Refused or NotAuthentic unless the log's own
    record of `previous` confirms the retirement."""
    retirement = Retirement.from_bytes(request.retirement)
    data = log.leaf(request.previous)
    last = Leaf.from_bytes(data) if data is not None else None
    evidence = log.blob(last.evidence_digest) if last is not None else None
    if last is None or last.kind not in (BOOT, RENEW) or evidence is None:
        text = (
            "previous: expected the index of a boot or renewal leaf of this log whose evidence is "
            f"kept, got {request.previous}"
        )
        raise Refused("log", "unknown-previous", text)
    leaf = retire_leaf(retirement, request.previous, last, evidence)
    key = retire_key(retirement.boot_id)
    return Entry(key, leaf.to_bytes(), blobs=(request.retirement,))


class KeyIndex(Protocol):
    """Finds the index of the leaf that has a key."""

    def find(self, key: bytes) -> int | None: ...


def check_not_retired(evidence: bytes, log: KeyIndex) -> None:
    """Raises Refused if the boot of this evidence has retired."""
    boot_id = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle).boot_id
    if log.find(retire_key(boot_id)) is not None:
        text = f"boot {boot_id.hex()} has retired and its keys are deleted; start a new boot"
        raise Refused("log", "retired", text)
