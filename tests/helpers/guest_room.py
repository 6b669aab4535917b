"""A guest without a machine under it: real keys, channel, API and server; a scripted engine.

Its evidence is signed by the simulator's quoting key but proves nothing, and its
VerifiedEnclave is minted here, which only tests may do.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.client import ClientRequest
from attestation.channel.server import KeyRing
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.net.serve import Server
from attestation.net.server_connection import Limits
from attestation.trust.roots import PRODUCTION
from attestation.verify.verdict import (
    _MINT,
    Report,
    StepResult,
    VerifiedEnclave,
    VerifiedSession,
)
from client_sdk.answer import Answer
from client_sdk.driver import Driver
from client_sdk.reading import Reading
from client_sdk.session import CheckedReceipt, SealedExchange
from client_sdk.transport import Transport
from enclave.guest import server
from enclave.guest.config import HostConfig
from enclave.guest.engines.base import (
    Delta,
    EngineFailed,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Usage,
    engine_config,
)
from enclave.guest.epochs import Epochs
from enclave.guest.feed import Beacon
from enclave.guest.guest import Guest
from enclave.guest.keys import BootKeys, Configs, Prover
from enclave.guest.platforms.tsm import QuoteWithLogs
from tests.helpers.tdx_machine import machine
from tests.helpers.waiting import wait_for

HOST = b'[network]\nid = "umay-test"\n[price]\nprompt = 3\ncompletion = 7\n'
MODEL = "scripted"
PROMPT = "xyzzy the secret question"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
INFO = EngineInfo(
    engine="scripted",
    version="1",
    libraries=(),
    device="cpu",
    dtype="float32",
    quantisation="none",
    flags=(),
    slots=4,
    max_len=16,
    model_digest=b"\x44" * 32,
    features=frozenset(),
)


@dataclass
class Script:
    """How the next answers go. `refuse` is raised by `generate`, `fail` before the piece of
    number `fail_at`; `pause` in seconds stands before each piece."""

    pieces: list[str] = field(default_factory=lambda: ["Hello", ", ", "world."])
    reason: FinishReason = "stop"
    usage: Usage = field(default_factory=lambda: Usage(prompt=5, cached=0, completion=3))
    pause: float = 0.0
    refuse: Exception | None = None
    fail: Exception | None = None
    fail_at: int = 0


class ScriptedAnswer:
    """Cancelled at once, as by the torch engine; `slow_close` seconds pass within `aclose`, as in
    an engine that must ask somebody."""

    def __init__(self, script: Script) -> None:
        self._script, self._at, self._done = script, 0, False
        self.cancelled = threading.Event()
        self.slow_close = 0.0

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        if self._done:
            raise StopAsyncIteration
        script, at = self._script, self._at
        await asyncio.sleep(script.pause)
        if script.fail is not None and at == script.fail_at:
            self._done = True
            raise script.fail
        self._at += 1
        if at < len(script.pieces):
            return Delta(script.pieces[at])
        self._done = True
        return Delta("", (), script.reason, script.usage)

    async def aclose(self) -> None:
        if not self._done:
            self._done = True
            if self.slow_close:
                await asyncio.sleep(self.slow_close)
            self.cancelled.set()


class ScriptedEngine:
    """The whole protocol, except that it infers nothing."""

    info = INFO

    def __init__(self) -> None:
        self.script = Script()
        self.asked: list[GenerateRequest] = []
        self.answers: list[ScriptedAnswer] = []
        self.slow_close = 0.0
        self.waiting = 0
        self.failed: EngineFailed | None = None

    async def start(self) -> EngineInfo:
        return INFO

    async def prepare(self, request: GenerateRequest) -> GenerateRequest:
        return request

    def generate(self, request: GenerateRequest) -> ScriptedAnswer:
        self.asked.append(request)
        if self.script.refuse is not None:
            raise self.script.refuse
        self.answers.append(ScriptedAnswer(dataclasses.replace(self.script)))
        self.answers[-1].slow_close = self.slow_close
        return self.answers[-1]

    def stats(self) -> EngineStats:
        waiting = self.waiting
        return EngineStats(slots=4, running=0, waiting=waiting, finished=0, cancelled=0, tokens=0)

    def failure(self) -> EngineFailed | None:
        return self.failed

    async def close(self) -> None:
        pass


class Quotes:
    """Quotes over any report data; `down` is raised instead."""

    roots = PRODUCTION
    down: Exception | None = None

    def extend(self, digest: bytes) -> None:
        pass

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        if self.down is not None:
            raise self.down
        return QuoteWithLogs(machine().quote(report_data=report_data, mr_td=b"\x01" * 48), b"", ())


class BareProver(Prover):
    """A real bundle in an evidence that holds nothing else but a quote."""

    def prove(self, bundle: KeyBundle, *, now: int) -> Evidence:
        quote = self.platform.quote(bytes(64)).quote
        return Evidence(platform="tdx", bundle=bundle.to_bytes(), quote=quote)


class OwnFeed:
    """An agent that knows one block and anchors everything named."""

    def __init__(self) -> None:
        self.named: frozenset[bytes] = frozenset()
        self.ended: frozenset[bytes] = frozenset()
        self.fails: Exception | None = None

    def beacon(self) -> Beacon:
        return Beacon(7, bytes(32), int(time.time()) - 30, time.monotonic())

    def anchored(self) -> frozenset[bytes]:
        return self.named

    def ending(self) -> frozenset[bytes]:
        if self.fails is not None:
            raise self.fails
        return self.ended


@dataclass(frozen=True)
class Whole:
    """An answer that was read to its end."""

    status: int
    media_type: bytes
    content: bytes
    receipt: CheckedReceipt | None
    sealed_pieces: list[int]

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> Any:
        return self.json["error"]


LIMITS = Limits()


class Room:
    """A guest, anchored and on a loopback port in a thread of its own unless said otherwise."""

    def __init__(
        self,
        *,
        anchored: bool = True,
        served: bool = True,
        limits: Limits = LIMITS,
        engine: Any = None,
    ) -> None:
        self.engine: Any = engine or ScriptedEngine()
        self.feed, self.quotes = OwnFeed(), Quotes()
        self.guest = _guest(self.engine, self.feed, self.quotes)
        self.epochs, self.ring = self.guest.epochs, self.guest.epochs.ring
        self.epochs.first(time.monotonic())
        if anchored:
            self.anchor()
        if served:
            self._serve(limits)

    def anchor(self) -> None:
        self.feed.named = frozenset(epoch.evidence_digest for epoch, _ in self.epochs.living)
        self.epochs.step(time.monotonic())

    @property
    def verified(self) -> VerifiedEnclave:
        """What a client has that verified the current epoch."""
        return self.verified_with(None)

    def verified_with(self, session: bytes | None) -> VerifiedEnclave:
        """The same, with the key configuration of a session."""
        epoch = self.epochs.current
        assert epoch is not None
        return VerifiedEnclave(
            evidence_digest=epoch.evidence_digest,
            bundle=epoch.bundle,
            measurement_digest=b"\x49" * 32,
            release_name="r1",
            model_name=MODEL,
            engine_config={},
            price_table=json.loads(self.guest.configs.price),
            valid_until=epoch.bundle.not_after,
            report=Report((StepResult(1, "parse", "passed"),), simulated=True),
            minted_by=_MINT,
            session=VerifiedSession(session, epoch.bundle.not_after) if session else None,
        )

    def exchange(self, request: bhttp.Request, session: bytes | None = None) -> SealedExchange:
        enclave = self.verified_with(session)
        return SealedExchange(enclave, request, pq="preferred", now=int(time.time()))

    def client(self, *, chunked: bool = True) -> ClientRequest:
        return ClientRequest(self.verified.bundle.key_configs, pq="preferred", chunked=chunked)

    def open(self, request: bhttp.Request, session: bytes | None = None) -> Answer:
        exchange = self.exchange(request, session)
        headers = wire.sealed_headers(exchange.media_type)
        transport = Transport()
        stream = transport.stream(f"{self.base}ohttp", exchange.body, headers)
        driver, reading = Driver(transport), Reading(exchange, stream)
        driver.run(reading.begin())
        return Answer(reading, driver)

    def ask(self, request: bhttp.Request, session: bytes | None = None) -> Whole:
        """The answer, read and checked as a client does."""
        answer = self.open(request, session)
        content = answer.read()
        media_type = answer.header(b"content-type") or b""
        return Whole(answer.status, media_type, content, answer.receipt, answer.sealed_pieces)

    @property
    def counts(self) -> dict[str, float]:
        """The metrics, as Prometheus reads them: `name`, or `name{value of its label}`."""
        return samples(Transport().get(f"{self.base}metrics"))

    @property
    def open_requests(self) -> float:
        return self.counts["umay_requests_open"]

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self.guest.parsers.close()
        self._bound.close()

    def stop(self) -> None:
        """As SIGTERM does it."""
        self._server.should_exit = True
        self._thread.join()

    def _serve(self, limits: Limits) -> None:
        self._bound = socket.create_server(("127.0.0.1", 0))
        self.port = self._bound.getsockname()[1]
        self.boot = self.guest.boot.boot_id.hex()
        self.base = f"http://127.0.0.1:{self.port}{wire.base(self.boot)}"
        self._server = Server(server.create_app(self.guest, listen="guest.internal:1"), limits)
        run = self._server.run
        self._thread = threading.Thread(target=run, args=([self._bound],), daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)


def samples(page: bytes) -> dict[str, float]:
    """Every sample of a page of metrics."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = "{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""
            found[sample.name + labels] = sample.value
    return found


def ended(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """How many requests ended how between two readings of the metrics, by outcome."""
    begin = "umay_requests_total{"
    grown = {name: after[name] - before[name] for name in after if name.startswith(begin)}
    return {name[len(begin) : -1]: by for name, by in grown.items() if by}


@contextlib.contextmanager
def room(**options: Any) -> Iterator[Room]:
    opened = Room(**options)
    try:
        yield opened
    finally:
        if options.get("served", True):
            opened.close()


def post(
    body: object,
    *,
    path: str = wire.CHAT,
    pacing: str | None = "none",
    method: str = "POST",
    key: bytes | None = None,
) -> bhttp.Request:
    """An inner request; `body` is JSON, or bytes as they are; `key` makes it repeatable."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers: bhttp.Fields = ((wire.CONTENT_TYPE.encode(), wire.JSON.encode()),)
    if pacing is not None:
        headers += ((wire.PACING_FIELD, pacing.encode()),)
    if key is not None:
        headers += ((wire.IDEMPOTENCY_FIELD, key),)
    return bhttp.Request(method, path, headers, content)


def stream(**more: object) -> dict[str, object]:
    return {**CHAT, "stream": True, **more}


def _guest(engine: Any, feed: OwnFeed, quotes: Quotes) -> Guest:
    config = HostConfig.from_toml(HOST)
    configs = Configs(engine_config(INFO), config.price_table, HOST)
    keys = BootKeys()
    prover = BareProver(quotes, None, keys, config, configs, INFO.model_digest)  # type: ignore[arg-type]
    epochs = Epochs(prover, feed, KeyRing(), config.schedule)  # type: ignore[arg-type]
    prices = {"prompt": config.prompt_price, "completion": config.completion_price}
    return Guest(keys, epochs, engine, configs, quotes, MODEL, prices)
