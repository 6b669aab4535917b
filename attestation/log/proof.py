"""Inclusion proofs as text (c2sp.org/tlog-proof@v1), with the leaf's bytes as `extra`.

c2sp.org/tlog-proof@v1 ⏎ extra <base64 leaf> ⏎ index <n> ⏎ hashes… ⏎ ⏎ checkpoint
`extra` is unauthenticated until the proof has been checked from its hash.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from attestation.errors import LogError, NotAuthentic, ParseError
from attestation.log import checkpoint as checkpoints
from attestation.log import note
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import MAX_LEAF_BYTES
from attestation.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
"""Sizes stay below 2^63."""


@dataclass(frozen=True)
class Proof:
    """`checkpoint` is a signed note's bytes; `hashes` run from the sibling upwards."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def to_bytes(self) -> bytes:
        lines = [HEADER]
        if self.extra is not None:
            lines.append("extra " + base64.b64encode(self.extra).decode())
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(item).decode() for item in self.hashes]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def from_bytes(cls, data: bytes) -> Proof:
        """Raises ParseError for anything that is not exactly one proof with a checkpoint."""
        text = note.decode_text(data)
        head, separator, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not separator or lines[0] != HEADER:
            raise ParseError(
                f"log proof: expected {HEADER}, proof lines, and a checkpoint, got another form"
            )
        checkpoints.parse(checkpoint.encode())
        extra = _extra(lines[1]) if lines[1:] and lines[1].startswith("extra ") else None
        rest = lines[1:] if extra is None else lines[2:]
        if not rest or not rest[0].startswith("index "):
            raise ParseError("log proof: expected an index line, got another line")
        index = note.from_decimal(rest[0].removeprefix("index "), "proof index")
        return cls(index, _hashes(rest[1:]), checkpoint.encode(), extra)


def verify_proof(proof: bytes, *, origin: str, log_key: bytes) -> tuple[bytes, Checkpoint]:
    """The leaf's bytes and the checkpoint of the log `origin` that holds it.

    `log_key` is 32 raw Ed25519 bytes. Raises ParseError or NotAuthentic("log", …). Whether
    the checkpoint is the anchored one is for the caller to compare.
    """
    parsed = Proof.from_bytes(proof)
    if parsed.extra is None:
        raise ParseError("log proof: expected the leaf in an extra line, got none")
    checkpoint = checkpoints.verify(parsed.checkpoint, origin=origin, log_key=log_key)
    try:
        verify_inclusion(
            leaf_hash(parsed.extra),
            index=parsed.index,
            size=checkpoint.size,
            root=checkpoint.root,
            proof=parsed.hashes,
        )
    except LogError as error:
        raise NotAuthentic("log", "not-included", str(error)) from None
    return parsed.extra, checkpoint


def _extra(line: str) -> bytes:
    extra = note.from_base64(line.removeprefix("extra "), "proof extra")
    if not 0 < len(extra) <= MAX_LEAF_BYTES:
        raise ParseError(
            f"log proof: expected extra data of 1 to {MAX_LEAF_BYTES} bytes, got {len(extra)}"
        )
    return extra


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_HASHES:
        raise ParseError(f"log proof: expected at most {MAX_HASHES} hashes, got {len(lines)}")
    hashes = tuple(note.from_base64(line, "proof hash") for line in lines)
    if any(len(item) != HASH_BYTES for item in hashes):
        raise ParseError(f"log proof: expected hashes of {HASH_BYTES} bytes, got others")
    return hashes
