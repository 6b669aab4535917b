"""EnclaveProof: everything about one enclave in one file (docs/spec/formats.md).

With this file and a policy anybody can verify the enclave years later, without a network. What
the file says about the chain is the prover's word, and a check says so.
"""

from __future__ import annotations

import dataclasses
import hmac
from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.address import canonical
from attestation.formats.collateral import Collateral
from attestation.formats.digests import DIGEST_BYTES, domain_digest
from attestation.formats.evidence import MAX_EVIDENCE_BYTES
from attestation.formats.origin import check_origin
from attestation.log.proof import Proof
from attestation.trust.anchor import Anchor, BlockRef
from attestation.verify.verifier import Presented
from attestation.wire import MAX_CONFIG_BYTES

MAX_PROOF_BYTES = 512 * 1024
"""A checkpoint's note may be as long; usually 2 kB."""

MAX_NAME = 128
MAX_TIME = 253_402_300_799
"""The last second of the year 9999: what ISO 8601 can say."""

LEVELS = ("reported", "proven")
_KEYS = frozenset(range(10))
_LIMITS = (
    (1, "log proof", MAX_PROOF_BYTES),
    (4, "evidence", MAX_EVIDENCE_BYTES),
    (5, "engine config", MAX_CONFIG_BYTES),
    (6, "price table", MAX_CONFIG_BYTES),
    (7, "host config", MAX_CONFIG_BYTES),
    (8, "collateral", cbor.MAX_BYTES),
)


@dataclass(frozen=True)
class EnclaveProof:
    """`proof` is a tlog-proof with the leaf; the rest as the log archived it."""

    proof: bytes
    anchor: Anchor
    beacon: BlockRef
    evidence: bytes
    engine_config: bytes
    price_table: bytes
    host_config: bytes
    collateral: bytes

    def presented(self) -> Presented:
        """Raises ParseError where the collateral is none."""
        return Presented(
            evidence=self.evidence,
            engine_config=self.engine_config,
            price_table=self.price_table,
            host_config=self.host_config,
            collateral=Collateral.from_bytes(self.collateral),
            proof=self.proof,
        )

    def to_bytes(self) -> bytes:
        beacon = self.beacon
        fields: dict[int, object] = {
            0: 1,
            1: self.proof,
            2: dict(enumerate(_anchor_fields(self.anchor))),
            3: [beacon.seqno, beacon.root_hash, beacon.utime, beacon.level],
            4: self.evidence,
            5: self.engine_config,
            6: self.price_table,
            7: self.host_config,
            8: self.collateral,
        }
        return cbor.encode({**fields, 9: _checksum(fields)})

    @classmethod
    def from_bytes(cls, data: bytes) -> EnclaveProof:
        """Raises ParseError for anything that is not exactly one proof file."""
        fields = cbor.decode_map(data, required=_KEYS)
        _check(fields.keys() == _KEYS, "keys 0 to 9 and no other")
        _check(type(fields[0]) is int and fields[0] == 1, "version 1")
        for key, what, limit in _LIMITS:
            _check(type(fields[key]) is bytes, f"{what} as bytes")
            _check(len(fields[key]) <= limit, f"{what} of at most {limit} bytes")
        given = fields.pop(9)
        good = type(given) is bytes and hmac.compare_digest(given, _checksum(fields))
        _check(good, "key 9 as the digest of the others: the file was damaged")
        _check(Proof.from_bytes(fields[1]).extra is not None, "the leaf in the log proof")
        rest = (fields[key] for key in range(4, 9))
        return cls(fields[1], _anchor(fields[2]), _beacon(fields[3]), *rest)


def _checksum(fields: dict[int, Any]) -> bytes:
    """Against damage only: who makes a file can make this too."""
    return domain_digest("umay/enclave-proof/v1", cbor.encode(fields))


_ANCHOR: tuple[type, ...] = (
    str, str, bytes, str, bytes, int, int, bytes, int, bool, int, str,
)  # fmt: skip
"""In the order of Anchor's fields. The block's number and the Registry are not in the file: what a
file says about the chain is its maker's word."""


def _anchor_fields(anchor: Anchor) -> list[object]:
    names = [field.name for field in dataclasses.fields(Anchor)]
    return [getattr(anchor, name) for name in names[: len(_ANCHOR)]]


def _anchor(value: object) -> Anchor:
    good = isinstance(value, dict) and value.keys() == set(range(len(_ANCHOR)))
    if not good or not isinstance(value, dict):
        raise ParseError("enclave proof: expected an anchor of keys 0 to 11")
    types = tuple(type(value[key]) for key in range(len(_ANCHOR)))
    _check(types == _ANCHOR, "every field of the anchor to have its type")
    anchor = Anchor(*(value[key] for key in range(len(_ANCHOR))))
    check_origin(anchor.origin)
    for digest in (anchor.code_hash, anchor.log_key, anchor.root):
        _check(len(digest) == DIGEST_BYTES, "code hash, log key and root of 32 bytes")
    for number in (anchor.sequence, anchor.size):
        _check(0 <= number < 2**63, "the anchor's numbers below 2^63")
    for moment in (anchor.time, anchor.read_at):
        _check(0 <= moment <= MAX_TIME, "the anchor's times before the year 10000")
    named = 0 < len(anchor.network) <= MAX_NAME and anchor.network.isprintable()
    _check(named, f"a network of 1 to {MAX_NAME} printable characters")
    _account(anchor.address)
    _check(anchor.level in LEVELS, "the anchor's level to be reported or proven")
    return anchor


def _account(text: str) -> None:
    """Any spelling: files are kept for years, and what compares it compares accounts."""
    try:
        canonical(text)
    except ParseError as error:
        raise ParseError(f"enclave proof: contract: {error}") from None


def _beacon(value: object) -> BlockRef:
    types = [type(item) for item in value] if isinstance(value, list) else []
    if not isinstance(value, list) or types != [int, bytes, int, str]:
        raise ParseError("enclave proof: expected key 3 as [seqno, root hash, time, level]")
    seqno, root_hash, utime, level = value
    _check(0 <= seqno < 2**32 and 0 <= utime <= MAX_TIME, "a block's number and time")
    _check(len(root_hash) == DIGEST_BYTES, "a root hash of 32 bytes")
    _check(level in LEVELS, "the beacon's level to be reported or proven")
    return BlockRef(seqno, root_hash, utime, level)


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"enclave proof: expected {expected}")
