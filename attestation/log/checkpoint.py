"""Checkpoints (c2sp.org/tlog-checkpoint): a signed note of exactly three lines.

origin ⏎ size ⏎ base64(root) ⏎
The origin is also the name of the log's key. It is at most 60 bytes, so that the body
fits one cell slice of the contract that checks it. No extension lines.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import NotAuthentic, ParseError
from attestation.formats.origin import check_origin
from attestation.log import note
from attestation.log.merkle import EMPTY_ROOT, HASH_BYTES


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: `size` leaves, root of 32 bytes."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_origin(self.origin)
        if not 0 <= self.size < 2**63:
            raise ParseError(f"checkpoint: expected a size below 2^63, got {self.size}")
        if len(self.root) != HASH_BYTES:
            raise ParseError(f"checkpoint: expected a root of 32 bytes, got {len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise ParseError(
                "checkpoint: expected the empty tree's root at size 0, got another root"
            )

    def body(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_body(cls, text: str) -> Checkpoint:
        """Raises ParseError for anything but exactly three lines."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise ParseError(f"checkpoint: expected three lines, got {len(lines) - 1}")
        size = note.from_decimal(lines[1], "checkpoint size")
        return cls(lines[0], size, note.from_base64(lines[2], "checkpoint root"))


def sign(checkpoint: Checkpoint, *, key: Ed25519PrivateKey) -> bytes:
    """The signed note, under the origin as key name."""
    return note.sign(checkpoint.body(), name=checkpoint.origin, key=key).to_bytes()


def parse(data: bytes) -> tuple[Checkpoint, note.Note]:
    """An unverified checkpoint and its note. Raises ParseError."""
    signed = note.Note.from_bytes(data)
    return Checkpoint.from_body(signed.text), signed


def verify(data: bytes, *, origin: str, log_key: bytes) -> Checkpoint:
    """The checkpoint, if the log named `origin` signed it with its raw Ed25519 key.

    Raises ParseError or NotAuthentic("log", …).
    """
    checkpoint, signed = parse(data)
    if checkpoint.origin != origin:
        raise NotAuthentic(
            "log", "other-origin", f"checkpoint: expected the log {origin}, got {checkpoint.origin}"
        )
    signed.verify(note.VerifierKey(origin, log_key))
    return checkpoint
