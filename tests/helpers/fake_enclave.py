"""An enclave over HTTP without a machine: real channel and receipts, scripted answers.

Its VerifiedEnclave is minted here, which only tests may do: what is under test begins
after the verification.
"""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import wire
from attestation.channel import bhttp
from attestation.channel.server import KeyRing, ServerRequest
from attestation.errors import SessionExpired, UmayError, Unavailable
from attestation.formats.keys import KeyBundle
from attestation.formats.receipt import (
    REQUEST_SALT_LABEL,
    RESPONSE_SALT_LABEL,
    SALT_BYTES,
    Receipt,
    salted_hash,
)
from attestation.formats.session import sign_gone
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import Policy
from attestation.verify.verdict import _MINT, Report, StepResult, VerifiedEnclave, VerifiedSession
from attestation.wire import RECEIPT_TRAILER
from client_sdk.async_client import AsyncClient
from client_sdk.choosing import Chooser
from client_sdk.client import Client
from client_sdk.effects import Work, blocking
from client_sdk.finding import Chosen, Finder, Offer, Relays
from client_sdk.presented import Place
from contracts.chain import AccountState
from tests.attestation.test_policy import GOOD

PIECES = [b'data: {"choices":[{"delta":{"content":"%d "}}]}\n\n' % n for n in range(8)]
POLICY = Policy.from_toml(GOOD.encode())
REFUSED = (400, wire.PROBLEM, wire.REFUSED)
DONE = b"data: [DONE]\n\n"


@dataclass
class Script:
    """How the next answers go: `fault` names what goes wrong, `pause` seconds between pieces;
    `unsealed` is an answer outside the seal, `word` what stands in place of the signature that a
    session has ended; `left` is set when the client goes away."""

    pieces: list[bytes] = field(default_factory=lambda: [*PIECES, DONE])
    status: int = 200
    media_type: str = "text/event-stream"
    fault: str = ""
    pause: float = 0.0
    opened: int = 0
    retry_after: str = ""
    unsealed: tuple[int, str, bytes] | None = None
    word: bytes = b""
    left: threading.Event = field(default_factory=threading.Event)
    seen: list[bhttp.Request] = field(default_factory=list)


class FakeEnclave:
    """Serves POST …/ohttp on loopback until `close`."""

    def __init__(self, boot: str = "ab" * 16) -> None:
        self.script, self.ring = Script(), KeyRing()
        self.other_ways: list[Place] = []
        self.key, self.boot = Ed25519PrivateKey.generate(), bytes.fromhex(boot)
        self.epoch, self.with_sessions = self.ring.open_epoch(), False
        self.verified = verified(self.epoch.configs, self.key, self.boot)
        enclave = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                enclave.answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Clients that leave are no fault."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        base = f"http://127.0.0.1:{self.server.server_port}/umay/{boot}/"
        self.chosen = Chosen(Place(boot, base, "ready"), self.verified)

    def move(self, url: str) -> None:
        """Behind another relay, say those who verify it."""
        boot = self.boot.hex()
        self.chosen = Chosen(Place(boot, f"{url}/umay/{boot}/", "ready"), self.verified)

    def lead_through(self, url: str) -> None:
        """Another relay before the way that there is."""
        self.other_ways = [self.chosen.place]
        self.move(url)

    def renew(self) -> None:
        """A restart: only new keys open requests."""
        self.ring = KeyRing()
        self.epoch = self.ring.open_epoch()
        self.verified = verified(self.epoch.configs, self.key, self.boot)

    def open_session(self) -> None:
        """From now on verifications have a new session each."""
        self.with_sessions = True
        self.renew_session()

    def renew_session(self) -> None:
        config = self.ring.sessions.open(0x647A, self.epoch.guard)
        session = VerifiedSession(config, int(time.time()) + 540)
        self.verified = verified(self.epoch.configs, self.key, self.boot, session)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        to_session = handler.headers["content-type"] == wire.SESSION_REQUEST
        request = self.ring.request(chunked=True, to_session=to_session)
        try:
            message = request.open(body)
        except SessionExpired as gone:
            word = sign_gone(self.key, self.verified.evidence_digest, gone.clear)
            return _plain(handler, 400, wire.SESSION_GONE, self.script.word or word)
        except UmayError:
            return _plain(handler, *REFUSED)
        self.script.opened += 1
        if self.script.unsealed is not None:
            return _plain(handler, *self.script.unsealed)
        inner = bhttp.decode_request(message)
        self.script.seen.append(inner)
        handler.send_response(200)
        handler.send_header("content-type", request.response_media_type)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        script = self.script
        for part in self.sealed(request, bhttp.encode_request(inner)):
            try:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                handler.wfile.flush()
            except OSError:
                script.left.set()
                handler.close_connection = True
                return None
            time.sleep(script.pause)
        if self.script.fault == "connection cut":
            handler.close_connection = True
            handler.connection.close()
            return None
        handler.wfile.write(b"0\r\n\r\n")
        return None

    def sealed(self, request: ServerRequest, message: bytes) -> list[bytes]:
        writer, encoder = request.response(), bhttp.ResponseEncoder()
        script = self.script
        head = [(b"content-type", script.media_type.encode())]
        if script.retry_after:
            head.append((b"retry-after", script.retry_after.encode()))
        parts = [writer.write(encoder.head(script.status, tuple(head)))]
        cut = script.fault in ("connection cut", "final chunk missing")
        pieces = script.pieces[:4] if cut else script.pieces
        parts += [writer.write(encoder.content(piece)) for piece in pieces]
        if cut:
            return parts
        trailers = self.trailers(request, message, b"".join(pieces))
        parts.append(writer.write(encoder.finish(trailers)))
        return [*parts, writer.finish()]

    def trailers(self, request: ServerRequest, message: bytes, content: bytes) -> bhttp.Fields:
        fault = self.script.fault
        if fault == "no receipt":
            return ()
        salts = [
            request.export(label, SALT_BYTES) for label in (REQUEST_SALT_LABEL, RESPONSE_SALT_LABEL)
        ]
        enclave = self.verified
        receipt = Receipt(
            evidence_digest=b"\x66" * 32 if fault == "other evidence" else enclave.evidence_digest,
            model_digest=enclave.bundle.model_digest,
            request_hash=salted_hash(salts[0], b"?" if fault == "other request" else message),
            response_hash=salted_hash(salts[1], b"?" if fault == "other response" else content),
            finish_reason="stop",
            tokens=(3, 0, 8, 0),
            price_digest=enclave.bundle.price_digest,
            amount=20 if fault == "other amount" else 19,
            time=1_795_000_020,
            sequence=1,
        )
        key = Ed25519PrivateKey.generate() if fault == "other key" else self.key
        return ((RECEIPT_TRAILER, base64.b64encode(receipt.sign(key).to_bytes())),)


