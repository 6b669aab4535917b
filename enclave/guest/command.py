"""What `python -m enclave.guest` does: boot, then serve until SIGTERM.

Standard output says once where it listens. Standard error says why it could not boot, and
never anything about a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from attestation.net.serve import read_address, serving
from attestation.net.server_connection import Limits
from attestation.process import tell
from enclave.guest.boot import Machine, boot, keep_memory_private
from enclave.guest.engines.registry import engines
from enclave.guest.epochs import keep
from enclave.guest.feed import Feed
from enclave.guest.gpu import NvmlGpus
from enclave.guest.platforms.simulated import SimulatedMachine
from enclave.guest.platforms.tsm import TsmPlatform
from enclave.guest.server import create_app


def command() -> None:
    """Raises UmayError where the guest cannot boot or serve."""
    options = _parser().parse_args()
    logging.disable(logging.CRITICAL)
    keep_memory_private()
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    read_address(options.listen)  # before a boot that takes minutes
    limits = Limits(idle_s=options.keep_alive)
    guest = await boot(
        _machine(options),
        host_config=options.host_config,
        model=options.model,
        feed=Feed(options.agent),
        engines=engines(threads=options.threads),
        model_name=options.model_name,
    )
    stopped = threading.Event()
    for action in (guest.epochs.step, guest.epochs.retire):
        arguments = {"clock": time.monotonic, "tell": _tell}
        threading.Thread(target=keep, args=(action, stopped), kwargs=arguments, daemon=True).start()
    try:
        await serving([(create_app(guest), options.listen)], ready=_ready, limits=limits)
    finally:
        stopped.set()
        await guest.engine.close()


def _machine(options: argparse.Namespace) -> Machine:
    if options.simulator is None:
        return Machine(TsmPlatform(), NvmlGpus())
    simulated = SimulatedMachine(options.simulator, options.vm, options.gpus)
    return Machine(simulated, simulated)


def _ready(urls: Sequence[str]) -> None:
    sys.stdout.write(json.dumps({"listening": urls[0]}) + "\n")
    sys.stdout.flush()


def _tell(text: str) -> None:
    tell("guest", text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m enclave.guest", description="One guest.")
    add = parser.add_argument
    add("--listen", required=True, metavar="HOST:PORT", help="where the agent reaches this guest")
    add("--host-config", required=True, type=Path, metavar="FILE", help="measured, then read")
    add("--model", required=True, type=Path, metavar="DIR", help="a folder of model files")
    add("--model-name", default="umay-demo", metavar="NAME", help="as /v1/models shows it")
    add("--agent", required=True, metavar="URL", help="the host agent's feed")
    add("--simulator", type=Path, metavar="SOCKET", help="simulated hardware in place of the real")
    add("--keep-alive", type=float, default=Limits.idle_s, metavar="S", help="idle connections")
    add("--vm", default="guest", metavar="ID", help="which simulated VM this is")
    add("--gpus", type=int, default=1, metavar="N", help="how many the simulated VM has")
    add("--threads", type=int, metavar="N", help="of the engine; 1 unless said")
    return parser
