"""One sealed exchange with a verified enclave, sans-I/O: seal, push, finish, check.

Nothing is sealed to anything but a VerifiedEnclave. Bytes are released once they have
authenticated; only when `finish` has returned is the answer whole and its receipt checked.
An exchange serves one request: a retry is a new one.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from attestation.channel import bhttp, padding
from attestation.channel.client import ClientRequest
from attestation.errors import ChannelError, NotAuthentic, ParseError
from attestation.formats.keys import KeyBundle
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    Receipt,
    SignedReceipt,
    amount_of,
    matches,
)
from attestation.verify.verdict import VerifiedEnclave
from attestation.wire import MAX_REQUEST_BYTES, RECEIPT_TRAILER


@dataclass(frozen=True)
class CheckedReceipt:
    """A receipt that holds for this very exchange, and its signed bytes to keep.

    The salts let its holder show to anyone what was asked and answered.
    """

    receipt: Receipt
    signed: SignedReceipt
    request_salt: bytes = field(repr=False)
    response_salt: bytes = field(repr=False)

    def __repr__(self) -> str:
        """Neither salts nor token counts: lengths are private too."""
        model, evidence = self.receipt.model_digest.hex(), self.receipt.evidence_digest.hex()
        return f"<CheckedReceipt of evidence {evidence[:16]}…, model {model[:16]}…>"


class SealedExchange:
    """`body` is what to POST; `push` what comes back, then `finish`.

    `pq` is the policy's floor, `now` Unix seconds. Raises Refused when the verification
    has expired or no key reaches the floor, ParseError for a request over the limit.
    """

    def __init__(
        self, enclave: VerifiedEnclave, request: bhttp.Request, *, pq: str, now: int
    ) -> None:
        self.enclave = enclave
        self._client = ClientRequest.to(enclave, pq=pq, now=now)
        self._message = bhttp.encode_request(request)
        self.media_type = self._client.media_type
        self.response_media_type = self._client.response_media_type
        padded = padding.pad_request(self._message, limit=MAX_REQUEST_BYTES)
        self.body = self._client.seal(padded)
        self._response = self._client.response()
        self._decoder = bhttp.response_decoder()
        self._content = bytearray()
        self._trailers: bhttp.Fields = ()

    def push(self, data: bytes) -> list[bhttp.Event]:
        """Events that these bytes complete. Raises ChannelError or ParseError."""
        return self._events(self._response.push(data))

    def finish(self) -> list[bhttp.Event]:
        """The last events. Raises Truncated where the answer was cut."""
        last = self._response.finish()
        events = self._events([last] if last else [])
        return events + self._keep(self._decoder.finish())

    def receipt(self) -> CheckedReceipt:
        """The receipt of the finished exchange, checked against all that was sealed.

        Raises ChannelError where there is none, NotAuthentic("receipt", …) where it is
        not of this exchange.
        """
        encoded = next((value for name, value in self._trailers if name == RECEIPT_TRAILER), None)
        if encoded is None:
            raise ChannelError("answer: expected a receipt in its trailer, got none")
        signed = SignedReceipt.from_bytes(_decode(encoded))
        receipt = signed.open(self.enclave.bundle.receipt_key)
        salts = [
            self._client.export(label, SALT_BYTES)
            for label in (REQUEST_SALT_LABEL, RESPONSE_SALT_LABEL)
        ]
        check_receipt(receipt, self.enclave)
        _hash(receipt.request_hash, salts[0], self._message, "request")
        _hash(receipt.response_hash, salts[1], bytes(self._content), "response")
        return CheckedReceipt(receipt, signed, salts[0], salts[1])

    def _events(self, plaintexts: list[bytes]) -> list[bhttp.Event]:
        events: list[bhttp.Event] = []
        for plaintext in plaintexts:
            events += self._keep(self._decoder.push(plaintext))
        return events

    def _keep(self, events: list[bhttp.Event]) -> list[bhttp.Event]:
        for event in events:
            if isinstance(event, bhttp.Content):
                self._content += event.data
            elif isinstance(event, bhttp.Trailers):
                self._trailers = event.fields
        return events


def check_receipt(receipt: Receipt, enclave: VerifiedEnclave) -> None:
    """Raises NotAuthentic unless the receipt names this evidence, model and price, and
    charges by it."""
    bundle: KeyBundle = enclave.bundle
    named = (
        ("evidence", receipt.evidence_digest, enclave.evidence_digest),
        ("model", receipt.model_digest, bundle.model_digest),
        ("price", receipt.price_digest, bundle.price_digest),
    )
    for what, got, expected in named:
        if got != expected:
            raise NotAuthentic(
                "receipt", f"other-{what}", f"expected {what} {expected.hex()}, got {got.hex()}"
            )
    due = amount_of(enclave.price_table, receipt.tokens)
    if receipt.amount != due:
        text = f"expected {due} nano by the price table, got {receipt.amount}"
        raise NotAuthentic("receipt", "other-amount", text)


def _hash(expected: bytes, salt: bytes, content: bytes, what: str) -> None:
    if not matches(expected, salt, content):
        raise NotAuthentic(
            "receipt", f"other-{what}", f"expected the hash of this {what}, the receipt has another"
        )


def _decode(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise ParseError("receipt: expected base64") from None


__all__ = ["CheckedReceipt", "SealedExchange", "check_receipt"]
