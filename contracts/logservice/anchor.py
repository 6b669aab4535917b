"""The loop that carries a log's checkpoints to its contract.

Invariants: only a checkpoint that the contract's own key signed, with a proof checked
here, is sent (a wrong one would only cost gas); nothing is sent to a forked contract;
success means that the contract was read back. A new leaf after a quiet time is anchored at
once, later ones together, at most one anchor per interval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from attestation.errors import LogError, ParseError, UmayError, Unavailable
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
class Pending:
    """A checkpoint ahead of the contract, its raw signature (64 bytes) and its proof."""

    head: Checkpoint
    signature: bytes
    proof: tuple[bytes, ...]

    def message(self) -> AnchorMessage:
        return AnchorMessage(self.head.size, self.head.root, self.signature, self.proof)


@dataclass
class AnchorLoop:
    """Anchors the log at `log_url` in the contract at `address`.

    interval: least seconds between two anchors; value: nano attached to each, of which
    the contract returns what it does not need.
    """

    log_url: str
    chain: Chain
    wallet: Wallet
    address: str
    interval: float = 60.0
    value: int = ATTACHED
    on_anchor: Callable[[Anchor], None] = lambda anchor: None

    def run(self, stop: threading.Event | None = None) -> None:
        """For ever, or until `stop` is set. An error is logged and tried again, ever more slowly.

        Raises LogError: a log that contradicts itself is nothing to repeat.
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
                logger.warning("anchoring, next try in %.0f s: %s", pause, error)
                continue
            pause = max(self.interval, LOG_POLL_SECONDS) if anchored else LOG_POLL_SECONDS

    def step(self) -> Anchor | None:
        """Anchor the log's checkpoint if it is ahead of the contract; what stands then.

        Raises Unavailable, ParseError, NotAuthentic (not signed by the contract's key),
        LogError (the log shrank, forked, or gave a proof that does not hold).
        """
        anchor = self._read()
        if anchor.forked:
            raise LogError(f"{self.address}: the contract says that this log has forked")
        pending = self._pending(anchor)
        if pending is None:
            return None
        self.wallet.transfer(self.address, self.value, pending.message().to_cell())
        done = self._read_back(pending.head)
        self.on_anchor(done)
        return done

    def _read(self) -> Anchor:
        return read_anchor(self.chain, network="", address=self.address)

    def _pending(self, anchor: Anchor) -> Pending | None:
        note = fetch_checkpoint(self.log_url)
        head = checkpoint.verify(note, origin=anchor.origin, log_key=anchor.log_key)
        if head.size < anchor.size:
            raise LogError(f"log: expected at least {anchor.size} leaves, got {head.size}")
        if head.size == anchor.size:
            if head.root != anchor.root:
                raise LogError(f"log: another root than the anchored one at size {head.size}")
            return None
        proof = fetch_consistency(self.log_url, old=anchor.size, new=head.size)
        verify_consistency(
            old_size=anchor.size,
            old_root=anchor.root,
            new_size=head.size,
            new_root=head.root,
            proof=proof,
        )
        return Pending(head, signature_of(note, key_name=anchor.origin), proof)

    def _read_back(self, head: Checkpoint) -> Anchor:
        until = time.monotonic() + READ_BACK_SECONDS
        while (anchor := self._read()).size < head.size:
            if time.monotonic() > until:
                raise Unavailable(
                    f"{self.address}: expected size {head.size}, got {anchor.size} "
                    f"after {READ_BACK_SECONDS} s"
                )
            time.sleep(POLL_SECONDS)
        return anchor


def signature_of(note: bytes, *, key_name: str) -> bytes:
    """The raw Ed25519 signature of a verified note's own log. Raises ParseError."""
    for line in Note.from_bytes(note).signatures:
        if line.name == key_name and len(line.value) == 64:
            return line.value
    raise ParseError(f"checkpoint: expected an Ed25519 signature of {key_name}, got none")


def fetch_consistency(log_url: str, *, old: int, new: int) -> tuple[bytes, ...]:
    """The log's consistency proof, unchecked. Raises Unavailable or ParseError."""
    body = fetch(f"{log_url}/consistency?from={old}&to={new}")
    try:
        hashes = tuple(bytes.fromhex(item) for item in decode(body, what="consistency")["hashes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ParseError(f"consistency: expected JSON with hashes, got {error!r}") from error
    if len(hashes) > MAX_PROOF or any(len(item) != 32 for item in hashes):
        raise ParseError(f"consistency: expected at most {MAX_PROOF} hashes of 32 bytes")
    return hashes
