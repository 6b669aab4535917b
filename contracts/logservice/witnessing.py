"""Sends each new checkpoint of a log to its witnesses and collects their cosignatures.

A witness that does not answer, or gives a wrong answer, does not disturb the log: the checkpoint
is served without its line. The size that a witness reports only decides which proof is sent next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attestation.errors import ParseError, Refused, UmayError, Unavailable, UsageError
from attestation.formats.dates import dated
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosigned_at
from attestation.log.merkle import verify_consistency
from attestation.log.note import COSIGNATURE, Note, Signature, VerifierKey, from_decimal
from attestation.net.error_text import redacted_url
from attestation.net.http import Http
from attestation.net.timing import Deadlines
from attestation.net.url import checked_url
from attestation.trust.anchor import Anchor
from contracts.logservice.anchor import fetch_consistency
from contracts.logservice.store import Store
from contracts.logservice.witness import SIZE, AddCheckpoint

SECONDS = 5.0
MAX_ANSWER = 16 * 1024
LOOK_SECONDS = 1.0
REFRESH_SECONDS = 300
"""A cosignature is asked for again at this age: a policy bounds how old it may be."""

KEPT = 64
"""Number of checkpoints whose cosignatures are remembered."""

logger = logging.getLogger(__name__)


@dataclass
class RemoteWitness:
    """A witness: its address, its verifier key, and the size of the checkpoint that it cosigned
    last, as far as this log knows."""

    url: str
    key: VerifierKey
    size: int = 0

    def cosign(self, note: bytes, consistency: Callable[[int, int], Sequence[bytes]]) -> Signature:
        """The witness's signature line for `note`. Raises Unavailable, ParseError or
        NotAuthentic."""
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
        raise Unavailable(
            f"witness {self.key.name} at {self.url}: expected HTTP 200 with a cosignature, got "
            "HTTP "
            f"{status}"
        )

    def _line(self, signed: Note, body: bytes) -> Signature:
        """The line of this witness's key. Other lines in the answer are ignored."""
        lines = body.decode("utf-8", "replace").splitlines()
        answered = Note(signed.text, tuple(Signature.from_line(line) for line in lines[:16]))
        if cosigned_at(answered, self.key) is None:
            raise ParseError(
                f"witness {self.key.name} at {self.url}: expected a cosignature by its key, "
                "found none"
            )
        return next(line for line in answered.signatures if line.key_id == self.key.key_id)

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        try:
            with Http(Deadlines(whole=SECONDS)) as http:
                url = f"{self.url.rstrip('/')}/add-checkpoint"
                answer = http.ask("POST", url, body, limit=MAX_ANSWER)
        except Unavailable as error:
            text = f"witness {self.key.name}: {error}"
            raise Unavailable(text, again=error.again) from None
        return answer.status, answer.media_type, answer.body


class Witnessing:
    """Collects the cosignatures of the newest checkpoints. Call `run` in a separate thread.

    A witness that answers "not yet" gets the same checkpoint again until it cosigns it, because a
    witness that waits for an anchor could never follow a growing log otherwise.
    """

    def __init__(
        self,
        store: Store,
        peers: Sequence[RemoteWitness],
        *,
        enough: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`enough` cosignatures make a checkpoint one that `newest` shows; None means all."""
        self._store, self._peers, self._clock = store, peers, clock
        self._enough = len(peers) if enough is None else enough
        self._waiting: dict[bytes, bytes] = {}
        self._lines: dict[str, tuple[Signature, ...]] = {}

    def cosigned(self, note: bytes) -> bytes:
        """The note with the cosignatures that the witnesses gave for it."""
        signed = Note.from_bytes(note)
        return Note(signed.text, (*signed.signatures, *self._lines.get(signed.text, ()))).to_bytes()

    def newest(self) -> bytes | None:
        """The newest checkpoint that enough witnesses cosigned, with their signature lines."""
        whole = [text for text, lines in self._lines.items() if len(lines) >= self._enough]
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
        """Ask each witness for its cosignature of the newest checkpoint unless its last one is
        young.
        Raises the error of the last witness that failed."""
        failed: UmayError | None = None
        for peer in self._peers:
            try:
                self._ask(peer)
            except UmayError as error:
                failed = error
        if failed is not None:
            raise failed

    def _ask(self, peer: RemoteWitness) -> None:
        note = self._waiting.pop(peer.key.key_id, None) or self._store.checkpoint
        text = Note.from_bytes(note).text
        if self._is_young(text, peer.key):
            return
        try:
            line = peer.cosign(note, self._store.consistency)
        except Unavailable:
            self._waiting[peer.key.key_id] = note
            raise
        others = (other for other in self._lines.get(text, ()) if other.key_id != line.key_id)
        kept = {**self._lines, text: (*others, line)}
        by_size = sorted(kept, key=lambda text: Checkpoint.from_body(text).size)
        self._lines = {text: kept[text] for text in by_size[-KEPT:]}

    def _is_young(self, text: str, key: VerifierKey) -> bool:
        moment = cosigned_at(Note(text, self._lines.get(text, ())), key)
        return moment is not None and self._clock() - moment < REFRESH_SECONDS


def only_anchored(read: Callable[[], Anchor], log_url: str) -> Callable[[Checkpoint], None]:
    """The additional check of a TON witness: the contract holds this tree, or a tree that continues
    it. The log's proof of that is checked here.

    Raises Unavailable while the tree is not anchored yet, Refused if the contract is of another log
    or recorded a fork, LogError if the contract holds another tree or the proof is not valid.
    """

    def confirm(head: Checkpoint) -> None:
        anchor = read()
        if anchor.forked or head.origin != anchor.origin:
            text = (
                f"contract {anchor.address}: expected the log {head.origin} without a recorded "
                "fork, "
                f"got the log {anchor.origin} {'with' if anchor.forked else 'without'} one"
            )
            raise Refused("log", "other-log", text)
        if head.size > anchor.size:
            raise Unavailable(
                f"contract {anchor.address}: expected an anchor of at least {head.size} entries, "
                "got "
                f"{anchor.size}, anchored at {dated(anchor.time)}; try again later"
            )
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


def parse_witness(url: str, vkey: str) -> RemoteWitness:
    """The witness at `url` with verifier key `vkey`. Raises UsageError for a malformed address or
    key."""
    checked_url(url, name="--witness")
    try:
        return RemoteWitness(url, VerifierKey.from_text(vkey, COSIGNATURE))
    except ParseError as error:
        raise UsageError(f"--witness {redacted_url(url)}: {error}") from None


def parse_followed(vkey: str) -> VerifierKey:
    """The verifier key of a log that a witness follows. Raises ParseError for a malformed key."""
    try:
        return VerifierKey.from_text(vkey)
    except ParseError as error:
        raise ParseError(f"--follow {vkey}: {error}; ask the log's operator for its vkey") from None
