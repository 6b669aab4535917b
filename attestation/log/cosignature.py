"""Cosignatures (c2sp.org/tlog-cosignature, Ed25519, type 04).

A witness's word that, at a time, a checkpoint was the largest tree of its log that it had seen,
and continued every earlier one. The timestamped signature is u64 seconds ‖ 64 bytes, over two
lines and the checkpoint's whole text.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic
from attestation.log.note import COSIGNATURE, Note, Signature, VerifierKey, key_id

TIME_BYTES = 8
SIGNATURE_BYTES = 64
MAX_TIME = 2**63 - 1


def cosign(text: str, *, name: str, key: Ed25519PrivateKey, now: int) -> Signature:
    """The line under checkpoint `text` by the witness `name`; `now` in Unix seconds."""
    identity = key_id(name, key.public_key().public_bytes_raw(), COSIGNATURE)
    signature = key.sign(_message(text, now))
    return Signature(name, identity, now.to_bytes(TIME_BYTES) + signature)


def cosigned_at(note: Note, witness: VerifierKey) -> int | None:
    """When `witness` cosigned, in Unix seconds: the latest of its lines; None without one.

    Raises NotAuthentic where a line of its name and id does not hold.
    """
    identity = (witness.name, witness.key_id)
    mine = [line.value for line in note.signatures if (line.name, line.key_id) == identity]
    return max((_time_of(note.text, value, witness) for value in mine), default=None)


def _time_of(text: str, value: bytes, witness: VerifierKey) -> int:
    moment, signature = int.from_bytes(value[:TIME_BYTES]), value[TIME_BYTES:]
    if len(signature) != SIGNATURE_BYTES or moment > MAX_TIME:
        raise _refused(witness)
    try:
        public_key = Ed25519PublicKey.from_public_bytes(witness.public_key)
        public_key.verify(signature, _message(text, moment))
    except (InvalidSignature, ValueError):
        raise _refused(witness) from None
    return moment


def _refused(witness: VerifierKey) -> NotAuthentic:
    return NotAuthentic(
        "log",
        "bad-cosignature",
        f"cosignature: expected one by {witness.name}, got one that does not hold",
    )


def _message(text: str, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{text}".encode()
