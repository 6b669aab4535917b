"""A whole network in memory: simulator, one guest's evidence, log and anchor.

Everything is genuine but the hardware's roots. Forging a part re-signs and re-hashes
all that hangs from it, so that a test changes exactly one thing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.key_config import KeyConfig
from attestation.formats.collateral import Collateral
from attestation.formats.digests import engine_digest, host_config_digest, price_digest
from attestation.formats.evidence import (
    GPU,
    INIT_DONE,
    Device,
    Evidence,
    fresh_published,
    fresh_session,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.formats.session import SessionAnswer, session_leaf
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import Tree
from attestation.log.proof import Proof
from attestation.nvidia import cut_padding
from attestation.trust.anchor import Anchor, BlockRef
from attestation.trust.policy import Policy
from attestation.trust.roots import Roots
from attestation.verify.verifier import OpenedSession, Presented, Verifier
from enclave.guest.platforms.tsm import QuoteWithLogs
from enclave.simulator.service import Simulator
from tests.attestation.test_policy import GOOD

NOW = 1_795_000_000
ENGINE = b'{"engine":"torch"}'
PRICE = b'{"completion":2,"prompt":1}'
HOST = b'[network]\nid = "umay-test"\n'
MODEL = b"\x44" * 32
SESSION_KEY = KeyConfig(0, 0x20, b"\x09" * 32).to_bytes()
BEACON = BlockRef(100, b"\x0b" * 32, NOW - 60, "reported")


@dataclass
class World:
    """One guest with one simulated GPU, and all that a verifier is given about it."""

    simulator: Simulator
    log_key: Ed25519PrivateKey
    policy: Policy
    beacon: BlockRef
    bundle: KeyBundle
    evidence: Evidence
    collateral: Collateral
    now: int = NOW
    host: bytes = HOST
    engine: bytes = ENGINE
    price: bytes = PRICE

    @classmethod
    def start(cls, directory: Path, beacon: BlockRef = BEACON) -> World:
        simulator = Simulator(directory, clock=lambda: NOW)
        log_key = Ed25519PrivateKey.generate()
        bundle = KeyBundle(
            boot_id=bytes(16),
            key_configs=(b"\x01" * 41,),
            receipt_key=b"\x03" * 32,
            model_digest=MODEL,
            engine_digest=engine_digest(ENGINE),
            gpu_count=1,
            not_before=beacon.utime,
            not_after=beacon.utime + 4200,
            network="umay-test",
            beacon=(beacon.seqno, beacon.root_hash),
            price_digest=price_digest(PRICE),
            host_config_digest=host_config_digest(HOST),
        )
        launch(simulator, "vm")
        collateral = Collateral(ask(simulator, "collateral")[1])
        blank = Evidence(platform="tdx", bundle=bundle.to_bytes(), quote=b"")
        world = cls(
            simulator, log_key, policy(simulator, log_key), beacon, bundle, blank, collateral
        )
        world.evidence = world.prove(bundle)
        return world

    def prove(self, bundle: KeyBundle, nonce: bytes | None = None, vm: str = "vm") -> Evidence:
        """Genuine evidence for `bundle`: GPU reports first, then the quote over them."""
        b = bundle_digest(bundle.to_bytes())
        report = ask(self.simulator, "gpu.report", vm, 0, gpu_nonce(b) if nonce is None else nonce)
        devices = (device_of(report),)
        data = report_data_binding(b, gpu_evidence_digest(devices))
        quoted = ask(self.simulator, "tdx.quote", vm, data + fresh_published(bundle.beacon[1]))
        exact = quoted_of(quoted)
        return Evidence(
            platform="tdx",
            bundle=bundle.to_bytes(),
            quote=exact.quote,
            ccel=exact.ccel,
            rtmr3_events=exact.rtmr3_events,
            devices=devices,
        )

    def forge(self, other_root: bool = False, **fields: bytes) -> Evidence:
        """The evidence with other quote fields, signed again by the simulator."""
        request = {0: "forge.quote", 1: self.evidence.quote, 2: fields, 3: other_root}
        return dataclasses.replace(self.evidence, quote=answer(self.simulator, request)[1])

    def session(self, nonce: bytes, config: bytes = SESSION_KEY, **forged: Any) -> OpenedSession:
        """What this guest answers who asks for a session, among three who ask at once."""
        from attestation.platforms.tdx import parse_quote

        tree = Tree()
        for leaf in (session_leaf(bytes(32), b"another's"), session_leaf(nonce, config), b"last"):
            tree.append(leaf)
        half = parse_quote(self.evidence.quote).report_data[:32]
        data = {"report_data": half + fresh_session(tree.root())}
        quote = self.forge(**{**data, **forged}).quote
        answer = SessionAnswer(quote, config, tuple(tree.inclusion(1, 3)), 1, 3)
        return OpenedSession(answer.to_bytes(), nonce)

    def presented(self, evidence: Evidence | None = None, **changes: Any) -> Presented:
        evidence = evidence or self.evidence
        presented = Presented(
            evidence=evidence.to_bytes(),
            engine_config=self.engine,
            price_table=self.price,
            host_config=self.host,
            collateral=self.collateral,
        )
        return dataclasses.replace(presented, **changes)

    def logged(self, presented: Presented, **leaf_changes: Any) -> tuple[Presented, Anchor]:
        """The same with a proof, and the anchor of a log that holds just its leaf."""
        leaf = dataclasses.replace(self.leaf(presented), **leaf_changes)
        tree = Tree()
        for entry in (b"first", leaf.to_bytes(), b"third"):
            tree.append(entry)
        checkpoint = Checkpoint(self.policy.log_origin, 3, tree.root(3))
        note = checkpoints.sign(checkpoint, key=self.log_key)
        proof = Proof(1, tuple(tree.inclusion(1, 3)), note, leaf.to_bytes())
        return dataclasses.replace(presented, proof=proof.to_bytes()), self.anchor(3, tree.root(3))

    def leaf(self, presented: Presented) -> Any:
        """The leaf a log would write for it, whatever steps it fails."""
        verifier = Verifier(self.policy)
        case = verifier._case(presented, anchor=None, beacon=self.beacon, now=self.now)
        from attestation.verify import steps

        steps.parse(case)
        case.measurement_digest = measurement_digest(case.evidence.platform, case.cpu.registers)
        return case.leaf(kind=1, release=0, previous=None)

    def anchor(self, size: int, root: bytes) -> Anchor:
        policy = self.policy
        return Anchor(
            network=policy.network,
            address=policy.log_contract,
            code_hash=policy.log_code_hash,
            origin=policy.log_origin,
            log_key=policy.log_key,
            sequence=1,
            size=size,
            root=root,
            time=NOW - 20,
            forked=False,
            read_at=NOW - 10,
            level="reported",
        )


def launch(simulator: Simulator, vm: str) -> None:
    """A VM with one GPU, whose guest has measured the host config."""
    ask(simulator, "launch", vm, 1)
    for event in (HOST, INIT_DONE):
        ask(simulator, "tdx.extend", vm, hashlib.sha384(event).digest())


def ask(simulator: Simulator, op: str, *arguments: Any) -> dict[int, Any]:
    return answer(simulator, {0: op, **dict(enumerate(arguments, 1))})


def answer(simulator: Simulator, request: dict[int, Any]) -> dict[int, Any]:
    reply = simulator.handle(request)
    if reply[0] != "ok":
        raise RuntimeError(reply[1])
    return reply


def quoted_of(reply: dict[int, Any]) -> QuoteWithLogs:
    """What a guest takes out of the buffers that "tdx.quote" answers."""
    return QuoteWithLogs.from_buffers(reply[1], reply[2], tuple(reply[3]))


def device_of(reply: dict[int, Any]) -> Device:
    """What a guest takes out of the buffer that "gpu.report" answers."""
    return Device(GPU, cut_padding(reply[1]), tuple(reply[2]))


def policy(simulator: Simulator, log_key: Ed25519PrivateKey) -> Policy:
    """The test policy, pinned to this simulator, release and log."""
    roots = ask(simulator, "roots")[1]
    registers = tuple(ask(simulator, "measurement")[1])
    read = Policy.from_toml(GOOD.encode())
    release = dataclasses.replace(
        read.releases[0], shapes={"simulated": frozenset({measurement_digest("tdx", registers)})}
    )
    return dataclasses.replace(
        read,
        log_key=log_key.public_key().public_bytes_raw(),
        min_tcb_evaluation_number=0,
        gpu_architectures=None,
        releases=(release,),
        simulated_roots=Roots(
            intel=frozenset({roots["intel"]}),
            amd=frozenset(),
            nvidia_device=frozenset({roots["nvidia_device"]}),
            nvidia_rim=frozenset({roots["nvidia_rim"]}),
            simulated=True,
        ),
    )
