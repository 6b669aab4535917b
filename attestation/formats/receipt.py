"""Receipt: what an enclave signs about one answer.

The holder can show it to anyone without disclosing the exchange: request and response
are hashed with salts from the HPKE exporter that only the two ends know.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.digests import DIGEST_BYTES, domain_digest, domain_hash

REQUEST_SALT_LABEL = b"umay/receipt/request/v1"
RESPONSE_SALT_LABEL = b"umay/receipt/response/v1"
SALT_BYTES = 32
MAX_RECEIPT_BYTES = 4096
FINISH_REASONS = ("stop", "length", "cancelled", "error")
TIME_GRAIN_S = 60
"""Receipts carry minutes, so that they do not time an exchange."""

_KEYS = frozenset(range(12))


@dataclass(frozen=True)
class Receipt:
    """DESIGN §4. Digests are 32 bytes; `tokens` = (prompt, cached, completion, reasoning);
    `amount` in nano coins; `time` in Unix seconds, a multiple of TIME_GRAIN_S."""

    evidence_digest: bytes
    model_digest: bytes
    request_hash: bytes
    response_hash: bytes
    finish_reason: str
    tokens: tuple[int, int, int, int]
    price_digest: bytes
    amount: int
    time: int
    sequence: int
    deterministic: bytes | None = None

    def to_bytes(self) -> bytes:
        fields: dict[int, object] = {
            0: 1,
            1: self.evidence_digest,
            2: self.model_digest,
            3: self.request_hash,
            4: self.response_hash,
            5: self.finish_reason,
            6: list(self.tokens),
            7: self.price_digest,
            8: self.amount,
            9: self.time,
            10: self.deterministic,
            11: self.sequence,
        }
        return cbor.encode({key: value for key, value in fields.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """Raises ParseError for anything that is not exactly one receipt."""
        fields = cbor.decode_map(data, required=_KEYS - {10}, limit=MAX_RECEIPT_BYTES)
        # A contract writes a receipt again from its fields, so nothing else may be signed in it.
        _check(fields.keys() <= _KEYS, "keys 0 to 11 and no other")
        digests = [fields[key] for key in (1, 2, 3, 4, 7)]
        _check(type(fields[0]) is int and fields[0] == 1, "version 1")
        _check(all(type(d) is bytes and len(d) == DIGEST_BYTES for d in digests), "32-byte digests")
        _check(fields[5] in FINISH_REASONS, f"finish reason one of {FINISH_REASONS}")
        _check(_counts(fields[6], 4) and _counts([fields[8], fields[9], fields[11]], 3), "counts")
        _check(fields[9] % TIME_GRAIN_S == 0, f"a time in steps of {TIME_GRAIN_S} s")
        _check(type(fields.get(10, b"")) is bytes, "deterministic data as bytes")
        tokens = fields[6]
        return cls(
            evidence_digest=fields[1],
            model_digest=fields[2],
            request_hash=fields[3],
            response_hash=fields[4],
            finish_reason=fields[5],
            tokens=(tokens[0], tokens[1], tokens[2], tokens[3]),
            price_digest=fields[7],
            amount=fields[8],
            time=fields[9],
            deterministic=fields.get(10),
            sequence=fields[11],
        )

    def sign(self, key: Ed25519PrivateKey) -> SignedReceipt:
        body = self.to_bytes()
        return SignedReceipt(body, key.sign(_message(body)))


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt's bytes and the Ed25519 signature (64 bytes) over their digest."""

    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        return cbor.encode([self.body, self.signature])

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedReceipt:
        value = cbor.decode(data, limit=MAX_RECEIPT_BYTES + 128)
        _check(
            isinstance(value, list) and [type(item) for item in value] == [bytes, bytes],
            "[body, signature]",
        )
        _check(len(value[1]) == 64, "a 64-byte signature")
        Receipt.from_bytes(value[0])
        return cls(value[0], value[1])

    def open(self, receipt_key: bytes) -> Receipt:
        """The receipt, once its signature holds under B[3] (32 bytes).

        Raises NotAuthentic("receipt", "bad-signature").
        """
        try:
            Ed25519PublicKey.from_public_bytes(receipt_key).verify(
                self.signature, _message(self.body)
            )
        except (InvalidSignature, ValueError):
            raise NotAuthentic(
                "receipt",
                "bad-signature",
                "receipt: expected a signature by the receipt key B[3], got one that does not hold",
            ) from None
        return Receipt.from_bytes(self.body)


def amount_of(price_table: Mapping[str, Any], tokens: tuple[int, int, int, int]) -> int:
    """What `tokens` cost by a price table, in nano coins: prompt and completion tokens, each
    at its price. Raises ParseError for a table without both prices."""
    prompt, _cached, completion, _reasoning = tokens
    return prompt * _price(price_table, "prompt") + completion * _price(price_table, "completion")


class SaltedHash:
    """H("umay/salted/v1\\0" ‖ salt ‖ content), salt of 32 bytes from the HPKE exporter, of content
    that may come in pieces."""

    def __init__(self, salt: bytes, content: bytes = b"") -> None:
        if len(salt) != SALT_BYTES:
            raise ParseError(f"salt: expected {SALT_BYTES} bytes, got {len(salt)}")
        self._state = domain_hash("umay/salted/v1", salt, content)

    def update(self, piece: bytes) -> None:
        self._state.update(piece)

    def digest(self) -> bytes:
        return self._state.digest()

    def matches(self, expected: bytes) -> bool:
        """Whether a receipt's salted hash is of this content."""
        return hmac.compare_digest(expected, self.digest())


def salted_hash(salt: bytes, content: bytes) -> bytes:
    """The same of content that is all there: 32 bytes."""
    return SaltedHash(salt, content).digest()


def matches(expected: bytes, salt: bytes, content: bytes) -> bool:
    """Whether a receipt's salted hash is of this content."""
    return SaltedHash(salt, content).matches(expected)


def _message(body: bytes) -> bytes:
    return domain_digest("umay/receipt/v1", body)


def _price(price_table: Mapping[str, Any], name: str) -> int:
    price = price_table.get(name)
    if type(price) is not int or not 0 <= price < 2**63:
        raise ParseError(
            f"price table: expected {name} as a whole number of nano per token, got another value"
        )
    return price


def _counts(values: object, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"receipt: expected {expected}, got another value")
