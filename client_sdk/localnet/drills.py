"""Attack drills: six forgeries. Each must be refused by the check that is made for it.

Every forgery starts from genuine evidence and changes one thing. The simulator signs again
everything that depends on it. Then the log helps the attacker (its own key signs a tree with the
forgery), and so does the chain (an anchor names that tree). So only the check that is tested can
refuse, and a drill fails if any other step fails too.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel import bhttp
from attestation.errors import Unavailable
from attestation.formats import cbor
from attestation.formats.evidence import (
    Device,
    Evidence,
    evidence_digest,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
    statement,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import BOOT, Leaf
from attestation.log.merkle import Tree
from attestation.log.proof import Proof
from attestation.platforms.tdx import parse_quote
from attestation.trust.anchor import Anchor, BlockRef
from attestation.verify.verdict import Report
from attestation.verify.verifier import Presented, Verifier
from attestation.wire import REPLAYED, sealed_headers
from client_sdk.finding import Chosen
from client_sdk.session import SealedExchange
from client_sdk.transport import Transport

SIMULATOR_SECONDS = 30
MAX_ANSWER = 8 << 20


@dataclass(frozen=True)
class Attack:
    """`check` is the check that must refuse, and `by` are those that did. The attack counts as
    refused only if they are the same."""

    name: str
    check: str
    by: tuple[str, ...]
    why: str

    @property
    def refused(self) -> bool:
        return self.by == (self.check,)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "refused": self.refused,
            "check": self.check,
            "by": list(self.by),
            "why": self.why,
        }


@dataclass(frozen=True)
class Drill:
    """One genuine machine as the client saw it, and everything that the attacker may use: the
    simulator and the key of the log."""

    verifier: Verifier
    presented: Presented
    anchor: Anchor
    beacon: BlockRef
    now: int
    log_key: Ed25519PrivateKey
    simulator: Path

    @property
    def evidence(self) -> Evidence:
        return Evidence.from_bytes(self.presented.evidence)

    def run(self) -> list[Attack]:
        """The five attacks on evidence. The sixth is `replay`, which needs a network."""
        drills: tuple[tuple[str, str, Callable[[], Report]], ...] = (
            ("changed measurement", "measurement", self.changed_measurement),
            ("evidence with another key", "binding", self.other_key),
            ("GPU report with another nonce", "gpu", self.other_nonce),
            ("debug VM", "cpu-attributes", self.debug_vm),
            ("a log that shows a different history", "log", self.other_history),
        )
        return [_attack(name, check, drill()) for name, check, drill in drills]

    def changed_measurement(self) -> Report:
        """Another firmware, in a quote that is signed like a genuine one."""
        return self._examine(self._requoted(mr_td=b"\xaa" * 48))

    def other_key(self) -> Report:
        """The attacker's receipt key in the key bundle, with a GPU report that answers this
        bundle."""
        bundle = KeyBundle.from_bytes(self.evidence.bundle)
        other = dataclasses.replace(bundle, receipt_key=b"\xee" * 32).to_bytes()
        device = self._gpu(gpu_nonce(bundle_digest(other)))
        return self._examine(dataclasses.replace(self.evidence, bundle=other, devices=(device,)))

    def other_nonce(self) -> Report:
        """A genuine GPU report that answers somebody else's nonce, in a quote that binds it."""
        devices = (self._gpu(b"\x99" * 32),)
        half = report_data_binding(
            bundle_digest(self.evidence.bundle), gpu_evidence_digest(devices)
        )
        fresh = parse_quote(self.evidence.quote).report_data[32:]
        quoted = self._requoted(report_data=half + fresh)
        return self._examine(dataclasses.replace(quoted, devices=devices))

    def debug_vm(self) -> Report:
        """The same VM with its debug bit set, so that the host could read its memory."""
        attributes = bytearray(parse_quote(self.evidence.quote).td_attributes)
        attributes[0] |= 1
        return self._examine(self._requoted(td_attributes=bytes(attributes)))

    def other_history(self) -> Report:
        """A tree that is not the anchored one, which the log signs for this client alone."""
        presented, _ = self._logged(self.evidence)
        return self._judge(presented, self.anchor)

    def _examine(self, evidence: Evidence) -> Report:
        return self._judge(*self._logged(evidence))

    def _judge(self, presented: Presented, anchor: Anchor) -> Report:
        return self.verifier.examine(presented, anchor=anchor, beacon=self.beacon, now=self.now)

    def _requoted(self, **fields: bytes) -> Evidence:
        request = {0: "forge.quote", 1: self.evidence.quote, 2: fields}
        quote = ask(self.simulator, request)[1]
        return dataclasses.replace(self.evidence, quote=quote)

    def _gpu(self, nonce: bytes) -> Device:
        answer = ask(self.simulator, {0: "forge.gpu", 1: 0, 2: nonce})
        return Device(self.evidence.devices[0].kind, answer[1], tuple(answer[2]))

    def _logged(self, evidence: Evidence) -> tuple[Presented, Anchor]:
        """The forgery in a tree that the log's own key signs, and an anchor that names that
        tree."""
        leaf = self._leaf(evidence).to_bytes()
        tree = Tree()
        for entry in (b"a scratch tree", leaf, b"of a log that lies"):
            tree.append(entry)
        head = Checkpoint(self.anchor.origin, len(tree), tree.root())
        note = checkpoints.sign(head, key=self.log_key)
        proof = Proof(1, tuple(tree.inclusion(1, len(tree))), note, leaf)
        presented = dataclasses.replace(
            self.presented, evidence=evidence.to_bytes(), proof=proof.to_bytes()
        )
        anchor = dataclasses.replace(self.anchor, size=head.size, root=head.root)
        return presented, anchor

    def _leaf(self, evidence: Evidence) -> Leaf:
        quote = parse_quote(evidence.quote)
        registers = (quote.mr_td, quote.rt_mr0, quote.rt_mr1, quote.rt_mr2)
        return Leaf(
            kind=BOOT,
            platform=17,
            evidence_digest=evidence_digest(evidence.to_bytes()),
            bundle_digest=bundle_digest(evidence.bundle),
            measurement_digest=measurement_digest("tdx", registers),
            release=None,
            collateral_digest=self.presented.collateral.manifest_digest(),
            beacon=KeyBundle.from_bytes(evidence.bundle).beacon,
            previous=None,
            statement=statement(quote.signed_region),
        )


