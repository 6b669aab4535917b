"""Leaves that no quote stands behind: releases, collateral sets, retirements.

Each is of one document that the log keeps by its SHA-256, in evidence_digest. A release is
admitted by whoever says what is one; a collateral set comes with the machine that it was
verified with; a retirement is signed by the enclave whose boot ends.
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
    MAX_MANIFEST_BYTES,
    RetireRequest,
    collateral_leaf,
    retire_key,
    retire_leaf,
)
from attestation.log.leaf import BOOT, RENEW, Leaf, release_leaf
from attestation.log.submission import release_key
from contracts.logservice.admission import Reader
from contracts.logservice.store import Entry


def release_entry(manifest: bytes) -> Entry:
    """The one leaf of a release manifest. Raises ParseError for an empty one, or one over
    MAX_MANIFEST_BYTES."""
    if not 0 < len(manifest) <= MAX_MANIFEST_BYTES:
        raise ParseError(f"release: expected a manifest of 1 to {MAX_MANIFEST_BYTES} bytes")
    return Entry(release_key(manifest), release_leaf(manifest).to_bytes(), blobs=(manifest,))


def collateral_entry(collateral: Collateral) -> Entry:
    """The one leaf of a collateral set; its parts are kept with the manifest."""
    manifest = collateral.manifest_bytes()
    key = domain_digest("umay/log-collateral/v1", collateral.manifest_digest())
    blobs = (manifest, *collateral.parts.values())
    return Entry(key, collateral_leaf(manifest).to_bytes(), blobs=blobs)


def retire_entry(request: RetireRequest, log: Reader) -> Entry:
    """Raises ParseError, Refused or NotAuthentic where the log's own record of `previous`
    does not bear the retirement out."""
    retirement = Retirement.from_bytes(request.retirement)
    data = log.leaf(request.previous)
    last = Leaf.from_bytes(data) if data is not None else None
    evidence = log.blob(last.evidence_digest) if last is not None else None
    if last is None or last.kind not in (BOOT, RENEW) or evidence is None:
        raise Refused("log", "unknown-previous", "expected the index of a machine's leaf")
    leaf = retire_leaf(retirement, request.previous, last, evidence)
    key = retire_key(retirement.boot_id)
    return Entry(key, leaf.to_bytes(), blobs=(request.retirement,))


class Finder(Protocol):
    def find(self, key: bytes) -> int | None: ...


def check_not_retired(evidence: bytes, log: Finder) -> None:
    """Raises Refused for evidence of a boot that has retired."""
    boot_id = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle).boot_id
    if log.find(retire_key(boot_id)) is not None:
        raise Refused("log", "retired", "this boot has retired: its keys are gone")
