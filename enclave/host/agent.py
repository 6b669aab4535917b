"""The agent before one guest: the guest's public address, its feed, its way to the log.

Untrusted by everyone. It sees ciphertext and who asks; it keeps neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from attestation import cbor
from attestation.errors import UmayError
from contracts.chain import Chain
from enclave.host.forward import Forwarder, allowed
from enclave.host.registrar import Registrar

MAX_PROOF_BYTES = 64 * 1024
MAX_PROOFS_KEPT = 256
MAX_SIZE_DIGITS = 19


class Agent:
    """Serves what the guest cannot know; forwards the rest."""

    def __init__(self, registrar: Registrar, *, guest: str, log: str, chain: Chain) -> None:
        self._registrar, self._chain = registrar, chain
        self._guest, self._log = guest.rstrip("/"), log.rstrip("/")
        self._forwarder = Forwarder()
        self._proofs: dict[tuple[int, int], bytes] = {}

    async def listing(self, _: Request) -> Response:
        standing = self._registrar.standing
        if standing.boot is None:
            return JSONResponse({"boots": []})
        state = "ready" if standing.ready else "pending"
        base = f"/umay/{standing.boot}/"
        return JSONResponse({"boots": [{"boot": standing.boot, "state": state, "base": base}]})

    async def below(self, request: Request) -> Response:
        """Everything under /umay/<boot>/."""
        boot, path = request.path_params["boot"], request.path_params["path"]
        if boot != self._registrar.standing.boot:
            return Response(b"", 404)
        own = {"collateral": self._collateral, "proof": self._proof, "evidence": self._evidence}
        if request.method == "GET" and path in own:
            return await own[path](request)
        if not allowed(request.method, path):
            return Response(b"", 404)
        return await self._forwarder.forward(request, f"{self._guest}/umay/{boot}/{path}")

    async def _collateral(self, _: Request) -> Response:
        return _bytes(self._registrar.standing.collateral, "application/cbor")

    async def _evidence(self, request: Request) -> Response:
        """The log's copy where the log holds other bytes of the same statement."""
        standing = self._registrar.standing
        entry = standing.entries.get(standing.current or b"")
        if entry is not None and entry.served is not None:
            return _bytes(entry.served, "application/cbor")
        url = f"{self._guest}/umay/{standing.boot}/evidence"
        return await self._forwarder.forward(request, url)

    async def _proof(self, request: Request) -> Response:
        """Of the current evidence, to the size that the client read itself."""
        standing = self._registrar.standing
        entry = standing.entries.get(standing.current or b"")
        text = request.query_params.get("size", "")
        if not text.isascii() or not text.isdecimal() or len(text) > MAX_SIZE_DIGITS:
            return Response(b"", 400)
        if entry is None or int(text) <= entry.index:
            return Response(b"", 404)
        proof = await self._fetch_proof(entry.index, int(text))
        return _bytes(proof, "text/plain") if proof else Response(b"", 502)

    async def _fetch_proof(self, index: int, size: int) -> bytes | None:
        found = self._proofs.get((index, size))
        if found is None:
            url = f"{self._log}/proof?index={index}&size={size}"
            found = await self._forwarder.get(url, limit=MAX_PROOF_BYTES)
            if found is not None:
                while len(self._proofs) >= MAX_PROOFS_KEPT:
                    del self._proofs[next(iter(self._proofs))]
                self._proofs[index, size] = found
        return found

    # The feed, on a listener of its own that only the guest reaches

    async def beacon(self, _: Request) -> Response:
        try:
            head = await asyncio.to_thread(self._chain.head)
        except UmayError:
            return Response(b"", 503)
        value = cbor.encode({0: head.seqno, 1: head.root_hash, 2: head.utime})
        return _bytes(value, "application/cbor")

    async def anchored(self, _: Request) -> Response:
        entries = self._registrar.standing.entries
        digests = sorted(digest for digest, entry in entries.items() if entry.anchored)
        return _bytes(cbor.encode(digests), "application/cbor")

    def public(self) -> Starlette:
        below = Route("/umay/{boot}/{path:path}", self.below, methods=["GET", "POST"])
        return Starlette(routes=[Route("/umay/", self.listing), below])

    def feed(self) -> Starlette:
        routes = [
            Route("/beacon", self.beacon),
            Route("/anchored", self.anchored),
            Route("/collateral", self._collateral),
        ]
        return Starlette(routes=routes)


def described(urls: Sequence[str]) -> str:
    """The line that says that the agent serves: its public address, then its feed."""
    return json.dumps({"listening": urls[0], "feed": urls[1]})


def _bytes(content: bytes, media_type: str) -> Response:
    return Response(content, 200, {"cache-control": "no-cache"}, media_type)
