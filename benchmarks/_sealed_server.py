"""The server of the benchmark `sealed`: a real guest, and a route with the same answers
unsealed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

import enclave.guest
from attestation import wire
from attestation.channel import bhttp
from attestation.net.serve import serving
from enclave.guest.api import respond
from enclave.guest.boot import Machine, boot
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.feed import Beacon, Feed
from enclave.guest.guest import Guest
from enclave.guest.platforms.simulated import SimulatedMachine
from enclave.guest.server import create_app
from enclave.simulator.server import Server
from enclave.simulator.service import Simulator

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
HOST_CONFIG = '[network]\nid = "bench"\n\n[price]\nprompt = 1\ncompletion = 1\n'


class OwnFeed(Feed):
    """A feed that needs no agent, because it says at once that everything is anchored."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.made: frozenset[bytes] = frozenset()

    def beacon(self) -> Beacon:
        return Beacon(1, bytes(32), int(time.time()), time.monotonic())

    def anchored(self) -> frozenset[bytes]:
        return self.made


async def main(port: int, slots: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        guest = await booted(Path(directory), slots)
        routes = [
            Route("/plain", plain(guest), methods=["POST"]),
            Route(wire.CHAT, plain(guest), methods=["POST"]),
            Mount("/", create_app(guest, listen="127.0.0.1")),
        ]
        await serving([(Starlette(routes=routes), f"127.0.0.1:{port}")], ready=lambda urls: None)


async def booted(directory: Path, slots: int) -> Guest:
    (directory / "host.toml").write_text(HOST_CONFIG)
    simulator = Server(directory / "socket", Simulator(directory / "state"))
    threading.Thread(target=simulator.serve_forever, daemon=True).start()
    machine, feed = SimulatedMachine(directory / "socket", "bench"), OwnFeed()
    settings = TorchSettings(slots=slots)
    guest = await boot(
        Machine(machine, machine),
        host_config=directory / "host.toml",
        model=DEMO,
        feed=feed,
        engines={"torch": lambda files, _: TorchEngine(files, settings=settings)},
        model_name="umay-demo",
    )
    feed.made = frozenset(epoch.evidence_digest for epoch, _ in guest.epochs.living)
    guest.epochs.step(time.monotonic())
    return guest


def plain(guest: Guest):  # type: ignore[no-untyped-def]
    """The route of the peer: the same engine and the same events, without channel and padding."""

    async def answer(request: Request) -> Response:
        message = bhttp.Request("POST", "/v1/chat/completions", (), await request.body())
        reply = await respond(guest, message)
        return StreamingResponse(reply.pieces, reply.status, media_type="text/event-stream")

    return answer


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
