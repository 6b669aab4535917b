"""The agent before one guest: the guest's public address, its feed, its way to the log.

Untrusted by everyone. It sees ciphertext and who asks; it keeps neither. Evidence and
proof are always of one and the same epoch: the one that the registrar calls current.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic as _now

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from attestation import wire
from attestation.errors import UmayError
from attestation.formats import cbor
from attestation.net.cors import shared
from contracts.chain import ReadOnlyChain
from enclave.host.feed import for_host, guarded, refused
from enclave.host.forward import Forwarder, target_of
from enclave.host.metrics import MAX_PAGE_BYTES, of_agent
from enclave.host.registrar import LogEntry, Registrar

MAX_PROOFS_KEPT = 256
MAX_PROOFS_ASKED = 8
PROOF_SECONDS = 60.0
"""A proof is asked for again at this age: witnesses cosign its checkpoint again and again."""

METHODS = ["GET", "POST"]
NO_CACHE = {wire.CACHE_CONTROL: "no-cache"}


class Agent:
    """Serves what the guest cannot know; forwards the rest."""

    def __init__(self, registrar: Registrar, *, guest: str, log: str, chain: ReadOnlyChain) -> None:
        self._registrar, self._chain = registrar, chain
        self._guest, self._log = guest.rstrip("/"), log.rstrip("/")
        self._forwarder = Forwarder()
        self._proofs: dict[tuple[int, int], tuple[float, bytes]] = {}
        self._asking = asyncio.Semaphore(MAX_PROOFS_ASKED)

    async def listing(self, _: Request) -> Response:
        """One boot while its guest answers, otherwise none."""
        status = self._registrar.status
        if status.boot is None or not status.answering:
            return JSONResponse({"boots": []}, headers=NO_CACHE)
        state = "ready" if status.ready else "pending"
        listed = {"boot": status.boot, "state": state, "base": wire.base(status.boot)}
        return JSONResponse({"boots": [listed]}, headers=NO_CACHE)

    async def below(self, request: Request) -> Response:
        """Everything under /umay/<boot>/."""
        wanted = target_of(request)
        if wanted is None or wanted.boot != self._registrar.status.boot:
            return Response(b"", 404)
        if wanted.path == "collateral":
            return await self.collateral(request)
        if wanted.path == "proof":
            return await self._proof(int(wanted.query.removeprefix("size=")))
        if wanted.path.partition("/")[0] == "evidence":
            return await self._evidence(request, wanted)
        return await self._forward(request, wanted)

    async def collateral(self, _: Request) -> Response:
        collateral = self._registrar.status.collateral
        return _cbor(collateral) if collateral else Response(b"", 503)

    async def _forward(self, request: Request, wanted: wire.Target) -> Response:
        url = wanted.at(self._guest)
        return await self._forwarder.forward(request, url, limit=wanted.limit)

    async def _evidence(self, request: Request, wanted: wire.Target) -> Response:
        """The log's copy where the log holds other bytes of the same statement."""
        status, named = self._registrar.status, wanted.path.partition("/")[2]
        if named:
            copy = status.copy_of(bytes.fromhex(named))
        else:
            copy = status.entry.served if status.entry else None
            if status.current is not None:
                wanted = replace(wanted, path=f"evidence/{status.current.hex()}")
        return _cbor(copy) if copy else await self._forward(request, wanted)

    async def _proof(self, size: int) -> Response:
        """Of the current evidence, to the size that the client read itself."""
        entry = self._registrar.status.entry
        if entry is None or size <= entry.index:
            return Response(b"", 404)
        proof = await self._proof_of(entry, size)
        return Response(proof, 200, NO_CACHE, wire.TEXT) if proof else Response(b"", 502)

    async def _proof_of(self, entry: LogEntry, size: int) -> bytes | None:
        key = (entry.index, size)
        since, kept = self._proofs.get(key, (0.0, None))
        if kept is None or since < _now() - PROOF_SECONDS:
            url = f"{self._log}/proof?index={entry.index}&size={size}"
            async with self._asking:
                proof = await self._forwarder.get(url, limit=wire.MAX_PROOF_BYTES)
            if proof is None:
                return kept
            kept = proof
            while len(self._proofs) >= MAX_PROOFS_KEPT:
                del self._proofs[next(iter(self._proofs))]
            self._proofs[key] = (_now(), proof)
        return kept

    # The feed, on a listener of its own that only the guest and its host reach

    async def beacon(self, _: Request) -> Response:
        try:
            head = await asyncio.to_thread(self._chain.head)
        except UmayError:
            return Response(b"", 503)
        return _cbor(cbor.encode({0: head.seqno, 1: head.root_hash, 2: head.utime}))

    async def anchored(self, _: Request) -> Response:
        entries = self._registrar.status.entries
        return _cbor(cbor.encode(sorted(d for d, entry in entries.items() if entry.anchored)))

    async def ending(self, _: Request) -> Response:
        """Which boot the host is ending now: the guest ends for nobody else."""
        boot = self._registrar.ending
        return _cbor(cbor.encode([bytes.fromhex(boot)] if boot else []))

    async def status(self, _: Request) -> Response:
        """For the host: what became of each evidence. Nothing of clients."""
        status = self._registrar.status
        logged = {
            digest.hex(): {"index": entry.index, "anchored": entry.anchored}
            for digest, entry in status.entries.items()
        }
        refused = {digest.hex(): reason for digest, reason in status.refused.items()}
        known = {"boot": status.boot, "answering": status.answering, "ready": status.ready}
        return JSONResponse({**known, "logged": logged, "refused": refused})

    async def metrics(self, _: Request) -> Response:
        """For the host: the agent's own, then the guest's where it answers."""
        status = self._registrar.status
        page = b""
        if status.boot is not None and status.answering:
            url = f"{self._guest}{wire.base(status.boot)}metrics"
            page = await self._forwarder.get(url, limit=MAX_PAGE_BYTES) or b""
        return Response(of_agent(status) + page, 200, NO_CACHE, wire.METRICS)

    async def retire(self, _: Request) -> Response:
        """For the host: the guest forgets its keys, and the log gets its word."""
        try:
            index = await asyncio.to_thread(self._registrar.retire)
        except UmayError as error:
            return refused(503, error.code, str(error))
        return JSONResponse({"entry": index})

    def public(self) -> ASGIApp:
        below = Route(wire.LISTING + "{rest:path}", self.below, methods=METHODS)
        return shared(_app(Route(wire.LISTING, self.listing), below))

    def feed(self, *, listen: str, token: str) -> ASGIApp:
        """For the guest at `listen`, and with `token` for its host."""
        app = _app(
            Route("/beacon", self.beacon),
            Route("/anchored", self.anchored),
            Route("/ending", self.ending),
            Route("/collateral", self.collateral),
            Route("/status", for_host(self.status, token=token)),
            Route("/metrics", for_host(self.metrics, token=token)),
            Route("/retire", for_host(self.retire, token=token), methods=["POST"]),
        )
        return guarded(app, listen=listen)


def described(urls: Sequence[str], token_file: Path) -> str:
    """The line that says that the agent serves: its public address, then its feed."""
    return json.dumps({"listening": urls[0], "feed": urls[1], "token_file": str(token_file)})


def _app(*routes: Route) -> Starlette:
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # a redirect would name whatever Host was sent
    return app


def _cbor(content: bytes) -> Response:
    return Response(content, 200, NO_CACHE, wire.CBOR)