def verified(
    configs: Any,
    key: Any,
    boot_id: bytes,
    session: VerifiedSession | None = None,
    *,
    model: str = "demo",
    price: tuple[int, int] = (1, 2),
    seconds: float = 3600,
) -> VerifiedEnclave:
    """`seconds`: until the verification ends."""
    now = int(time.time())
    bundle = KeyBundle(
        boot_id=boot_id,
        key_configs=tuple(config.to_bytes() for config in configs),
        receipt_key=key.public_key().public_bytes_raw(),
        model_digest=b"\x44" * 32,
        engine_digest=b"\x45" * 32,
        gpu_count=1,
        not_before=now - 60,
        not_after=now + 3600,
        network="umay-test",
        beacon=(1, bytes(32)),
        price_digest=b"\x46" * 32,
        host_config_digest=b"\x47" * 32,
    )
    return VerifiedEnclave(
        evidence_digest=b"\x48" * 32,
        bundle=bundle,
        measurement_digest=b"\x49" * 32,
        release_name="r1",
        model_name=model,
        engine_config={},
        price_table={"prompt": price[0], "completion": price[1]},
        valid_until=now + int(seconds),
        report=Report((StepResult(1, "parse", "passed"),), simulated=True),
        minted_by=_MINT,
        session=session,
    )


class NoChain:
    """Stands where a Client wants a chain; nothing here reads it."""

    def head(self) -> BlockRef:
        raise Unavailable("no chain")

    def block(self, seqno: int) -> BlockRef:
        raise Unavailable("no chain")

    def account(self, address: str) -> AccountState:
        raise Unavailable("no chain")


class FakeClient(Client):
    """A Client whose verifications are scripted: enclaves in the order of their price."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        super().__init__("http://127.0.0.1:1", policy=POLICY, chain=NoChain(), **options)
        self.verifications: list[str] = []
        self._use(Chooser(FakeFinder(enclaves, self.verifications), where=self.url))


class FakeAsyncClient(AsyncClient):
    """The same for asyncio."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        super().__init__("http://127.0.0.1:1", policy=POLICY, chain=NoChain(), **options)
        self.verifications: list[str] = []
        self._use(Chooser(FakeFinder(enclaves, self.verifications), where=self.url))


class FakeFinder(Finder):
    """Verifies nothing; says in `verifications` for what it was asked. `pause` in seconds is
    what reading the chain takes, `down` what it raises."""

    pause = 0.0
    down: UmayError | None = None

    def __init__(self, enclaves: list[FakeEnclave], verifications: list[str]) -> None:
        super().__init__(Relays(()), policy=POLICY, chain=NoChain(), clock=time.time)
        self.enclaves, self.verifications = enclaves, verifications

    def anchor(self) -> Work[Any]:
        if self.pause:
            yield from blocking(lambda: time.sleep(self.pause))
        if self.down is not None:
            raise self.down
        return None

    def offers(self) -> Work[list[Offer]]:
        yield from ()
        ways = [(enclave.chosen.place, *enclave.other_ways) for enclave in self.enclaves]
        return [Offer(places, at) for at, places in enumerate(ways)]

    def verified(self, place: Place, anchor: Any) -> Work[Chosen]:
        yield from ()
        self.verifications.append(place.boot)
        enclave = next(e for e in self.enclaves if e.chosen.place.boot == place.boot)
        if enclave.with_sessions:
            enclave.renew_session()
        return Chosen(place, enclave.verified)


def _plain(handler: BaseHTTPRequestHandler, status: int, media_type: str, body: bytes) -> None:
    handler.send_response(status)
    if media_type:
        handler.send_header("content-type", media_type)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
