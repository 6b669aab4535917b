"""Leaf: one entry of the log, DESIGN §4 and docs/spec/log.md.

A leaf is unsigned: hardware signs the evidence it names, the log signs the tree. Only
one byte string encodes a given leaf; an optional key that says nothing is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import DIGEST_BYTES, sha256
from attestation.formats.platform import LEAF_PLATFORMS

BOOT, RENEW, RELEASE, COLLATERAL, RETIRE = 1, 2, 3, 4, 5
NETWORK = 8
KINDS = (BOOT, RENEW, RELEASE, COLLATERAL, RETIRE, NETWORK)
NO_PLATFORM = 0

ZERO = bytes(DIGEST_BYTES)
MAX_LEAF_BYTES = 0xFFFF
"""A tlog-tiles entry bundle has 16-bit lengths; a leaf is about 250 bytes."""

_DIGESTS = (
    "evidence_digest",
    "bundle_digest",
    "measurement_digest",
    "collateral_digest",
    "statement",
)
_REQUIRED = frozenset({0, 1, 2, 3, 4, 5, 7, 8, 10})


@dataclass(frozen=True)
class Leaf:
    """Digests are 32 bytes; `beacon` is (masterchain seqno, root hash); `release` and
    `previous` are leaf indexes. `platform` is 0 only where no machine is meant."""

    kind: int
    platform: int
    evidence_digest: bytes
    bundle_digest: bytes
    measurement_digest: bytes
    release: int | None
    collateral_digest: bytes
    beacon: tuple[int, bytes]
    previous: int | None
    statement: bytes

    def __post_init__(self) -> None:
        _check(self.kind in KINDS, "kind 1 to 5, or 8")
        of_machine = self.kind in (BOOT, RENEW, RETIRE)
        _check(
            self.platform in (LEAF_PLATFORMS if of_machine else (NO_PLATFORM,)), "a known platform"
        )
        for name in _DIGESTS:
            _check(len(getattr(self, name)) == DIGEST_BYTES, f"{name} of {DIGEST_BYTES} bytes")
        _check(0 <= self.beacon[0] < 2**32, "a beacon seqno of 32 bits")
        _check(len(self.beacon[1]) == DIGEST_BYTES, "a beacon root hash of 32 bytes")
        for index in (self.release, self.previous):
            _check(index is None or 0 <= index < 2**63, "leaf indexes below 2^63")

    def to_bytes(self) -> bytes:
        fields: dict[int, object] = {
            0: 1,
            1: self.kind,
            2: self.platform,
            3: self.evidence_digest,
            4: self.bundle_digest,
            5: self.measurement_digest,
            6: self.release,
            7: self.collateral_digest,
            8: list(self.beacon),
            9: self.previous,
            10: self.statement,
        }
        return cbor.encode({key: value for key, value in fields.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> Leaf:
        """Raises ParseError for anything that is not exactly one leaf."""
        fields = cbor.decode_map(data, required=_REQUIRED, limit=MAX_LEAF_BYTES)
        _check(type(fields[0]) is int and fields[0] == 1, "version 1")
        return cls(
            kind=_typed(fields, 1, int),
            platform=_typed(fields, 2, int),
            evidence_digest=_typed(fields, 3, bytes),
            bundle_digest=_typed(fields, 4, bytes),
            measurement_digest=_typed(fields, 5, bytes),
            release=_typed(fields, 6, int) if 6 in fields else None,
            collateral_digest=_typed(fields, 7, bytes),
            beacon=_beacon(fields[8]),
            previous=_typed(fields, 9, int) if 9 in fields else None,
            statement=_typed(fields, 10, bytes),
        )


def release_leaf(manifest: bytes) -> Leaf:
    """The leaf of a release manifest: its SHA-256 as evidence_digest, the rest zero."""
    return document_leaf(RELEASE, manifest)


def document_leaf(kind: int, document: bytes, **fields: Any) -> Leaf:
    """A leaf that no quote stands behind: the SHA-256 of its document as evidence_digest,
    zero or None for all that `fields` does not name."""
    nothing: dict[str, Any] = {
        "platform": NO_PLATFORM,
        "bundle_digest": ZERO,
        "measurement_digest": ZERO,
        "release": None,
        "collateral_digest": ZERO,
        "beacon": (0, ZERO),
        "previous": None,
        "statement": ZERO,
    }
    return Leaf(kind=kind, evidence_digest=sha256(document), **{**nothing, **fields})


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"log leaf: expected {expected}, got another value")


def _typed(fields: dict[int, Any], key: int, kind: type) -> Any:
    _check(type(fields[key]) is kind, f"key {key} of type {kind.__name__}")
    return fields[key]


def _beacon(value: object) -> tuple[int, bytes]:
    if isinstance(value, list) and [type(item) for item in value] == [int, bytes]:
        return value[0], value[1]
    raise ParseError("log leaf: expected key 8 as [seqno, root hash], got another value")
