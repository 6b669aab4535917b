"""The log over HTTP: static resources of c2sp.org/tlog-tiles, proofs, and submission.

Only committed state is served. Every resource that is named by a digest or a size is immutable;
only the checkpoint changes. The number of submissions at a time is bounded; further ones are
refused and never queued without limit. Requests are not logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from attestation import wire
from attestation.errors import (
    LogError,
    ParseError,
    Unavailable,
    UsageError,
)
from attestation.formats.collateral import Collateral
from attestation.formats.digests import DIGEST_BYTES, sha256
from attestation.log.documents import RetireRequest
from attestation.log.leaf import Leaf
from attestation.log.note import from_decimal
from attestation.log.proof import Proof
from attestation.log.submission import (
    MAX_SUBMISSION_BYTES,
    Submission,
    SubmissionAnswer,
    binding_of,
)
from attestation.log.tiles import TilePath
from attestation.net.arriving import Arriving, Crowded
from attestation.net.cors import shared
from contracts.logservice.admission import (
    Admission,
    ReleaseAdmission,
    check_claims,
    check_leaf,
    entry_of,
    no_release,
)
from contracts.logservice.appender import Appender
from contracts.logservice.cosigned import NoWitnesses, Witnesses
from contracts.logservice.documents import (
    check_not_retired,
    collateral_entry,
    release_entry,
    retire_entry,
)
from contracts.logservice.networks import NetworkFiles
from contracts.logservice.refusals import Busy, Endpoint, TooLarge, answered
from contracts.logservice.store import Entry, Store

MAX_PENDING = 64
"""Most submissions at a time: 64 of 4 MiB are 256 MiB."""

MAX_ARRIVING, MAX_ARRIVING_BYTES = 256, 256 << 20
"""Of submissions that are not whole yet; where there are more, the oldest makes room."""

MAX_JUDGED = 4
"""Most verifications at a time, so that threads remain for readers."""

BODY_SECONDS = 30
FORGET_SECONDS = 3600

CHECKPOINT_CACHE = "public, max-age=2"
IMMUTABLE = "public, max-age=31536000, immutable"
TEXT = f"{wire.TEXT}; charset=utf-8"


logger = logging.getLogger(__name__)


class LogService:
    """The endpoints of one log."""

    def __init__(
        self,
        store: Store,
        *,
        admit: Admission,
        admit_release: ReleaseAdmission,
        witnesses: Witnesses,
        networks: NetworkFiles,
        max_pending: int,
    ) -> None:
        self._store, self._admit, self._admit_release = store, admit, admit_release
        self._witnesses = witnesses
        self._networks = networks
        lasting = isinstance(witnesses, NoWitnesses)
        self._proof_cache = IMMUTABLE if lasting else CHECKPOINT_CACHE
        self._max_pending, self._pending = max_pending, 0
        self._arriving = Arriving(most=MAX_ARRIVING, most_bytes=MAX_ARRIVING_BYTES)
        self._judging = asyncio.Semaphore(MAX_JUDGED)
        self.appender = Appender(store)

    async def checkpoint(self, _: Request) -> Response:
        note = await run_in_threadpool(lambda: self._store.checkpoint)
        return _answer(self._witnesses.cosigned(note), TEXT, CHECKPOINT_CACHE)

    async def cosigned(self, _: Request) -> Response:
        """The newest checkpoint that enough witnesses cosigned."""
        note = await run_in_threadpool(self._witnesses.newest)
        return _answer(note, TEXT, CHECKPOINT_CACHE)

    async def cosigned_at(self, request: Request) -> Response:
        """The checkpoint of a size, with the cosignatures that it has by now."""
        size = from_decimal(request.path_params["size"], "size")
        note = await run_in_threadpool(self._store.checkpoint_at, size)
        return _answer(note and self._witnesses.cosigned(note), TEXT, CHECKPOINT_CACHE)

    async def checkpoint_at(self, request: Request) -> Response:
        size = from_decimal(request.path_params["size"], "size")
        return _answer(await run_in_threadpool(self._store.checkpoint_at, size), TEXT)

    async def tile(self, request: Request) -> Response:
        path = TilePath.parse("tile/" + request.path_params["path"])
        return _answer(await run_in_threadpool(self._store.tile, path), wire.OCTETS)

    async def blob(self, request: Request) -> Response:
        digest = _digest(request.path_params["digest"])
        return _answer(await run_in_threadpool(self._store.blob, digest), wire.OCTETS)

    async def record(self, request: Request) -> Response:
        index = from_decimal(request.path_params["index"], "index")
        return _answer(await run_in_threadpool(self._store.record, index), wire.CBOR)

    async def proof(self, request: Request) -> Response:
        """With the cosignatures that the checkpoint has by now."""
        return await self._proven(*_numbers(request, "index", "size"))

    async def _proven(self, index: int, size: int) -> Response:
        proof = Proof.from_bytes(await run_in_threadpool(self._store.proof, index, size))
        checkpoint = self._witnesses.cosigned(proof.checkpoint)
        return _answer(replace(proof, checkpoint=checkpoint).to_bytes(), TEXT, self._proof_cache)

    async def consistency(self, request: Request) -> Response:
        old, new = _numbers(request, "from", "to")
        hashes = await run_in_threadpool(self._store.consistency, old, new)
        body = {"from": old, "to": new, "hashes": [item.hex() for item in hashes]}
        return _answer(json.dumps(body).encode(), wire.JSON)

    async def submit(self, request: Request) -> Response:
        return await self._taken(request, self._machine)

    async def release(self, request: Request) -> Response:
        """Accepts a release manifest as the body."""
        return await self._taken(request, self._release)

    async def network(self, request: Request) -> Response:
        """Accepts a network file as the body."""
        return await self._taken(request, self._network)

    async def network_file(self, request: Request) -> Response:
        """The network file of a version; with `size`, its tlog-proof to that published size."""
        version = from_decimal(request.path_params["version"], "version")
        index, data = await run_in_threadpool(self._networks.find, version) or (0, None)
        if data is None or "size" not in request.query_params:
            return _answer(data, wire.CBOR)
        return await self._proven(index, _numbers(request, "size")[0])

    async def retire(self, request: Request) -> Response:
        """Accepts a RetireRequest as the body."""
        return await self._taken(request, self._retire)

    async def _taken(
        self, request: Request, log: Callable[[bytes], Awaitable[SubmissionAnswer]]
    ) -> Response:
        """The answer of `log` to the body. Raises Busy if max_pending submissions are in
        progress."""
        self._check_free()
        body = await _body(request, self._arriving)
        self._check_free()
        self._pending += 1
        try:
            logged = await log(body)
        finally:
            self._pending -= 1
        return _answer(logged.to_bytes(), wire.CBOR, "no-store")

    def _check_free(self) -> None:
        if self._pending >= self._max_pending:
            raise Busy(
                f"the log already has {self._pending} submissions in progress, which is its limit; "
                "try again in a few seconds"
            )

    async def _machine(self, body: bytes) -> SubmissionAnswer:
        return await self._log(Submission.from_bytes(body))

    async def _release(self, body: bytes) -> SubmissionAnswer:
        entry = release_entry(body)
        await run_in_threadpool(self._admit_release, body)
        index = await self.appender.append(entry)
        return await run_in_threadpool(self._logged, index)

    async def _network(self, body: bytes) -> SubmissionAnswer:
        entry = await run_in_threadpool(self._networks.entry, body)
        index = await self.appender.append(entry)
        return await run_in_threadpool(self._logged, index)

    async def _retire(self, body: bytes) -> SubmissionAnswer:
        request = RetireRequest.from_bytes(body)
        entry = await run_in_threadpool(retire_entry, request, self._store)
        index = await self.appender.append(entry)
        return await run_in_threadpool(self._logged, index)

    async def _log(self, submission: Submission) -> SubmissionAnswer:
        index = await run_in_threadpool(self._already, submission)
        if index is None:
            async with self._judging:
                entry = await run_in_threadpool(self._judge, submission)
            collateral = collateral_entry(Collateral.from_bytes(submission.collateral))
            index, _ = await asyncio.gather(*map(self.appender.append, (entry, collateral)))
        return await run_in_threadpool(self._logged, index)

    def _logged(self, index: int) -> SubmissionAnswer:
        leaf = self._store.leaf(index)
        if leaf is None:
            raise LogError(f"log store: expected the committed entry {index}, found none")
        return SubmissionAnswer(index, self._store.size, leaf)

    def _already(self, submission: Submission) -> int | None:
        """The index of the leaf with exactly this evidence, so that a retry needs no fresh
        beacon."""
        index = self._store.find(binding_of(submission.evidence))
        leaf = None if index is None else self._store.leaf(index)
        if leaf is None or Leaf.from_bytes(leaf).evidence_digest != sha256(submission.evidence):
            return None
        return index

    def _judge(self, submission: Submission) -> Entry:
        collateral = Collateral.from_bytes(submission.collateral)
        check_claims(submission, self._store)
        check_not_retired(submission.evidence, self._store)
        leaf = self._admit(submission)
        check_leaf(leaf, submission)
        return entry_of(submission, leaf, collateral)


def create_app(
    store: Store,
    *,
    admit: Admission,
    admit_release: ReleaseAdmission = no_release,
    origin_path: str = "/log",
    witnesses: Witnesses | None = None,
    networks: NetworkFiles | None = None,
    max_pending: int = MAX_PENDING,
    keep_renewals: int | None = None,
) -> ASGIApp:
    """The ASGI application under `origin_path`. Both admissions run in a worker thread.

    The evidence of renewals is deleted after `keep_renewals` days, or never if it is None.
    """
    service = LogService(
        store,
        admit=admit,
        admit_release=admit_release,
        witnesses=witnesses or NoWitnesses(),
        networks=networks or NetworkFiles(store, None),
        max_pending=max_pending,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.appender.run())]
        if keep_renewals is not None:
            tasks.append(asyncio.create_task(_forget(store, keep_renewals)))
        yield
        for task in tasks:
            task.cancel()

    prefix = origin_path.rstrip("/")
    below = f"{prefix}/".encode()
    app = Starlette(routes=_routes(service, prefix), lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect would name whatever Host was sent
    return shared(app, lambda path: wire.shared_log_method(path.removeprefix(below)))


async def _forget(store: Store, days: int) -> None:
    while True:
        try:
            await run_in_threadpool(store.forget, days)
        except Unavailable as error:
            logger.warning("the evidence of old renewals was not deleted: %s", error)
        await asyncio.sleep(FORGET_SECONDS)


def _routes(service: LogService, prefix: str) -> list[Route]:
    gets: dict[str, Endpoint] = {
        "/checkpoint": service.checkpoint,
        "/checkpoint/{size}": service.checkpoint_at,
        "/cosigned": service.cosigned,
        "/cosigned/{size}": service.cosigned_at,
        "/tile/{path:path}": service.tile,
        "/evidence/sha256/{digest}": service.blob,
        "/submission/{index}": service.record,
        "/network/{version}": service.network_file,
        "/proof": service.proof,
        "/consistency": service.consistency,
    }
    routes = [Route(prefix + path, answered(end), methods=["GET"]) for path, end in gets.items()]
    posts: dict[str, Endpoint] = {
        "/submit": service.submit,
        "/release": service.release,
        "/retire": service.retire,
        "/network": service.network,
    }
    return routes + [Route(prefix + p, answered(end), methods=["POST"]) for p, end in posts.items()]


def _answer(content: bytes | None, media_type: str, cache: str = IMMUTABLE) -> Response:
    if content is None:
        raise UsageError("this resource is not published, or not published yet")
    headers = {"cache-control": cache, "x-content-type-options": "nosniff"}
    return Response(content, 200, headers, media_type)


async def _body(request: Request, arriving: Arriving) -> bytes:
    body = bytearray()
    try:
        async with arriving.one(BODY_SECONDS) as arrival:
            async for chunk in request.stream():
                arrival.count(chunk)
                body += chunk
                if len(body) > MAX_SUBMISSION_BYTES:
                    raise TooLarge(f"submission: expected at most {MAX_SUBMISSION_BYTES} bytes")
    except Crowded as error:
        raise Busy(str(error)) from None
    except TimeoutError:
        raise ParseError(
            f"submission: expected the whole body within {BODY_SECONDS} s, got {len(body)} bytes"
        ) from None
    return bytes(body)


def _numbers(request: Request, *names: str) -> tuple[int, ...]:
    return tuple(from_decimal(request.query_params.get(name, ""), name) for name in names)


def _digest(text: str) -> bytes:
    if len(text) != 2 * DIGEST_BYTES or any(c not in "0123456789abcdef" for c in text):
        raise ParseError(
            f"digest: expected {2 * DIGEST_BYTES} lower-case hex digits, got another text"
        )
    return bytes.fromhex(text)
