"""A guest's process, on loopback and with the demo model: it serves, and ends when it is told."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import enclave.guest
from attestation import wire
from attestation.errors import UmayError
from attestation.formats import cbor
from attestation.formats.evidence import Evidence, evidence_digest
from attestation.formats.keys import KeyBundle
from attestation.verify.verdict import _MINT, Report, StepResult, VerifiedEnclave
from client_sdk.answer import Answer
from client_sdk.driver import Driver
from client_sdk.reading import Reading
from client_sdk.session import SealedExchange
from client_sdk.transport import Transport
from tests.enclave.test_guest_boot import CONFIG, Rig, rig, start
from tests.helpers.guest_room import post
from tests.helpers.waiting import HANG_S, wait_for
from tests.helpers.world import NOW

MODEL = Path(enclave.guest.__file__).parent / "demo_model"
__all__ = ["rig"]


class Agent(BaseHTTPRequestHandler):
    """The least agent: one block, and what is `named` is anchored."""

    named: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        beacon = {0: 100, 1: b"\x0b" * 32, 2: NOW - 60}
        body = cbor.encode(beacon if self.path == "/beacon" else sorted(self.named))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Served:
    """A guest's process that serves, and what a client has that verified it."""

    process: subprocess.Popen[str]
    base: str
    verified: VerifiedEnclave

    def ask(self, max_tokens: int, pacing: str) -> Answer:
        """An answer of so many tokens, once its head is there."""
        body = {
            "model": "umay-demo",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "stream": True,
            "max_tokens": max_tokens,
            "logit_bias": {"2": -100},
        }
        exchange = SealedExchange(self.verified, post(body, pacing=pacing), pq="preferred", now=NOW)
        headers, transport = wire.sealed_headers(exchange.media_type), Transport()
        sent = transport.stream(f"{self.base}ohttp", exchange.body, headers)
        driver, reading = Driver(transport), Reading(exchange, sent)
        driver.run(reading.begin())
        return Answer(reading, driver)

    def status(self, name: str) -> int:
        try:
            Transport().get(f"{self.base}{name}")
        except UmayError as error:
            return getattr(error, "status", None) or 0
        return 200


@pytest.fixture
def served(rig: Rig) -> Iterator[Served]:
    Agent.named = []
    feed = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=feed.serve_forever, args=(0.05,), daemon=True).start()
    (rig.folder / "host.toml").write_bytes(CONFIG)
    agent = f"http://127.0.0.1:{feed.server_port}"
    process = start(rig, agent=agent, model=str(MODEL), drain="3600")
    try:
        yield serve(process)
    finally:
        process.kill()
        process.communicate()
        feed.shutdown()
        feed.server_close()


def serve(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None
    told, transport = json.loads(process.stdout.readline()), Transport()
    assert (told["slots"], told["max_len"]) == (8, 1024) and told["kv_bytes"] > 0
    url = told["listening"]
    (boot,) = json.loads(transport.get(f"{url}/umay/"))["boots"]
    base = url + wire.base(boot)
    (epoch,) = json.loads(transport.get(f"{base}epochs"))["epochs"]
    assert epoch["state"] == "pending"
    evidence = transport.get(f"{base}evidence")
    Agent.named = [evidence_digest(evidence)]
    bundle = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle)
    verified = VerifiedEnclave(
        evidence_digest=evidence_digest(evidence),
        bundle=bundle,
        measurement_digest=bytes(32),
        release_name="r1",
        model_name="umay-demo",
        engine_config={},
        price_table=json.loads(transport.get(f"{base}config/price")),
        valid_until=bundle.not_after,
        report=Report((StepResult(1, "parse", "passed"),), simulated=True),
        minted_by=_MINT,
        session=None,
    )
    served = Served(process, base, verified)
    wait_for(lambda: served.status("healthz") == 200)
    return served


def test_it_leaves_no_core_and_ends_with_the_answer_that_runs_and_begins_no_other(
    served: Served,
) -> None:
    limits = Path(f"/proc/{served.process.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    answer = served.ask(400, "strict")  # which takes seconds, however fast the engine is
    pieces = iter(answer)
    first = next(pieces)
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: served.status("healthz") == 503)
    assert served.status("livez") == 200
    refused = served.ask(1, "none")
    assert refused.status == 503 and refused.header(b"retry-after") is not None
    content = first + b"".join(pieces)
    assert content.rstrip(b": \n").endswith(b"data: [DONE]")
    assert answer.receipt is not None and answer.receipt.receipt.tokens[2] == 400
    out, errors = served.process.communicate(timeout=HANG_S)
    assert (served.process.returncode, out, errors) == (0, "", "")
