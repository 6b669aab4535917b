"""The demo: it shows a network, a private conversation, its audit, and six attacks, in this order.

`Demo.run` does all of it and keeps what happened. A `Stage` shows it while it happens. Nothing else
is staged: every verdict comes from the code that clients and auditors use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import Incomplete, ParseError, UmayError
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.trust.anchor import Anchor
from attestation.verify.verdict import Report
from attestation.verify.verifier import Verifier
from client_sdk import sse
from client_sdk.answer import Answer
from client_sdk.auditing.auditor import Auditor
from client_sdk.auditing.results import Audit
from client_sdk.client import Client
from client_sdk.config import read_policy
from client_sdk.finding import Chosen
from client_sdk.localnet.devnet import MODEL_NAME, Network
from client_sdk.localnet.drills import Attack, Drill, replay
from client_sdk.localnet.leak_search import contains_secret
from client_sdk.session import CheckedReceipt
from client_sdk.transport import Transport
from contracts.logservice.store import load_or_create_key

QUESTION = "Why can the relay not read my prompt?"
MAX_TOKENS = 96


@dataclass(frozen=True)
class RelayObservation:
    """What passed through the relay, in bytes: the sealed request, each piece of the sealed answer,
    and all traffic. `plaintext` says whether the question or the answer was found in the
    traffic."""

    request: int
    pieces: tuple[int, ...]
    handled: int
    plaintext: bool


class Stage:
    """What the audience sees. This stage shows nothing; the one in `demo_view` prints for
    people."""

    def starting(self, part: str) -> None: ...
    def parts(self, parts: list[tuple[str, str, str]]) -> None: ...
    def report(self, chosen: Chosen, report: Report) -> None: ...
    def question(self, text: str) -> None: ...
    def token(self, text: str) -> None: ...
    def relay(self, sizes: RelayObservation) -> None: ...
    def receipt(self, receipt: CheckedReceipt) -> None: ...
    def audit(self, audit: Audit) -> None: ...
    def attacks(self, attacks: list[Attack]) -> None: ...
    def failed(self, step: str, error: UmayError) -> None: ...


@dataclass
class Outcome:
    """Everything that the demo shows, as data."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    report: Report | None = None
    answer: str = ""
    receipt_ok: bool = False
    relay_saw_plaintext: bool | None = None
    audit: Audit | None = None
    attacks: list[Attack] = field(default_factory=list)
    seconds: float = 0.0
    failure: UmayError | None = None

    @property
    def exit_code(self) -> int:
        """0 if everything held. 1 if the relay saw plain text, an attack was not refused, or the
        audit found a violation. Else the exit code of what kept the demo from showing it."""
        if self.ok:
            return 0
        if self.relay_saw_plaintext or not all(attack.refused for attack in self.attacks):
            return 1
        if self.failure is not None:
            return self.failure.exit_code
        return (self.audit.exit_code if self.audit else 0) or Incomplete.exit_code

    @property
    def verdict(self) -> str:
        if self.ok:
            return "everything held"
        return "NOT everything held" if self.exit_code == 1 else "NOT everything could be shown"

    @property
    def ok(self) -> bool:
        return (
            all(status == "ok" for _, status in self.steps)
            and bool(self.report and self.report.ok)
            and bool(self.answer.strip())
            and self.receipt_ok
            and self.relay_saw_plaintext is False
            and bool(self.audit and self.audit.ok)
            and len(self.attacks) == 6
            and all(attack.refused for attack in self.attacks)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "simulated": True,
            "seconds": round(self.seconds, 1),
            "steps": [{"name": name, "status": status} for name, status in self.steps],
            "report": self.report.to_json() if self.report else None,
            "answer": self.answer,
            "receipt_ok": self.receipt_ok,
            "relay_saw_plaintext": self.relay_saw_plaintext,
            "audit": self.audit.to_json() if self.audit else {"ok": False, "contract": None},
            "attacks": [attack.to_json() for attack in self.attacks],
        }


