"""A witness over HTTP: POST add-checkpoint, and its key. Requests are not logged."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attestation.log.note import VerifierKey
from contracts.logservice.witness import MAX_BODY_BYTES, PLAIN, Witness, WitnessAnswer

_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def create_app(witness: Witness, key: VerifierKey) -> Starlette:
    """The ASGI application; `key` is the witness's public verifier key."""

    async def add(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return _response(
                    WitnessAnswer(
                        413, f"the request: expected at most {MAX_BODY_BYTES} bytes\n".encode()
                    )
                )
        return _response(await run_in_threadpool(witness.add, bytes(body)))

    async def vkey(_: Request) -> Response:
        return _response(WitnessAnswer(200, key.to_text().encode() + b"\n", PLAIN))

    routes = [Route("/add-checkpoint", add, methods=["POST"]), Route("/vkey", vkey)]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # a redirect would name whatever Host was sent
    return app


def _response(answer: WitnessAnswer) -> Response:
    """A response with exactly this media type. Starlette would add a charset, which the protocol
    does not have."""
    headers = {**_NO_STORE, "content-type": answer.media_type}
    if answer.status == 503:
        headers["retry-after"] = "10"
    return Response(answer.body, answer.status, headers)
