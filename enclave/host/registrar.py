"""Takes a guest's evidence to the log and tells when the chain has it.

One thread runs `step` again and again; servers read `standing`. Evidence bytes are
malleable while their statement is not: where the log holds other bytes of the same
statement, the log's are served, since those are what its leaf names.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from attestation.collateral import Collateral
from attestation.errors import ParseError, UmayError, Unavailable
from attestation.evidence import MAX_EVIDENCE_BYTES, evidence_digest
from attestation.log.admission import Logged, Submission
from attestation.log.leaf import BOOT, Leaf
from contracts.chain import Chain
from contracts.reader import read_anchor

TIMEOUT_S = 15.0
MAX_CONFIG_BYTES = 64 * 1024
MAX_ANSWER = 256 * 1024
COLLATERAL_SECONDS = 3600.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.3, 30.0


@dataclass(frozen=True)
class Entry:
    """One evidence of the guest: its leaf index, whether the contract's tree holds it, and
    the log's copy where that differs from the guest's."""

    index: int
    anchored: bool = False
    served: bytes | None = None


@dataclass(frozen=True)
class Standing:
    """What is known of the guest now; digests are of the guest's own evidence bytes."""

    boot: str | None = None
    current: bytes | None = None
    entries: dict[bytes, Entry] = field(default_factory=dict)
    collateral: bytes = b""

    @property
    def ready(self) -> bool:
        entry = self.entries.get(self.current or b"")
        return entry is not None and entry.anchored


class Registrar:
    """Talks to guest, log and chain; `collateral` fetches vendors' material anew."""

    def __init__(
        self,
        *,
        guest: str,
        log: str,
        chain: Chain,
        contract: str,
        collateral: Callable[[], Collateral],
        release: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.standing = Standing()
        self._guest, self._log = guest.rstrip("/"), log.rstrip("/")
        self._chain, self._contract, self._release = chain, contract, release
        self._collateral, self._tell = collateral, tell
        self._collateral_read = float("-inf")
        self._session = requests.Session()
        self._session.trust_env = False

    def run(self, stopped: threading.Event) -> None:
        """Steps until `stopped`; what fails is told once and tried again, ever more slowly."""
        wait, told = FIRST_WAIT_S, ""
        while not stopped.wait(wait):
            try:
                self.step()
                wait, told = FIRST_WAIT_S, ""
            except UmayError as error:
                if told != (told := str(error)):
                    self._tell(told)
                wait = min(wait * 1.5, LONGEST_WAIT_S)

    def step(self) -> None:
        """One look at everything. Raises Unavailable, ParseError or Refused."""
        self._refresh_collateral()
        boot = self._boot()
        if boot != self.standing.boot:
            self.standing = Standing(boot=boot, collateral=self.standing.collateral)
        for epoch in self._epochs(boot):
            self._register(boot, epoch)
        self._look_at_chain()

    def _refresh_collateral(self) -> None:
        if time.monotonic() - self._collateral_read > COLLATERAL_SECONDS:
            parts = self._collateral().to_bytes()
            self.standing = replace(self.standing, collateral=parts)
            self._collateral_read = time.monotonic()

    def _boot(self) -> str:
        boots = self._json(f"{self._guest}/umay/").get("boots")
        if not isinstance(boots, list) or len(boots) != 1 or not isinstance(boots[0], str):
            raise ParseError("guest: expected one boot")
        return boots[0]

    def _epochs(self, boot: str) -> list[dict[str, Any]]:
        epochs = self._json(f"{self._guest}/umay/{boot}/epochs").get("epochs")
        if not isinstance(epochs, list) or not all(isinstance(item, dict) for item in epochs):
            raise ParseError("guest: expected a list of epochs")
        return epochs

    def _register(self, boot: str, epoch: dict[str, Any]) -> None:
        digest = _digest(epoch.get("evidence"))
        if epoch.get("state") == "current":
            self.standing = replace(self.standing, current=digest)
        if digest in self.standing.entries:
            return
        previous = epoch.get("previous")
        before = None if previous is None else self.standing.entries.get(_digest(previous))
        if previous is not None and before is None:
            raise ParseError("guest: a renewal of evidence that was never logged")
        entry = self._submit(boot, digest, epoch.get("kind"), before)
        self._set(digest, entry)

    def _submit(self, boot: str, digest: bytes, kind: object, before: Entry | None) -> Entry:
        base = f"{self._guest}/umay/{boot}"
        evidence = self._get(f"{base}/evidence/{digest.hex()}", MAX_EVIDENCE_BYTES)
        if evidence_digest(evidence) != digest:
            raise ParseError("guest: served other evidence than it listed")
        submission = Submission(
            kind=kind if type(kind) is int else BOOT,
            evidence=evidence,
            engine_config=self._get(f"{base}/config/engine", MAX_CONFIG_BYTES),
            price_table=self._get(f"{base}/config/price", MAX_CONFIG_BYTES),
            host_config=self._get(f"{base}/config/host", MAX_CONFIG_BYTES),
            collateral=self.standing.collateral,
            previous=before.index if before else None,
            release=self._release,
        )
        logged = Logged.from_bytes(self._post(f"{self._log}/submit", submission.to_bytes()))
        named = Leaf.from_bytes(logged.leaf).evidence_digest
        self._tell(f"evidence {digest.hex()[:16]} is entry {logged.index} of the log")
        return Entry(logged.index, served=None if named == digest else self._logs_copy(named))

    def _logs_copy(self, named: bytes) -> bytes:
        evidence = self._get(f"{self._log}/evidence/sha256/{named.hex()}", MAX_EVIDENCE_BYTES)
        if evidence_digest(evidence) != named:
            raise ParseError("log: served other evidence than its leaf names")
        return evidence

    def _look_at_chain(self) -> None:
        waiting = {d: e for d, e in self.standing.entries.items() if not e.anchored}
        if not waiting:
            return
        size = read_anchor(self._chain, network="", address=self._contract).size
        for digest, entry in waiting.items():
            if entry.index < size:
                self._set(digest, replace(entry, anchored=True))

    def _set(self, digest: bytes, entry: Entry) -> None:
        self.standing = replace(self.standing, entries={**self.standing.entries, digest: entry})

    def _json(self, url: str) -> dict[str, Any]:
        data = self._get(url, MAX_ANSWER)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ParseError(f"{url}: expected JSON") from None
        if not isinstance(value, dict):
            raise ParseError(f"{url}: expected a JSON object")
        return value

    def _get(self, url: str, limit: int) -> bytes:
        return self._fetch("GET", url, None, limit)

    def _post(self, url: str, body: bytes) -> bytes:
        return self._fetch("POST", url, body, MAX_ANSWER)

    def _fetch(self, method: str, url: str, body: bytes | None, limit: int) -> bytes:
        try:
            with self._session.request(
                method, url, data=body, timeout=TIMEOUT_S, stream=True, allow_redirects=False
            ) as answer:
                data = answer.raw.read(limit + 1, decode_content=True)
        except requests.RequestException as error:
            raise Unavailable(f"{url}: {type(error).__name__}") from None
        if answer.status_code != 200:
            reason = data[:300].decode(errors="replace")
            raise Unavailable(f"{url}: expected HTTP 200, got {answer.status_code} {reason}")
        if len(data) > limit:
            raise ParseError(f"{url}: expected at most {limit} bytes")
        return bytes(data)


def _digest(value: object) -> bytes:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ParseError("guest: expected an evidence digest of 64 hex digits")
    return digest
