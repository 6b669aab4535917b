"""Checking a receipt that somebody shows: by anyone, years later, without a network.

The file alone proves that whoever has its key signed the receipt, and that what is shown is what
the receipt is of. A proof of the enclave (`umay audit prove`) adds whose key that is. Without one
nothing is claimed about it, and the check is incomplete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.errors import NotAuthentic
from attestation.formats import json, receipt_cose
from attestation.formats.dates import dated
from attestation.formats.evidence import Evidence, evidence_digest
from attestation.formats.keys import KeyBundle
from attestation.formats.receipt import TIME_GRAIN_S, Receipt
from attestation.trust.policy import Policy
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.proving import HERE, NOT_SHOWN, CheckedProof, Statement
from client_sdk.auditing.proving import check as check_enclave
from client_sdk.disclosure import DisclosedReceipt, receipt_id
from client_sdk.session import check_terms
from contracts.chain import ReadOnlyChain

WORD = "the holder's word: give a proof of the enclave"
_TABLE = "price table"
LONGEST_ANSWER_S = 3600
"""After the end of an epoch, for answers that it began: they are signed when they end."""


@dataclass(frozen=True)
class CoseReceipt:
    """A receipt as COSE_Sign1: nothing of the exchange is shown, and no key is named."""

    body: bytes
    signature: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> CoseReceipt:
        """Raises ParseError for another file."""
        return cls(*receipt_cose.decode(data))

    @property
    def id(self) -> str:
        """Of the receipt, as where it is disclosed."""
        return receipt_id(self.body)

    def check(self, receipt_key: bytes) -> Receipt:
        """Raises NotAuthentic("receipt", "bad-cose-signature")."""
        receipt_cose.check(self.body, self.signature, receipt_key)
        return Receipt.from_bytes(self.body)


@dataclass(frozen=True)
class ReceiptCheck:
    """What holds, what each statement rests on, and the check of the enclave's proof."""

    receipt: Receipt
    statements: tuple[Statement, ...]
    enclave: CheckedProof | None

    @property
    def exit_code(self) -> int:
        return 6 if self.enclave is None else self.enclave.exit_code

    @property
    def verdict(self) -> str:
        if self.enclave is None:
            return "incomplete: nothing shows whose key signed it"
        return {
            0: "the receipt holds, as far as what it rests on is true",
            1: "the receipt does not hold, because the proof of the enclave does not",
            6: "incomplete: something of the enclave could not be checked",
        }[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.exit_code == 0,
            "verdict": self.verdict,
            "receipt": fields_of(self.receipt),
            "statements": [vars(statement) for statement in self.statements],
            "enclave": self.enclave.to_json() if self.enclave else None,
        }


def read(data: bytes) -> DisclosedReceipt | CoseReceipt:
    """Whichever it is. Raises ParseError for any other file."""
    if data[:1] == receipt_cose.TAG:
        return CoseReceipt.from_bytes(data)
    return DisclosedReceipt.from_bytes(data)


def check_alone(shown: DisclosedReceipt | CoseReceipt) -> ReceiptCheck:
    """Without a proof of the enclave: never more than incomplete. Raises NotAuthentic where a
    signature or hash does not hold."""
    key = "the key that signed it is an enclave's"
    if isinstance(shown, DisclosedReceipt):
        receipt = shown.check()
        return ReceiptCheck(receipt, (*_shown(shown), Statement(key, WORD)), None)
    text = "the receipt is signed: a COSE file names no key to check that with"
    receipt = Receipt.from_bytes(shown.body)
    return ReceiptCheck(receipt, (Statement(text, NOT_SHOWN), Statement(key, WORD)), None)


def check(
    shown: DisclosedReceipt | CoseReceipt,
    proof: EnclaveProof,
    policy: Policy,
    chain: ReadOnlyChain | None = None,
) -> ReceiptCheck:
    """With the proof of its enclave; `chain` as for `umay audit check-proof`.

    Raises NotAuthentic where a signature or hash does not hold, or the receipt is not of the
    enclave of `proof`; ParseError and Unavailable as the check of the proof does.
    """
    bundle = KeyBundle.from_bytes(Evidence.from_bytes(proof.evidence).bundle)
    receipt = _of_key(shown, bundle.receipt_key)
    prices = json.object_of(json.decode(proof.price_table, what=_TABLE), what=_TABLE)
    check_terms(receipt, evidence_digest(proof.evidence), bundle, prices)
    _check_time(receipt, bundle)
    enclave = check_enclave(proof, policy, chain)
    rests = HERE if enclave.exit_code == 0 else NOT_SHOWN
    statements = (
        *_shown(shown),
        Statement(f"the enclave of log entry {enclave.index} signed the receipt", rests),
        Statement("the amount is by the price table of this enclave", rests),
        *enclave.statements,
    )
    return ReceiptCheck(receipt, statements, enclave)


def _of_key(shown: DisclosedReceipt | CoseReceipt, receipt_key: bytes) -> Receipt:
    if isinstance(shown, CoseReceipt):
        return shown.check(receipt_key)
    if shown.receipt_key != receipt_key:
        raise NotAuthentic(
            "receipt",
            "other-key",
            f"expected the receipt key of the proven enclave, {receipt_key.hex()}, "
            f"got {shown.receipt_key.hex()}; give the proof of the boot that signed it",
        )
    return shown.check()


def _check_time(receipt: Receipt, bundle: KeyBundle) -> None:
    first, last = bundle.not_before - TIME_GRAIN_S, bundle.not_after + LONGEST_ANSWER_S
    if not first < receipt.time <= last:
        raise NotAuthentic(
            "receipt",
            "out-of-time",
            f"expected a time of the enclave's keys, from {dated(bundle.not_before)} to "
            f"{dated(bundle.not_after)} and the end of its last answer, got {dated(receipt.time)}",
        )


def _shown(shown: DisclosedReceipt | CoseReceipt) -> list[Statement]:
    if isinstance(shown, CoseReceipt):
        return [Statement("the receipt is signed by the receipt key of this enclave", HERE)]
    parts = (("request", shown.request), ("answer", shown.response))
    return [
        Statement("the receipt is signed by the key that the file names", HERE),
        *(
            Statement(f"the {what} in the file is the one of the receipt", HERE)
            if part
            else Statement(f"what the {what} was", NOT_SHOWN)
            for what, part in parts
        ),
    ]


def fields_of(receipt: Receipt) -> dict[str, Any]:
    """A receipt's fields by name; digests as hex, tokens each by its name."""
    names = ("prompt", "cached", "completion", "reasoning")
    return {
        "sequence": receipt.sequence,
        "time": receipt.time,
        "evidence": receipt.evidence_digest.hex(),
        "model": receipt.model_digest.hex(),
        "finish_reason": receipt.finish_reason,
        "tokens": dict(zip(names, receipt.tokens, strict=True)),
        "amount": receipt.amount,
        "price_table": receipt.price_digest.hex(),
        "request_hash": receipt.request_hash.hex(),
        "response_hash": receipt.response_hash.hex(),
    }
