"""One sealed exchange with a verified enclave, sans-I/O: seal, push, finish, check.

Nothing is sealed to anything but a VerifiedEnclave. Bytes are released once they have
authenticated; only when `finish` has returned is the answer whole and its receipt checked.
An exchange serves one request: a retry is a new one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attestation.channel import bhttp, padding
from attestation.channel.client import ClientRequest
from attestation.channel.messages import first
from attestation.errors import ChannelError, NotAuthentic, ParseError, SessionExpired, UsageError
from attestation.formats import receipt_cose
from attestation.formats.keys import KeyBundle
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    Receipt,
    SaltedHash,
    SignedReceipt,
    amount_of,
    matches,
)
from attestation.formats.session import check_gone
from attestation.verify.verdict import VerifiedEnclave, reporting
from attestation.wire import (
    MAX_REQUEST_BYTES,
    RECEIPT_COSE_TRAILER,
    RECEIPT_SALTS_FIELD,
    RECEIPT_TRAILER,
    read_idempotency_key,
)
from client_sdk.disclosure import DisclosedReceipt, Opened

MAX_KEPT_BYTES = 1 << 20
"""Of an answer's content, so that its receipt can be disclosed."""


@dataclass(frozen=True)
class CheckedReceipt:
    """A receipt that holds for this very exchange, and its signed bytes to keep.

    The salts let its holder show to anyone what was asked and answered: they are secret.
    `cose` is the signature that makes it a COSE_Sign1, where the enclave gave one.
    """

    receipt: Receipt
    signed: SignedReceipt
    request_salt: bytes = field(repr=False)
    response_salt: bytes = field(repr=False)
    cose: bytes | None = None

    def __repr__(self) -> str:
        """Neither salts nor token counts: lengths are private too."""
        model, evidence = self.receipt.model_digest.hex(), self.receipt.evidence_digest.hex()
        return f"<CheckedReceipt of evidence {evidence[:16]}…, model {model[:16]}…>"


