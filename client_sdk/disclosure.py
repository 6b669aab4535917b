"""DisclosedReceipt: a receipt, and what of its request and answer the holder shows.

What is shown stands there with its salt, so that anybody can compare it with the receipt's hash.
What is not shown cannot be guessed from the hash, because its salt stays with the holder: a file
with both parts is as secret as the exchange itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attestation.channel import bhttp
from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor, receipt_cose
from attestation.formats.digests import DIGEST_BYTES, sha256
from attestation.formats.receipt import SALT_BYTES, Receipt, SignedReceipt, matches
from attestation.wire import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

MAX_DISCLOSURE_BYTES = MAX_REQUEST_BYTES + MAX_RESPONSE_BYTES + (64 << 10)
_KEYS = frozenset(range(6))


@dataclass(frozen=True)
class Opened:
    """One part of an exchange with the salt (32 bytes) of its hash.

    `content` is the request as binary HTTP without its padding, or the content of the answer with
    its padding, byte for byte.
    """

    salt: bytes = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class DisclosedReceipt:
    """`receipt_key` (32 bytes) is B[3] of the enclave that signed, by the word of the holder:
    only a proof of that enclave shows whose key it is."""

    signed: SignedReceipt
    receipt_key: bytes
    request: Opened | None = None
    response: Opened | None = None
    cose: bytes | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The same for what is kept and what is shown."""
        return receipt_id(self.signed.body)

    def showing(self, *, request: bool, response: bool) -> DisclosedReceipt:
        """The same with no more than these parts."""
        return replace(
            self,
            request=self.request if request else None,
            response=self.response if response else None,
        )

    def check(self) -> Receipt:
        """The receipt, once its signatures hold under `receipt_key` and its hashes are of what is
        shown. Raises NotAuthentic("receipt", …)."""
        receipt = self.signed.open(self.receipt_key)
        if self.cose is not None:
            receipt_cose.check(self.signed.body, self.cose, self.receipt_key)
        for expected, part, what in (
            (receipt.request_hash, self.request, "request"),
            (receipt.response_hash, self.response, "response"),
        ):
            if part is not None and not matches(expected, part.salt, part.content):
                text = f"expected the hash of this {what}, the receipt has another"
                raise NotAuthentic("receipt", f"other-{what}", text)
        return receipt

    def asked(self) -> bhttp.Request | None:
        """The request that is shown. Raises ParseError where it is no binary HTTP."""
        return bhttp.decode_request(self.request.content) if self.request else None

    def to_bytes(self) -> bytes:
        fields: dict[int, object] = {
            0: 1,
            1: self.signed.to_bytes(),
            2: self.receipt_key,
            3: _pair(self.request),
            4: _pair(self.response),
            5: self.cose,
        }
        return cbor.encode({key: value for key, value in fields.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> DisclosedReceipt:
        """Raises ParseError for anything that is not exactly one. `check` judges it."""
        fields = cbor.decode_map(data, required=frozenset(range(3)), limit=MAX_DISCLOSURE_BYTES)
        _expect(fields.keys() <= _KEYS, "keys 0 to 5 and no other")
        _expect(type(fields[0]) is int and fields[0] == 1, "version 1")
        _expect(type(fields[1]) is bytes, "the signed receipt as bytes")
        _expect(_sized(fields[2], DIGEST_BYTES), "a receipt key of 32 bytes")
        cose = fields.get(5)
        _expect(
            5 not in fields or _sized(cose, receipt_cose.SIGNATURE_BYTES),
            "a COSE signature of 64 bytes",
        )
        return cls(
            SignedReceipt.from_bytes(fields[1]),
            fields[2],
            request=_opened(fields, 3),
            response=_opened(fields, 4),
            cose=cose,
        )


def receipt_id(body: bytes) -> str:
    """32 hex digits of the hash of a receipt's bytes."""
    return sha256(body)[:16].hex()


def _pair(part: Opened | None) -> list[bytes] | None:
    return None if part is None else [part.salt, part.content]


def _opened(fields: dict[int, object], key: int) -> Opened | None:
    if key not in fields:
        return None
    value = fields[key]
    if not isinstance(value, list) or [type(item) for item in value] != [bytes, bytes]:
        raise ParseError(f"disclosed receipt: expected [salt, content] at key {key}")
    _expect(len(value[0]) == SALT_BYTES, f"a salt of {SALT_BYTES} bytes at key {key}")
    return Opened(value[0], value[1])


def _sized(value: object, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _expect(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"disclosed receipt: expected {expected}, got another value")