def replay(
    transport: Transport, chosen: Chosen, request: bhttp.Request, *, pq: str, now: int
) -> Attack:
    """The relay sends one sealed request twice. Only the first may be answered."""
    exchange = SealedExchange(chosen.enclave, request, pq=pq, now=now)
    headers = sealed_headers(exchange.media_type)
    statuses = []
    for _ in range(2):
        stream = transport.stream(f"{chosen.place.base}ohttp", exchange.body, headers)
        sealed = stream.media_type == exchange.response_media_type
        answer = b"".join(stream)
        statuses.append((stream.status, sealed, answer))
    return _replayed(exchange, statuses)


def _replayed(exchange: SealedExchange, statuses: list[tuple[int, bool, bytes]]) -> Attack:
    first, second = statuses
    status = _inner_status(exchange, first)
    refused = status == 200 and second == (400, False, REPLAYED)
    why = f"the first request got HTTP {status}, and the same bytes once more got HTTP {second[0]}"
    why += ", which says that it is a replay" if refused else ""
    return Attack("a replayed request", "replay", ("replay",) if refused else (), why)


def _inner_status(exchange: SealedExchange, answer: tuple[int, bool, bytes]) -> int:
    if not answer[1]:
        raise Unavailable(
            f"replay drill: expected a sealed answer to the first request, got HTTP {answer[0]}"
        )
    events = exchange.push(answer[2]) + exchange.finish()
    return next(event.status for event in events if isinstance(event, bhttp.ResponseHead))


def _attack(name: str, check: str, report: Report) -> Attack:
    failed = [step for step in report.steps if step.status == "failed"]
    why = "; ".join(f"{step.detail} [{step.code}]" for step in failed) or "no step refused it"
    return Attack(name, check, report.failed, why)


def ask(path: Path, request: dict[int, Any]) -> dict[int, Any]:
    """The simulator's answer to one request at its socket. Raises Unavailable."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SIMULATOR_SECONDS)
            connection.connect(str(path))
            connection.sendall(cbor.encode(request))
            connection.shutdown(socket.SHUT_WR)
            data = bytearray()
            while len(data) <= MAX_ANSWER and (part := connection.recv(1 << 16)):
                data += part
    except OSError as error:
        raise Unavailable(f"simulator: {error.strerror or error}") from None
    answer = cbor.decode_map(bytes(data), required=frozenset({0}), limit=MAX_ANSWER)
    if answer[0] != "ok":
        raise Unavailable(f"simulator: {answer.get(1)}")
    return answer