class SealedExchange:
    """`body` is what to POST; `push` what comes back, then `finish`.

    `pq` is the policy's floor, `now` Unix seconds. A retry repeats `request` with its
    idempotency key; `earlier` are the enclaves that it was sealed to before, whose receipt the
    answer may have. For its disclosure, content of at most MAX_KEPT_BYTES is kept, with `keep` all
    of it. Raises Refused when the verification has expired or no key reaches the floor, ParseError
    for a request over the limit or a key of another form.
    """

    def __init__(
        self,
        enclave: VerifiedEnclave,
        request: bhttp.Request,
        *,
        pq: str,
        now: int,
        earlier: Sequence[VerifiedEnclave] = (),
        keep: bool = False,
    ) -> None:
        self.enclave, self._earlier = enclave, tuple(earlier)
        self._keyed = read_idempotency_key(request.headers) is not None
        self._client = ClientRequest.to(enclave, pq=pq, now=now)
        self._message = bhttp.encode_request(request)
        self.media_type = self._client.media_type
        self.response_media_type = self._client.response_media_type
        padded = padding.pad_request(self._message, limit=MAX_REQUEST_BYTES)
        self.body = self._client.seal(padded)
        self._response = self._client.response()
        self._decoder = bhttp.response_decoder()
        self._keeps = keep
        self._content: bytearray | None = bytearray()
        self._salts = self._own_salts()
        self._hash = SaltedHash(self._salts[1])
        self._trailers: bhttp.Fields = ()

    def session_gone(self, word: bytes) -> SessionExpired:
        """What an enclave's signed `word` (wire.SESSION_GONE) says of this request: that it was
        not executed and never will be. Raises NotAuthentic where it is another's word."""
        check_gone(
            self.enclave.bundle.receipt_key,
            word,
            evidence=self.enclave.evidence_digest,
            clear=self._client.clear,
        )
        return SessionExpired(
            "the enclave does not hold this session any more, and did not run the request",
            clear=self._client.clear,
        )

    def push(self, data: bytes) -> list[bhttp.Event]:
        """Events that these bytes complete. Raises ChannelError or ParseError."""
        return self._events(self._response.push(data))

    def finish(self) -> list[bhttp.Event]:
        """The last events. Raises Truncated where the answer was cut."""
        last = self._response.finish()
        events = self._events([last] if last else [])
        return events + self._noted(self._decoder.finish())

    def receipt(self) -> CheckedReceipt:
        """The receipt of the finished exchange, checked against all that was sealed.

        Raises ChannelError where there is none, NotAuthentic("receipt", …) where it is
        not of this exchange.
        """
        encoded = self._trailer(RECEIPT_TRAILER)
        if encoded is None:
            raise ChannelError("answer: expected a receipt in its trailer, got none")
        with reporting(self.enclave.report):
            return self._checked(encoded)

    def _checked(self, encoded: bytes) -> CheckedReceipt:
        signed = SignedReceipt.from_bytes(_decode(encoded, "receipt"))
        receipt = signed.open(self.enclave.bundle.receipt_key)
        request_salt, response_salt = self._salts
        check_receipt(receipt, self._signer(receipt))
        _of_this(matches(receipt.request_hash, request_salt, self._message), "request")
        _of_this(self._hash.matches(receipt.response_hash), "response")
        return CheckedReceipt(receipt, signed, request_salt, response_salt, self._cose(signed))

    def disclosure(self, checked: CheckedReceipt) -> DisclosedReceipt:
        """This exchange's receipt with all that it is of, to keep or to show. Raises UsageError
        where the content was too long to be kept."""
        if self._content is None:
            raise UsageError(
                f"answer: expected at most {MAX_KEPT_BYTES} bytes, it is longer and was not kept; "
                "to disclose such answers, make the client with keep_answers=True"
            )
        return DisclosedReceipt(
            checked.signed,
            self.enclave.bundle.receipt_key,
            request=Opened(checked.request_salt, self._message),
            response=Opened(checked.response_salt, bytes(self._content)),
            cose=checked.cose,
        )

    def _cose(self, signed: SignedReceipt) -> bytes | None:
        encoded = self._trailer(RECEIPT_COSE_TRAILER)
        if encoded is None:
            return None
        signature = _decode(encoded, "COSE signature")
        receipt_cose.check(signed.body, signature, self.enclave.bundle.receipt_key)
        return signature

    def _own_salts(self) -> tuple[bytes, bytes]:
        export = self._client.export
        return export(REQUEST_SALT_LABEL, SALT_BYTES), export(RESPONSE_SALT_LABEL, SALT_BYTES)

    def _read_salts(self, head: bhttp.ResponseHead) -> None:
        """A repeated answer brings those of the exchange that it first went to.

        Whatever they are, the receipt holds only where its hashes are of this request and answer.
        """
        encoded = first(head.headers, RECEIPT_SALTS_FIELD)
        if encoded is None or not self._keyed:
            return
        salts = _decode(encoded, "salts")
        if len(salts) != 2 * SALT_BYTES:
            raise ParseError(f"salts: expected {2 * SALT_BYTES} bytes, got {len(salts)}")
        self._salts = salts[:SALT_BYTES], salts[SALT_BYTES:]
        self._hash = SaltedHash(self._salts[1])

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        if self._content is not None:
            self._content += piece
            if not self._keeps and len(self._content) > MAX_KEPT_BYTES:
                self._content = None

    def _signer(self, receipt: Receipt) -> VerifiedEnclave:
        """The enclave whose evidence the receipt should name: of an earlier attempt at the same
        boot, where the answer was given to that."""
        receipt_key, named = self.enclave.bundle.receipt_key, receipt.evidence_digest
        for before in self._earlier if self._keyed else ():
            if before.bundle.receipt_key == receipt_key and before.evidence_digest == named:
                return before
        return self.enclave

    def _trailer(self, name: bytes) -> bytes | None:
        return first(self._trailers, name)

    def _events(self, plaintexts: list[bytes]) -> list[bhttp.Event]:
        events: list[bhttp.Event] = []
        for plaintext in plaintexts:
            events += self._noted(self._decoder.push(plaintext))
        return events

    def _noted(self, events: list[bhttp.Event]) -> list[bhttp.Event]:
        for event in events:
            if isinstance(event, bhttp.ResponseHead):
                self._read_salts(event)
            elif isinstance(event, bhttp.Content):
                self._take(event.data)
            elif isinstance(event, bhttp.Trailers):
                self._trailers = event.fields
        return events


def check_receipt(receipt: Receipt, enclave: VerifiedEnclave) -> None:
    """Raises NotAuthentic unless the receipt names this evidence, model and price, and
    charges by it."""
    check_terms(receipt, enclave.evidence_digest, enclave.bundle, enclave.price_table)


def check_terms(
    receipt: Receipt, evidence_digest: bytes, bundle: KeyBundle, price_table: Mapping[str, Any]
) -> None:
    """The same of the parts of an enclave, whoever verified them: the digest of its evidence (32
    bytes), its key bundle, its price table. Raises NotAuthentic("receipt", "other-…")."""
    named = (
        ("evidence", receipt.evidence_digest, evidence_digest),
        ("model", receipt.model_digest, bundle.model_digest),
        ("price", receipt.price_digest, bundle.price_digest),
    )
    for what, got, expected in named:
        if got != expected:
            raise NotAuthentic(
                "receipt", f"other-{what}", f"expected {what} {expected.hex()}, got {got.hex()}"
            )
    due = amount_of(price_table, receipt.tokens)
    if receipt.amount != due:
        text = f"expected {due} nano by the price table, got {receipt.amount}"
        raise NotAuthentic("receipt", "other-amount", text)


def _of_this(good: bool, what: str) -> None:
    if not good:
        raise NotAuthentic(
            "receipt", f"other-{what}", f"expected the hash of this {what}, the receipt has another"
        )


def _decode(encoded: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise ParseError(f"{what}: expected base64") from None


__all__ = ["CheckedReceipt", "SealedExchange", "check_receipt", "check_terms"]
