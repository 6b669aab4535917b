"""The loop that sends a log's checkpoints to its contract.

Invariants: a checkpoint is sent only if the contract's log key signed it and its proof was checked
here (a wrong one would only cost gas); nothing is sent to a forked contract; success means that
the contract was read afterwards and has the checkpoint. The first leaf after a quiet time is
anchored at once, later ones together, with at most one anchor per interval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from attestation.errors import LogError, NotThere, ParseError, UmayError, Unavailable
from attestation.formats.json import decode
from attestation.log import checkpoint
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import verify_consistency
from attestation.log.note import Note
from attestation.trust.anchor import Anchor
from contracts.chain import Chain
from contracts.codec import MAX_PROOF, AnchorMessage
from contracts.log_client import fetch, fetch_checkpoint
from contracts.reader import read_anchor
from contracts.wallet import POLL_SECONDS, Wallet

ATTACHED = 100_000_000  # nano; the contract returns what it does not need
READ_BACK_SECONDS = 90
LOG_POLL_SECONDS = 1.0
MAX_BACKOFF = 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingAnchor:
    """A checkpoint that is newer than the contract's, its raw signature (64 bytes) and its
    proof."""

    head: Checkpoint
    signature: bytes
    proof: tuple[bytes, ...]

    def message(self) -> AnchorMessage:
        return AnchorMessage(self.head.size, self.head.root, self.signature, self.proof)


@dataclass
class AnchorLoop:
    """Anchors the log at `log_url` in the contract at `address`.

    interval: minimum seconds between two anchors; value: nano attached to each, of which the
    contract returns the rest. cosigned: only what enough witnesses cosigned.
    """

    log_url: str
    chain: Chain
    wallet: Wallet
    address: str
    interval: float = 60.0
    value: int = ATTACHED
    on_anchor: Callable[[Anchor], None] = lambda anchor: None
    cosigned: bool = False

    def run(self, stop: threading.Event | None = None) -> None:
        """Anchor until `stop` is set. After an error it logs a warning and tries again, with a
        pause that doubles up to MAX_BACKOFF seconds.

        Raises LogError if the log contradicts itself, because trying again would not help.
        """
        stop = stop or threading.Event()
        pause = 0.0
        while not stop.wait(pause):
            try:
                anchored = self.step()
            except LogError:
                raise
            except UmayError as error:
                pause = min(max(pause, LOG_POLL_SECONDS) * 2, MAX_BACKOFF)
                logger.warning("anchoring failed, the next try is in %.0f s: %s", pause, error)
                continue
            pause = max(self.interval, LOG_POLL_SECONDS) if anchored else LOG_POLL_SECONDS

    def step(self) -> Anchor | None:
        """Anchor the log's checkpoint if it is newer than the contract's; return the new anchor.

        Raises Unavailable, ParseError, NotAuthentic (not signed by the contract's key),
        LogError (the log shrank, forked, or gave an invalid proof).
        """
        anchor = self._read()
        if anchor.forked:
            raise LogError(
                f"contract {self.address}: it has recorded that the log {anchor.origin} forked"
            )
        pending = self._pending(anchor)
        if pending is None:
            return None
        self.wallet.transfer(self.address, self.value, pending.message().to_cell())
        done = self._read_back(pending.head)
        self.on_anchor(done)
        return done

    def _read(self) -> Anchor:
        return read_anchor(self.chain, network="", address=self.address)

    def _pending(self, anchor: Anchor) -> PendingAnchor | None:
        note = self._newest()
        if note is None:
            return None
        head = checkpoint.verify(note, origin=anchor.origin, log_key=anchor.log_key)
        if head.size < anchor.size and self.cosigned:
            return None  # witnesses may be behind what was anchored without them
        if head.size < anchor.size:
            raise LogError(
                f"{self.log_url}: expected at least the {anchor.size} entries of the anchor, got "
                f"{head.size}"
            )
        if head.size == anchor.size:
            if head.root != anchor.root:
                raise LogError(
                    f"{self.log_url}: expected the anchored root {anchor.root.hex()} at size "
                    f"{head.size}, got {head.root.hex()}"
                )
            return None
        proof = fetch_consistency(self.log_url, old=anchor.size, new=head.size)
        verify_consistency(
            old_size=anchor.size,
            old_root=anchor.root,
            new_size=head.size,
            new_root=head.root,
            proof=proof,
        )
        return PendingAnchor(head, signature_of(note, key_name=anchor.origin), proof)

    def _newest(self) -> bytes | None:
        """None where nothing is cosigned yet."""
        if not self.cosigned:
            return fetch_checkpoint(self.log_url)
        try:
            return fetch(f"{self.log_url}/cosigned")
        except NotThere:
            return None

    def _read_back(self, head: Checkpoint) -> Anchor:
        until = time.monotonic() + READ_BACK_SECONDS
        while (anchor := self._read()).size < head.size:
            if time.monotonic() > until:
                raise Unavailable(
                    f"contract {self.address}: expected size {head.size} within "
                    f"{READ_BACK_SECONDS} s, got {anchor.size}"
                )
            time.sleep(POLL_SECONDS)
        return anchor


def signature_of(note: bytes, *, key_name: str) -> bytes:
    """The log's own raw Ed25519 signature (64 bytes) under a verified note. Raises ParseError."""
    for line in Note.from_bytes(note).signatures:
        if line.name == key_name and len(line.value) == 64:
            return line.value
    raise ParseError(f"checkpoint: expected an Ed25519 signature by {key_name}, found none")


def fetch_consistency(log_url: str, *, old: int, new: int) -> tuple[bytes, ...]:
    """The log's consistency proof, unchecked. Raises Unavailable or ParseError."""
    body = fetch(f"{log_url}/consistency?from={old}&to={new}")
    try:
        hashes = tuple(bytes.fromhex(item) for item in decode(body, what="consistency")["hashes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ParseError(
            f"{log_url}/consistency: expected JSON with the field hashes, a list of hex digests, "
            "got "
            f"another content ({error!r})"
        ) from error
    if len(hashes) > MAX_PROOF or any(len(item) != 32 for item in hashes):
        raise ParseError(
            f"{log_url}/consistency: expected at most {MAX_PROOF} hashes of 32 bytes, got "
            f"{len(hashes)} hashes or one of another length"
        )
    return hashes
