"""Takes a guest's evidence to the log and tells when the chain has it.

One thread runs `step` again and again; servers read `status`, which is replaced, never
changed. What fails delays only itself. Evidence bytes are malleable while their statement
is not: where the log holds other bytes of the same keys, the log's are served, since
those are what its leaf names.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from attestation import wire
from attestation.errors import LogError, ParseError, Refused, UmayError, Unavailable
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import MAX_EVIDENCE_BYTES, Evidence, evidence_digest
from attestation.formats.keys import bundle_digest
from attestation.log.documents import RetireRequest
from attestation.log.leaf import BOOT, RENEW, Leaf
from attestation.log.submission import Submission, SubmissionAnswer
from attestation.net.error_text import redacted_url
from contracts.chain import ReadOnlyChain
from contracts.reader import read_anchor
from enclave.host.peer import Peer
from enclave.host.retry import Retries

MAX_EPOCHS = 16
MAX_ENTRIES = 64
"""Of one boot; the oldest go. A guest names at most a few."""

COLLATERAL_SECONDS = 3600.0
LOOK_S, QUIET_S = 0.3, 1.0
"""Between two looks at the guest: while it waits for the log or chain, and afterwards."""

CHAIN_S = 1.0
"""Between two reads of the contract: what a public endpoint grants without a key."""

GUEST_PAUSES = {"first": 0.3, "longest": 3.0}
PAUSES = {"first": 1.0, "longest": 30.0}
REFUSED_PAUSES = {"first": 30.0, "longest": 600.0}
"""A refusal may end when the log's policy changes."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LogEntry:
    """One evidence of the guest: its leaf index, whether the contract's tree holds it, and
    the log's copy where that differs from the guest's."""

    index: int
    anchored: bool = False
    served: bytes | None = None


@dataclass(frozen=True)
class GuestStatus:
    """What is known of the guest now; digests are of the guest's own evidence bytes.

    `refused` holds the log's reason as step/code.
    """

    boot: str | None = None
    answering: bool = False
    current: bytes | None = None
    entries: dict[bytes, LogEntry] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    collateral: bytes = b""

    @property
    def entry(self) -> LogEntry | None:
        """The current evidence's."""
        return self.entries.get(self.current) if self.current is not None else None

    def copy_of(self, digest: bytes) -> bytes | None:
        """The log's evidence with this digest, where the guest has other bytes."""
        copies = (entry.served for entry in self.entries.values() if entry.served)
        return next((copy for copy in copies if evidence_digest(copy) == digest), None)

    @property
    def ready(self) -> bool:
        return self.entry is not None and self.entry.anchored


@dataclass(frozen=True)
class ListedEpoch:
    """One epoch as the guest lists it."""

    evidence: bytes
    state: str
    previous: bytes | None


