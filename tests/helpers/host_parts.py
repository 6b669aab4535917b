"""What stands around an agent, on loopback: a scripted guest, a real log, a small chain."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from pytoniq_core import begin_cell
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from attestation.formats.collateral import Collateral
from attestation.formats.evidence import evidence_digest
from attestation.log.leaf import Leaf, release_leaf
from attestation.log.submission import Submission, release_key
from attestation.net.serve import Server
from attestation.net.server_connection import Limits
from attestation.trust.anchor import BlockRef
from contracts.chain import AccountState
from contracts.codec import LogState
from contracts.logservice.database import Sqlite
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store
from enclave.host.agent import Agent
from enclave.host.registrar import Registrar
from tests.contracts.test_log_server import (
    COLLATERAL,
    KEY,
    MANIFEST,
    ORIGIN,
    PUBLIC,
    leaf_of,
    submission,
)
from tests.helpers.waiting import HANG_S, wait_for

CONTRACT = "-1:" + "ab" * 32
PIECE = b"a sealed piece of an answer "


class Service:
    """An application on a loopback port, in a thread of its own."""

    def __init__(self, app: ASGIApp, *, port: int = 0) -> None:
        self._bound = socket.create_server(("127.0.0.1", port))
        self.port = self._bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = Server(app, Limits(shutdown_s=1))
        sockets = {"sockets": [self._bound]}
        self._thread = threading.Thread(target=self._server.run, kwargs=sockets, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    def ask_to_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join()
        self._bound.close()


@dataclass
class Epoch:
    submission: Submission
    state: str = "pending"
    previous: bytes | None = None

    @property
    def digest(self) -> bytes:
        return evidence_digest(self.submission.evidence)


@dataclass
class ScriptedGuest:
    """Serves what a guest serves. `mode` says how it answers sealed requests; `left` is set
    when whoever asked has gone, `seen` keeps what arrived."""

    boot: int = 1
    mode: str = "answer"
    epochs: list[Epoch] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    number: int = 0
    drains: bool = False

    @property
    def boot_id(self) -> str:
        return self.boot.to_bytes(16).hex()

    def add_epoch(self, *, state: str = "pending", renews: Epoch | None = None) -> Epoch:
        self.number += 1
        made = submission(self.number, boot=self.boot, release=None)
        epoch = Epoch(made, state, renews.digest if renews else None)
        self.epochs.append(epoch)
        return epoch

    def restart(self) -> None:
        self.boot += 1
        self.epochs = []

    def app(self) -> Starlette:
        base = "/umay/{boot}"
        return Starlette(
            routes=[
                Route("/umay/", self._boots),
                Route(base + "/epochs", self._epochs),
                Route(base + "/evidence", self._evidence),
                Route(base + "/evidence/{digest}", self._evidence),
                Route(base + "/config/{name}", self._config),
                Route(base + "/ohttp", self.sealed, methods=["POST"]),
                Route("/{path:path}", self._other, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )

    async def _boots(self, _: Request) -> Response:
        return JSONResponse({"boots": [] if self.drains else [self.boot_id]})

    async def _epochs(self, _: Request) -> Response:
        listed = [
            {
                "evidence": epoch.digest.hex(),
                "state": epoch.state,
                "kind": 1 if epoch.previous is None else 2,
                "previous": epoch.previous.hex() if epoch.previous else None,
            }
            for epoch in self.epochs
        ]
        return JSONResponse({"epochs": listed})

    async def _evidence(self, request: Request) -> Response:
        wanted = request.path_params.get("digest")
        for epoch in self.epochs:
            if wanted is None or epoch.digest.hex() == wanted:
                return Response(epoch.submission.evidence, media_type="application/cbor")
        return Response(b"", 404)

    async def _config(self, request: Request) -> Response:
        made = self.epochs[0].submission
        configs = {"engine": made.engine_config, "price": made.price_table}
        return Response(configs.get(request.path_params["name"], made.host_config))

    async def _other(self, request: Request) -> Response:
        await self._keep(request)
        return Response(b"other", headers={"x-guest": "1", "set-cookie": "a=b"})

    async def _keep(self, request: Request) -> None:
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        self.arrived.set()

    async def sealed(self, request: Request) -> Response:
        await self._keep(request)
        if self.mode == "no head":
            await self._until_left(request)
        if self.mode == "full":
            return Response(b"", 503, {"retry-after": "7", "x-guest": "1"})
        return _Sealed(self)

    async def _until_left(self, request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.left.set()


class _Sealed(Response):
    """answer: three pieces; silent: one, then nothing; die, die at length: cut after one."""

    def __init__(self, guest: ScriptedGuest) -> None:
        super().__init__()
        self._guest = guest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mode = self._guest.mode
        headers = [(b"content-type", b"message/ohttp-chunked-res"), (b"connection", b"keep-alive")]
        if mode == "die at length":
            headers.append((b"content-length", b"%d" % (3 * len(PIECE))))
        headers += [(b"x-guest", b"1"), (b"incremental", b"?1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(3):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            if at == 0 and mode == "silent":
                await self._guest._until_left(Request(scope, receive))
                return
            if at == 0 and mode.startswith("die"):
                raise ConnectionAbortedError
        await send({"type": "http.response.body", "body": b""})


@dataclass
class SmallChain:
    """A masterchain head, and one contract that holds `size` leaves."""

    size: int = 1
    reads: int = 0

    def head(self) -> BlockRef:
        return BlockRef(7, b"\6" * 32, 1_790_000_000, "reported")

    def account(self, address: str) -> AccountState:
        self.reads += 1
        genesis = LogState.genesis(origin=ORIGIN, log_key=PUBLIC, size=self.size, root=bytes(32))
        code = begin_cell().store_uint(1, 8).end_cell().to_boc()
        return AccountState(address, code, genesis.to_cell().to_boc(), 1, "active", 1, 7)


class Net:
    """Log, guest and chain with an agent before the guest. `look` is one step of its registrar."""

    def __init__(self, directory: Path) -> None:
        self._parts, self._services = ExitStack(), list[Service]()
        self.admit: Callable[[Submission], Leaf] = leaf_of
        self.submitted: list[Submission] = []
        self.store = self._parts.enter_context(Store(Sqlite(directory), origin=ORIGIN, key=KEY))
        genesis = release_leaf(MANIFEST).to_bytes()
        self.store.append([Entry(release_key(MANIFEST), genesis, (MANIFEST,))])
        self.log = self.service(create_app(self.store, admit=self._judge)).url + "/log"
        self.guest, self.chain = ScriptedGuest(), SmallChain()
        self.guest_service = self.service(self.guest.app())
        self.told: list[str] = []
        self.now = 0.0
        self.collateral: Callable[[], Collateral] = lambda: COLLATERAL
        self.start_agent()

    def start_agent(self) -> None:
        """One that knows nothing yet."""
        self.registrar = Registrar(
            guest=self.guest_service.url,
            log=self.log,
            chain=self.chain,  # type: ignore[arg-type]
            contract=CONTRACT,
            collateral=self._collateral,
            tell=self.told.append,
            clock=lambda: self.now,
        )
        agent = Agent(
            self.registrar,
            guest=self.guest_service.url,
            log=self.log,
            chain=self.chain,  # type: ignore[arg-type]
        )
        self.url = self.service(agent.public()).url
        self.token = "t" * 43
        feed = agent.feed(listen="localhost:0", token=self.token)
        self.feed = self.service(feed).url
        self.bearer = {"authorization": f"Bearer {self.token}"}

    @property
    def base(self) -> str:
        return f"{self.url}/umay/{self.guest.boot_id}/"

    def look(self, *, after: float = 2.0) -> None:
        self.now += after
        self.registrar.step()

    def make_ready(self) -> Epoch:
        """The guest's first epoch, logged, anchored and current."""
        epoch = self.guest.add_epoch()
        self.look()
        self.chain.size = self.store.size
        self.look()
        epoch.state = "current"
        self.look()
        return epoch

    def service(self, app: ASGIApp, *, port: int = 0) -> Service:
        service = Service(app, port=port)
        self._services.append(service)
        self._parts.callback(service.stop)
        return service

    def close(self) -> None:
        for service in self._services:  # all at once, then one after the other
            service.ask_to_stop()
        self._parts.close()

    def _collateral(self) -> Collateral:
        return self.collateral()

    def _judge(self, submitted: Submission) -> Leaf:
        self.submitted.append(submitted)
        return self.admit(submitted)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    url: str, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> Answer:
    """One request with the path exactly as given. Raises IncompleteRead where it was cut."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=HANG_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def other_bytes(made: Submission, quote: bytes) -> Submission:
    """The same keys in other evidence bytes."""
    from attestation.formats.evidence import Evidence

    evidence = replace(Evidence.from_bytes(made.evidence), quote=quote)
    return replace(made, evidence=evidence.to_bytes())