class Demo:
    """One run of the demo in `directory`, which should be empty."""

    def __init__(self, directory: Path, *, stage: Stage | None = None) -> None:
        self.stage = stage or Stage()
        self.network = Network(directory, record=True, threads=1, tell=self.stage.starting)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs the demo, and stops the network at the end, whatever happens. An error becomes a
        failed step."""
        began = time.monotonic()
        with self.network:
            try:
                self._acts()
            except UmayError as error:
                self.outcome.failure = error  # the failed step is in the outcome, by name
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _acts(self) -> None:
        with self._step("start"):
            self.network.start()
            self.stage.parts(self.network.parts)
        client = Client(
            self.network.relay,
            policy=read_policy(self.network.files.policy),
            chain=self.network.chain(),
        )
        with self._step("verify"):
            chosen = client.choose()
            self.outcome.report = chosen.enclave.report
            self.stage.report(chosen, chosen.enclave.report)
        with self._step("chat"):
            answer = self._chat(client)
        with self._step("relay"):
            self._relay(answer)
        with self._step("receipt"):
            self._receipt(answer)
        with self._step("audit"):
            self._audit(client)
        with self._step("attacks"):
            self._attacks(client, chosen)

    def _chat(self, client: Client) -> Answer:
        self.stage.question(QUESTION)
        answer = client.chat({**_body(), "stream": True})
        if answer.status != 200:
            raise ParseError(
                f"chat: expected an answer with status 200 from the enclave, got {answer.status}"
            )
        for text in sse.deltas(answer):
            self.outcome.answer += text
            self.stage.token(text)
        return answer

    def _relay(self, answer: Answer) -> None:
        record = self.network.files.record.read_bytes()
        if len(record) < answer.sealed_request + sum(answer.sealed_pieces):
            raise ParseError(
                f"{self.network.files.record}: expected a record of everything that the relay "
                "handled, got fewer bytes than the client sent and received"
            )
        seen = contains_secret(record, (QUESTION, self.outcome.answer))
        self.outcome.relay_saw_plaintext = seen
        pieces = tuple(answer.sealed_pieces)
        self.stage.relay(RelayObservation(answer.sealed_request, pieces, len(record), seen))

    def _receipt(self, answer: Answer) -> None:
        if answer.receipt is None:
            raise ParseError("receipt: expected a checked receipt with the answer, got none")
        self.outcome.receipt_ok = True
        self.stage.receipt(answer.receipt)

    def _audit(self, client: Client) -> None:
        auditor = Auditor(policy=client.policy, chain=self.network.chain())
        self.outcome.audit = auditor.run(self.network.contract)
        self.stage.audit(self.outcome.audit)

    def _attacks(self, client: Client, chosen: Chosen) -> None:
        drill = self._drill(client, chosen)
        self.outcome.attacks = drill.run()
        content = (wire.CONTENT_TYPE.encode(), wire.JSON.encode())
        body = b'{"model":"%s","messages":[{"role":"user","content":"Hi."}],"max_tokens":4}'
        request = bhttp.Request("POST", wire.CHAT, (content,), body % MODEL_NAME.encode())
        now, pq = int(time.time()), client.policy.pq
        self.outcome.attacks.append(replay(Transport(), chosen, request, pq=pq, now=now))
        self.stage.attacks(self.outcome.attacks)

    def _drill(self, client: Client, chosen: Chosen) -> Drill:
        anchor: Anchor = client.anchor()
        presented = client.present(chosen.place, anchor)
        bundle = KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)
        network = self.network
        return Drill(
            verifier=Verifier(client.policy),
            presented=presented,
            anchor=anchor,
            beacon=network.chain().block(bundle.beacon[0]),
            now=int(time.time()),
            log_key=load_or_create_key(network.files.log_key, origin=network.origin),
            simulator=network.files.socket(),
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        try:
            yield
        except UmayError as error:
            self.outcome.steps.append((name, f"failed: {error}"))
            self.stage.failed(name, error)
            raise
        self.outcome.steps.append((name, "ok"))


def _body() -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