class Registrar:
    """Talks to guest, log and chain; `collateral` fetches vendors' material anew."""

    def __init__(
        self,
        *,
        guest: str,
        log: str,
        chain: ReadOnlyChain,
        contract: str,
        collateral: Callable[[], Collateral],
        release: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = GuestStatus()
        self._guest, self._log = guest.rstrip("/"), log.rstrip("/")
        self._chain, self._contract, self._release = chain, contract, release
        self._collateral, self._tell, self._clock = collateral, tell, clock
        self._collateral_read = self._chain_read = float("-inf")
        self.ending: str | None = None
        self._retiring = threading.Lock()
        self._peer, self._retries = Peer(), Retries(clock=clock)
        self._told: dict[str, str] = {}

    def run(self, stopped: threading.Event) -> None:
        """Steps until `stopped`, whatever goes wrong: the agent serves what it has."""
        while not stopped.wait(QUIET_S if self.status.ready else LOOK_S):
            try:
                self.step()
            except Exception as error:
                self._tell(f"internal error {type(error).__name__}; the agent tries again")

    def step(self) -> None:
        """One look at everything that is due. What fails is told, not raised."""
        self._attempt("collateral", self._refresh_collateral, PAUSES)
        if not self._attempt("guest", self._look_at_guest, GUEST_PAUSES):
            self._change(answering=False)
        self._attempt("chain", self._look_at_chain, PAUSES)

    def _attempt(self, key: str, work: Callable[[], None], pauses: dict[str, float]) -> bool:
        """Whether it is well. Told once for each new reason, and when it works again."""
        if not self._retries.due(key):
            return False
        try:
            work()
        except UmayError as error:
            refused = isinstance(error, Refused)
            self._retries.failed(key, **(REFUSED_PAUSES if refused else pauses))
            self._say(key, f"refused: {error}" if refused else str(error))
            return False
        if key in self._told:
            self._say(key, "works again")
            del self._told[key]
        self._retries.done(key)
        return True

    def _say(self, key: str, text: str) -> None:
        if self._told.get(key) != text:
            self._told[key] = text
            self._tell(f"{key}: {text}")

    def _change(self, **fields: Any) -> None:
        self.status = replace(self.status, **fields)

    def _refresh_collateral(self) -> None:
        if self._clock() - self._collateral_read > COLLATERAL_SECONDS:
            self._change(collateral=self._collateral().to_bytes())
            self._collateral_read = self._clock()

    # The guest

    def _look_at_guest(self) -> None:
        boot = self._boot()
        if boot != self.status.boot:
            self._start(boot)
        epochs = self._epochs(boot)
        known = self.status.current
        current = next((epoch.evidence for epoch in epochs if epoch.state == "current"), known)
        self._change(answering=True, current=current)
        for epoch in epochs:
            if epoch.evidence not in self.status.entries:
                key = f"evidence {epoch.evidence.hex()[:16]}"
                self._attempt(key, partial(self._register, boot, epoch), PAUSES)

    def _start(self, boot: str) -> None:
        """A guest that was not there before: everything anew, collateral for its GPUs too."""
        self._tell(f"guest: boot {boot}")
        self.status = GuestStatus(boot=boot, collateral=self.status.collateral)
        self._retries.forget("evidence ")
        self._told = {key: text for key, text in self._told.items() if key[:9] != "evidence "}
        self._collateral_read = float("-inf")
        self._attempt("collateral", self._refresh_collateral, PAUSES)

    def _boot(self) -> str:
        boots = self._peer.json(self._guest + wire.LISTING).get("boots")
        if boots == []:
            raise Unavailable(f"{redacted_url(self._guest)}: the guest takes no more requests")
        if not isinstance(boots, list) or len(boots) != 1:
            raise ParseError(
                f"{redacted_url(self._guest)}{wire.LISTING}: expected a list of one boot id"
            )
        return wire.read_boot_id(boots[0], where="guest")

    def _epochs(self, boot: str) -> list[ListedEpoch]:
        epochs = self._peer.json(f"{self._guest}{wire.base(boot)}epochs").get("epochs")
        if not isinstance(epochs, list) or len(epochs) > MAX_EPOCHS:
            raise ParseError(f"guest: expected a list of at most {MAX_EPOCHS} epochs")
        return [_listed(item) for item in epochs]

    # The log

    def _register(self, boot: str, epoch: ListedEpoch) -> None:
        try:
            entry = self._submit(boot, epoch)
        except Refused as error:
            refused = {**self.status.refused, epoch.evidence: f"{error.step}/{error.code}"}
            self._change(refused=dict(list(refused.items())[-MAX_ENTRIES:]))
            raise
        self._tell(f"evidence {epoch.evidence.hex()[:16]}: entry {entry.index} of the log")
        refused = {d: why for d, why in self.status.refused.items() if d != epoch.evidence}
        self._change(refused=refused)
        self._set(epoch.evidence, entry)

    def _submit(self, boot: str, epoch: ListedEpoch) -> LogEntry:
        submission = self._submission(self._guest + wire.base(boot), epoch)
        logged = SubmissionAnswer.from_bytes(
            self._peer.submit(f"{self._log}/submit", submission.to_bytes())
        )
        leaf = Leaf.from_bytes(logged.leaf)
        if leaf.bundle_digest != bundle_digest(Evidence.from_bytes(submission.evidence).bundle):
            raise LogError(
                f"{redacted_url(self._log)}/submit: expected a leaf of this guest's keys, "
                "got one of other keys"
            )
        named = leaf.evidence_digest
        return LogEntry(
            logged.index, served=None if named == epoch.evidence else self._logs_copy(named)
        )

    def retire(self) -> int:
        """Have the guest forget its keys and log its word for it; the leaf's index.

        Raises Unavailable where the guest has nothing on record or does not answer, Refused
        with the log's reason.
        """
        status = self.status
        if status.boot is None or status.entry is None:
            raise Unavailable(
                "retire: the guest's current evidence is not in the log yet; try again later"
            )
        word = self._word_of(status.boot)
        request = RetireRequest(status.entry.index, word)
        answer = self._peer.submit(f"{self._log}/retire", request.to_bytes())
        return SubmissionAnswer.from_bytes(answer).index

    def _word_of(self, boot: str) -> bytes:
        """The guest asks the feed whether its host is ending it, while it is asked to."""
        with self._retiring:
            self.ending = boot
            try:
                return self._peer.submit(f"{self._guest}{wire.base(boot)}retire", b"")
            finally:
                self.ending = None

    def _submission(self, base: str, epoch: ListedEpoch) -> Submission:
        """A renewal whose predecessor this agent never logged goes in as a boot: where the
        log has it already, it answers with the leaf that is there."""
        if not self.status.collateral:
            raise Unavailable("not submitted to the log yet: the agent has no collateral")
        before = self.status.entries.get(epoch.previous) if epoch.previous is not None else None
        evidence = self._peer.get(
            f"{base}evidence/{epoch.evidence.hex()}", limit=MAX_EVIDENCE_BYTES
        )
        if evidence_digest(evidence) != epoch.evidence:
            raise ParseError("guest: expected the evidence that it listed, got other bytes")
        return Submission(
            kind=RENEW if before else BOOT,
            evidence=evidence,
            engine_config=self._config(base, "engine"),
            price_table=self._config(base, "price"),
            host_config=self._config(base, "host"),
            collateral=self.status.collateral,
            previous=before.index if before else None,
            release=self._release,
        )

    def _config(self, base: str, name: str) -> bytes:
        return self._peer.get(f"{base}config/{name}", limit=wire.MAX_CONFIG_BYTES)

    def _logs_copy(self, named: bytes) -> bytes:
        url = f"{self._log}/evidence/sha256/{named.hex()}"
        evidence = self._peer.get(url, limit=MAX_EVIDENCE_BYTES)
        if evidence_digest(evidence) != named:
            raise LogError(
                f"{redacted_url(url)}: expected the evidence that the leaf names, got other bytes"
            )
        return evidence

    # The chain

    def _look_at_chain(self) -> None:
        waiting = {d: e for d, e in self.status.entries.items() if not e.anchored}
        if not waiting or self._clock() - self._chain_read < CHAIN_S:
            return
        self._chain_read = self._clock()
        size = read_anchor(self._chain, network="", address=self._contract).size
        for digest, entry in waiting.items():
            if entry.index < size:
                self._tell(f"evidence {digest.hex()[:16]}: anchored")
                self._set(digest, replace(entry, anchored=True))

    def _set(self, digest: bytes, entry: LogEntry) -> None:
        entries = {**self.status.entries, digest: entry}
        self._change(entries=dict(list(entries.items())[-MAX_ENTRIES:]))


def _listed(item: object) -> ListedEpoch:
    if not isinstance(item, dict) or not _is(item.get("evidence"), _DIGEST):
        raise ParseError("guest: expected an epoch with the digest of its evidence")
    previous = item.get("previous")
    if previous is not None and not _is(previous, _DIGEST):
        raise ParseError("guest: expected the digest of the previous evidence, or null")
    return ListedEpoch(
        evidence=bytes.fromhex(item["evidence"]),
        state=str(item.get("state")),
        previous=bytes.fromhex(previous) if previous else None,
    )


def _is(value: object, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
