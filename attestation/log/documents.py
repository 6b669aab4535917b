"""Leaves that no quote stands behind: collateral sets and retirements, and what asks for one."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import ParseError, Refused
from attestation.formats import cbor
from attestation.formats.collateral import MAX_PARTS, manifest_digest
from attestation.formats.digests import DIGEST_BYTES, domain_digest
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.retirement import MAX_RETIREMENT_BYTES, Retirement
from attestation.log.leaf import COLLATERAL, RETIRE, Leaf, document_leaf


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
            raise ParseError(
                "retirement request: expected version 1, a leaf index, a retirement, got "
                "another form"
            )
        return cls(fields[1], fields[2])


def collateral_leaf(manifest: bytes) -> Leaf:
    """Of a collateral manifest's bytes. Raises ParseError for anything else."""
    fields = cbor.decode(manifest, limit=MAX_PARTS * 256)
    good = isinstance(fields, dict) and all(
        isinstance(name, str) and type(digest) is bytes and len(digest) == DIGEST_BYTES
        for name, digest in fields.items()
    )
    if not good:
        raise ParseError(
            "collateral manifest: expected a map of names to SHA-256, got another form"
        )
    return document_leaf(COLLATERAL, manifest, collateral_digest=manifest_digest(manifest))


def retire_key(boot_id: bytes) -> bytes:
    """The key under which a boot's retirement has its one leaf."""
    return domain_digest("umay/log-retire/v1", boot_id)


def retire_leaf(retirement: Retirement, previous: int, last: Leaf, evidence: bytes) -> Leaf:
    """The leaf after `last`, at index `previous`, whose Evidence is `evidence`.

    Raises NotAuthentic or Refused where it is not this enclave's word.
    """
    bundle = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle)
    if (bundle.boot_id, last.bundle_digest) != (retirement.boot_id, retirement.bundle_digest):
        raise Refused(
            "log",
            "other-boot",
            "retirement: expected the boot id and KeyBundle of the last leaf, got another "
            "boot or bundle",
        )
    retirement.check(bundle.receipt_key)
    return document_leaf(
        RETIRE,
        retirement.to_bytes(),
        platform=last.platform,
        bundle_digest=last.bundle_digest,
        measurement_digest=last.measurement_digest,
        previous=previous,
    )
