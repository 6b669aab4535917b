"""Leaves that no quote stands behind: releases, collateral sets, retirements.

Each is of one document that the log keeps by its SHA-256, in evidence_digest. A release is
admitted by whoever says what is one; a collateral set comes with the machine that it was
verified with; a retirement is signed by the enclave whose boot ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from attestation.errors import ParseError, Refused
from attestation.formats import cbor
from attestation.formats.collateral import MAX_PARTS, Collateral, manifest_digest
from attestation.formats.digests import DIGEST_BYTES, domain_digest
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.retirement import MAX_RETIREMENT_BYTES, Retirement
from attestation.log.leaf import BOOT, COLLATERAL, RENEW, RETIRE, Leaf, document_leaf, release_leaf
from contracts.logservice.admission import Reader, release_key
from contracts.logservice.store import Entry

MAX_MANIFEST_BYTES = 64 * 1024


@dataclass(frozen=True)
class RetireRequest:
    """What a host submits: the leaf index of the boot's last entry, and the enclave's word."""

    previous: int
    retirement: bytes

    def to_bytes(self) -> bytes:
        return cbor.encode({0: 1, 1: self.previous, 2: self.retirement})

    @classmethod
    def from_bytes(cls, data: bytes) -> RetireRequest:
        """Raises ParseError for anything that is not exactly one request."""
        limit = MAX_RETIREMENT_BYTES + 64
        fields = cbor.decode_map(data, required=frozenset(range(3)), limit=limit)
        good = [type(fields[key]) for key in range(3)] == [int, int, bytes]
        if not good or fields[0] != 1 or not 0 <= fields[1] < 2**63:
            raise ParseError("retire: expected version 1, a leaf index, a retirement")
        return cls(fields[1], fields[2])


def release_entry(manifest: bytes) -> Entry:
    """The one leaf of a release manifest. Raises ParseError for an empty one, or one over
    MAX_MANIFEST_BYTES."""
    if not 0 < len(manifest) <= MAX_MANIFEST_BYTES:
        raise ParseError(f"release: expected a manifest of 1 to {MAX_MANIFEST_BYTES} bytes")
    return Entry(release_key(manifest), release_leaf(manifest).to_bytes(), blobs=(manifest,))


def collateral_leaf(manifest: bytes) -> Leaf:
    """Of a collateral manifest's bytes. Raises ParseError for anything else."""
    fields = cbor.decode(manifest, limit=MAX_PARTS * 256)
    good = isinstance(fields, dict) and all(
        isinstance(name, str) and type(digest) is bytes and len(digest) == DIGEST_BYTES
        for name, digest in fields.items()
    )
    if not good:
        raise ParseError("collateral manifest: expected a map of names to SHA-256")
    return document_leaf(COLLATERAL, manifest, collateral_digest=manifest_digest(manifest))


def collateral_entry(collateral: Collateral) -> Entry:
    """The one leaf of a collateral set; its parts are kept with the manifest."""
    manifest = collateral.manifest_bytes()
    key = domain_digest("umay/log-collateral/v1", collateral.manifest_digest())
    blobs = (manifest, *collateral.parts.values())
    return Entry(key, collateral_leaf(manifest).to_bytes(), blobs=blobs)


def retire_key(boot_id: bytes) -> bytes:
    """The key under which a boot's retirement has its one leaf."""
    return domain_digest("umay/log-retire/v1", boot_id)


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


def retire_leaf(retirement: Retirement, previous: int, last: Leaf, evidence: bytes) -> Leaf:
    """The leaf after `last`, at index `previous`, whose Evidence is `evidence`.

    Raises NotAuthentic or Refused where it is not this enclave's word.
    """
    bundle = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle)
    if (bundle.boot_id, last.bundle_digest) != (retirement.boot_id, retirement.bundle_digest):
        raise Refused("log", "other-boot", "the retirement is of another boot or key bundle")
    retirement.check(bundle.receipt_key)
    return document_leaf(
        RETIRE,
        retirement.to_bytes(),
        platform=last.platform,
        bundle_digest=last.bundle_digest,
        measurement_digest=last.measurement_digest,
        previous=previous,
    )


class Finder(Protocol):
    def find(self, key: bytes) -> int | None: ...


def check_not_retired(evidence: bytes, log: Finder) -> None:
    """Raises Refused for evidence of a boot that has retired."""
    boot_id = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle).boot_id
    if log.find(retire_key(boot_id)) is not None:
        raise Refused("log", "retired", "this boot has retired: its keys are gone")
