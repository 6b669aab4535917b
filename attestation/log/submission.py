"""What a host submits to a log, what the log answers, and what it keeps for auditors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.digests import (
    domain_digest,
    engine_digest,
    host_config_digest,
    price_digest,
)
from attestation.formats.evidence import Evidence, gpu_evidence_digest, report_data_binding
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.log.leaf import BOOT, RENEW, Leaf

MAX_SUBMISSION_BYTES = 4 * 1024 * 1024
"""Evidence is about 150 kB at most, eight GPUs' RIMs and OCSP answers about 2 MB."""


_ALL = frozenset(range(9))


@dataclass(frozen=True)
class Submission:
    """Bytes as the guest served them, collateral included; indexes name earlier leaves."""

    kind: int
    evidence: bytes
    engine_config: bytes
    price_table: bytes
    host_config: bytes
    collateral: bytes
    previous: int | None = None
    release: int | None = None

    def __post_init__(self) -> None:
        _check(self.kind in (BOOT, RENEW), "kind 1 (boot) or 2 (renew)")
        _check((self.previous is None) == (self.kind == BOOT), "previous with a renewal only")
        for index in (self.previous, self.release):
            _check(index is None or 0 <= index < 2**63, "leaf indexes below 2^63")

    def to_bytes(self) -> bytes:
        fields = (
            1,
            self.kind,
            self.evidence,
            self.engine_config,
            self.price_table,
            self.host_config,
            self.collateral,
            self.previous,
            self.release,
        )
        return cbor.encode(dict(enumerate(fields)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Submission:
        """Raises ParseError for anything that is not exactly one submission."""
        fields = cbor.decode_map(data, required=_ALL, limit=MAX_SUBMISSION_BYTES)
        _check(type(fields[0]) is int and fields[0] == 1, "version 1")
        _check(type(fields[1]) is int, "kind as an integer")
        _check(all(type(fields[key]) is bytes for key in range(2, 7)), "keys 2 to 6 as bytes")
        return cls(
            kind=fields[1],
            evidence=fields[2],
            engine_config=fields[3],
            price_table=fields[4],
            host_config=fields[5],
            collateral=fields[6],
            previous=_index(fields[7]),
            release=_index(fields[8]),
        )


@dataclass(frozen=True)
class SubmissionAnswer:
    """The log's answer: where the leaf stands, a published size that holds it, its bytes."""

    index: int
    size: int
    leaf: bytes

    def to_bytes(self) -> bytes:
        return cbor.encode({0: self.index, 1: self.size, 2: self.leaf})

    @classmethod
    def from_bytes(cls, data: bytes) -> SubmissionAnswer:
        """Raises ParseError for anything that is not exactly one answer."""
        fields = cbor.decode_map(data, required=frozenset({0, 1, 2}), limit=1 << 17)
        types = [type(fields[key]) for key in range(3)]
        _check(types == [int, int, bytes], "index, size and leaf")
        _check(0 <= fields[0] < fields[1] < 2**63, "an index below the size")
        return cls(fields[0], fields[1], fields[2])


@dataclass(frozen=True)
class ArchiveRecord:
    """SHA-256 of everything an auditor needs to judge one leaf again."""

    index: int
    evidence: bytes
    engine_config: bytes
    price_table: bytes
    host_config: bytes
    collateral: bytes

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Evidence, engine config, price table, host config, collateral: 32 bytes each."""
        configs = (self.engine_config, self.price_table, self.host_config)
        return (self.evidence, *configs, self.collateral)

    def check_of(self, index: int, leaf: Leaf) -> None:
        """Whether it is of the entry with this leaf. Raises NotAuthentic."""
        if self.index != index or self.evidence != leaf.evidence_digest:
            raise NotAuthentic(
                "log",
                "other-record",
                f"record: expected that of entry {index} with its Evidence, got another's",
            )

    def to_bytes(self) -> bytes:
        return cbor.encode(dict(enumerate((self.index, *self.digests))))

    @classmethod
    def from_bytes(cls, data: bytes) -> ArchiveRecord:
        """Raises ParseError for anything that is not exactly one record."""
        fields = cbor.decode_map(data, required=frozenset(range(6)), limit=4096)
        _check(type(fields[0]) is int and 0 <= fields[0] < 2**63, "a leaf index")
        good = all(type(fields[key]) is bytes and len(fields[key]) == 32 for key in range(1, 6))
        _check(good, "digests of 32 bytes")
        return cls(*(fields[key] for key in range(6)))


def check_archived(
    leaf: Leaf,
    evidence: bytes,
    engine_config: bytes,
    price_table: bytes,
    host_config: bytes,
    collateral: bytes,
) -> None:
    """What a record names beside the evidence is what leaf and KeyBundle name: no hash covers
    the record itself. Evidence that is none names nothing. Raises NotAuthentic, ParseError."""
    if Collateral.from_bytes(collateral).manifest_digest() != leaf.collateral_digest:
        raise NotAuthentic(
            "log",
            "other-record",
            "record: expected the collateral whose digest is in the leaf, got another set",
        )
    try:
        bundle = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle)
    except ParseError:
        return
    given = (
        ("engine config", engine_digest(engine_config), bundle.engine_digest),
        ("price table", price_digest(price_table), bundle.price_digest),
        ("host config", host_config_digest(host_config), bundle.host_config_digest),
    )
    for what, got, expected in given:
        if got != expected:
            text = (
                f"record, {what}: expected digest {expected.hex()} as in the KeyBundle, "
                f"got {got.hex()}"
            )
            raise NotAuthentic("log", "other-record", text)


def binding_of(evidence: bytes) -> bytes:
    """REPORT_DATA[0:32] that this Evidence calls for: the key of its one leaf.

    Raises ParseError. Says nothing about whether the quote holds it.
    """
    parsed = Evidence.from_bytes(evidence)
    b = bundle_digest(parsed.bundle)
    return report_data_binding(b, gpu_evidence_digest(parsed.devices))


def release_key(manifest: bytes) -> bytes:
    """The key under which a release manifest has its one leaf."""
    return domain_digest("umay/log-release/v1", manifest)


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"submission: expected {expected}, got another value")


def _index(value: Any) -> int | None:
    _check(value is None or type(value) is int, "a leaf index or null")
    return None if value is None else int(value)
