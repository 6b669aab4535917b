"""A log and its witnesses: each new checkpoint is offered to them, and carries what they cosign.

A witness that does not answer, or answers wrongly, costs the log nothing: the checkpoint is
served without its line. What a witness says about sizes is believed for nothing but which
proof to send next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attestation.errors import ParseError, Refused, UmayError, Unavailable, UsageError
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosigned_at
from attestation.log.merkle import verify_consistency
from attestation.log.note import COSIGNATURE, Note, Signature, VerifierKey, from_decimal
from attestation.net.http import Http
from attestation.net.timing import Deadlines
from attestation.trust.anchor import Anchor
from contracts.logservice.anchor import fetch_consistency
from contracts.logservice.store import Store
from contracts.logservice.witness import SIZE, AddCheckpoint

SECONDS = 5.0
MAX_ANSWER = 16 * 1024
LOOK_SECONDS = 1.0
KEPT = 64
"""Checkpoints whose cosignatures are remembered."""

logger = logging.getLogger(__name__)


@dataclass
class Peer:
    """A witness: where it takes checkpoints, its key, the size it cosigned last as far as is
    known here."""

    url: str
    key: VerifierKey
    size: int = 0

    def cosign(self, note: bytes, consistency: Callable[[int, int], Sequence[bytes]]) -> Signature:
        """Its line under `note`. Raises Unavailable, ParseError or NotAuthentic."""
        head, signed = checkpoints.parse(note)
        for _ in range(2):
            old = min(self.size, head.size)
            proof = tuple(consistency(old, head.size)) if 0 < old < head.size else ()
            status, media, body = self._post(AddCheckpoint(old, proof, note).to_bytes())
            if status == 200:
                self.size = head.size
                return self._line(signed, body)
            if status != 409 or media != SIZE:
                break
            self.size = from_decimal(body.decode("ascii", "replace").strip(), "witness's size")
        raise Unavailable(f"witness {self.key.name}: HTTP {status}")

    def _line(self, signed: Note, body: bytes) -> Signature:
        """The one of our key; whatever else it sent is ignored."""
        lines = body.decode("utf-8", "replace").splitlines()
        answered = Note(signed.text, tuple(Signature.from_line(line) for line in lines[:16]))
        if cosigned_at(answered, self.key) is None:
            raise ParseError(f"witness {self.key.name}: expected its cosignature, got none")
        return next(line for line in answered.signatures if line.key_id == self.key.key_id)

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        try:
            with Http(Deadlines(whole=SECONDS)) as http:
                url = f"{self.url.rstrip('/')}/add-checkpoint"
                answer = http.ask("POST", url, body, limit=MAX_ANSWER)
        except Unavailable as error:
            raise Unavailable(f"witness {self.key.name}: {error}", again=error.again) from None
        return answer.status, answer.media_type, answer.body


class Witnessing:
    """Keeps cosignatures of the newest checkpoints. `run` in a thread of its own.

    A witness that says not yet is offered the same checkpoint again until it answers: one that
    waits for an anchor could never keep up with a log that grows.
    """

    def __init__(self, store: Store, peers: Sequence[Peer]) -> None:
        self._store, self._peers = store, peers
        self._waiting: dict[bytes, bytes] = {}
        self._lines: dict[str, tuple[Signature, ...]] = {}

    def cosigned(self, note: bytes) -> bytes:
        """The note with the lines that witnesses gave for it."""
        signed = Note.from_bytes(note)
        return Note(signed.text, (*signed.signatures, *self._lines.get(signed.text, ()))).to_bytes()

    def newest(self) -> bytes | None:
        """The newest checkpoint that every witness cosigned, with their lines."""
        whole = [text for text, lines in self._lines.items() if len(lines) == len(self._peers)]
        note = self._store.checkpoint_at(Checkpoint.from_body(whole[-1]).size) if whole else None
        return self.cosigned(note) if note else None

    def run(self, stopped: threading.Event) -> None:
        told = ""
        while not stopped.is_set():
            try:
                self.step()
                text = ""
            except UmayError as error:
                text = str(error)
            if text and text != told:
                logger.warning("witnesses: %s", text)
            told = text
            stopped.wait(LOOK_SECONDS)

    def step(self) -> None:
        """Asks each witness for what it has not cosigned. Raises what the last that failed
        raised."""
        failed: UmayError | None = None
        for peer in self._peers:
            try:
                self._ask(peer)
            except UmayError as error:
                failed = error
        if failed is not None:
            raise failed

    def _ask(self, peer: Peer) -> None:
        note = self._waiting.pop(peer.key.key_id, None) or self._store.checkpoint
        text = Note.from_bytes(note).text
        if any(line.key_id == peer.key.key_id for line in self._lines.get(text, ())):
            return
        try:
            line = peer.cosign(note, self._store.consistency)
        except Unavailable:
            self._waiting[peer.key.key_id] = note
            raise
        kept = {**self._lines, text: (*self._lines.get(text, ()), line)}
        by_size = sorted(kept, key=lambda text: Checkpoint.from_body(text).size)
        self._lines = {text: kept[text] for text in by_size[-KEPT:]}


def only_anchored(read: Callable[[], Anchor], log_url: str) -> Callable[[Checkpoint], None]:
    """What a TON witness says beyond an ordinary one: the contract holds this tree, or one that
    continues it. The log's proof of that is checked here.

    Raises Unavailable while it is not anchored yet, Refused where the contract holds another
    tree, LogError where the log's proof does not hold.
    """

    def confirm(head: Checkpoint) -> None:
        anchor = read()
        if anchor.forked or head.origin != anchor.origin:
            raise Refused("log", "other-log", "the contract is of another log, or says it forked")
        if head.size > anchor.size:
            raise Unavailable(f"size {head.size} is not anchored yet: {anchor.size} is")
        proof: tuple[bytes, ...] = ()
        if 0 < head.size < anchor.size:
            proof = fetch_consistency(log_url, old=head.size, new=anchor.size)
        verify_consistency(
            old_size=head.size,
            old_root=head.root,
            new_size=anchor.size,
            new_root=anchor.root,
            proof=proof,
        )

    return confirm


def parse_witness(url: str, vkey: str) -> Peer:
    """Raises UsageError for an address or a witness's key that is none."""
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"witness: expected an http(s) URL, got {url!r}")
    try:
        return Peer(url, VerifierKey.from_text(vkey, COSIGNATURE))
    except ParseError as error:
        raise UsageError(f"witness: {error}") from None
