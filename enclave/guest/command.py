"""`python -m enclave.guest`: boots one guest, and serves it until SIGTERM.

After SIGTERM the guest begins no more answers, and ends when those that run have ended, or the
time for it is over. The second SIGTERM ends it at once.

When the guest is ready, standard output has one line of JSON: its address, how many answers of how
many tokens the engine takes at a time, and the most bytes that their keys and values can take.
Standard error says why the guest could not boot. It never says anything about a request.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attestation.net.draining import Drain
from attestation.net.serve import read_address, serving
from attestation.net.server_connection import Limits
from attestation.process import keep_memory_private, tell
from enclave.guest.boot import Machine, boot
from enclave.guest.engines.base import AnyEngine, EngineInfo, until_failed
from enclave.guest.engines.registry import engines
from enclave.guest.epochs import keep
from enclave.guest.feed import Feed
from enclave.guest.gpu import NvmlGpus
from enclave.guest.platforms.simulated import SimulatedMachine
from enclave.guest.platforms.tsm import TsmPlatform
from enclave.guest.server import create_app

DRAIN_S = 30
TOLD_S = 1.0
"""For answers that an engine has broken to reach those who wait for them."""


def command() -> None:
    """Raises UmayError where the guest cannot boot or serve."""
    options = _parser().parse_args()
    logging.disable(logging.CRITICAL)
    keep_memory_private()
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    read_address(options.listen)  # before a boot that takes minutes
    limits, drain = Limits(idle_s=options.keep_alive), Drain(options.drain)
    guest = await boot(
        _machine(options),
        host_config=options.host_config,
        model=options.model,
        feed=Feed(options.agent),
        engines=engines(threads=options.threads),
        model_name=options.model_name,
    )
    guest, stopped = replace(guest, drain=drain), threading.Event()
    for action in (guest.epochs.step, guest.epochs.retire, guest.epochs.sweep):
        arguments = {"clock": time.monotonic, "tell": _tell}
        threading.Thread(target=keep, args=(action, stopped), kwargs=arguments, daemon=True).start()
    ready = functools.partial(_ready, guest.engine.info)
    apps = [(create_app(guest, listen=options.listen), options.listen)]
    try:
        await _while_it_works(guest.engine, serving(apps, ready=ready, limits=limits, drain=drain))
    finally:
        stopped.set()
        guest.parsers.close()
        await guest.engine.close()


async def _while_it_works(engine: AnyEngine, serving: Coroutine[Any, Any, None]) -> None:
    """Raises EngineFailed where the engine has stopped: whoever waits was told so, and a guest
    without an engine only looks as if it served. Who started it starts it again."""
    served, failed = asyncio.create_task(serving), asyncio.create_task(until_failed(engine))
    try:
        await asyncio.wait({served, failed}, return_when=asyncio.FIRST_COMPLETED)
        if not served.done():
            await asyncio.sleep(TOLD_S)
            raise failed.result()
        served.result()
    finally:
        for task in (served, failed):
            task.cancel()
        await asyncio.gather(served, failed, return_exceptions=True)


def _machine(options: argparse.Namespace) -> Machine:
    if options.simulator is None:
        return Machine(TsmPlatform(), NvmlGpus())
    simulated = SimulatedMachine(options.simulator, options.vm, options.gpus)
    return Machine(simulated, simulated)


def _ready(info: EngineInfo, urls: Sequence[str]) -> None:
    engine = {"slots": info.slots, "max_len": info.max_len, "kv_bytes": info.kv_bytes}
    sys.stdout.write(json.dumps({"listening": urls[0], **engine}) + "\n")
    sys.stdout.flush()


def _tell(text: str) -> None:
    tell("guest", text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m enclave.guest",
        description="Boot one guest in this VM and serve it until SIGTERM.",
    )
    add = parser.add_argument
    add(
        "--listen",
        required=True,
        metavar="HOST:PORT",
        help="address to serve on; the agent connects to it",
    )
    add(
        "--host-config",
        required=True,
        type=Path,
        metavar="FILE",
        help="host configuration (TOML); it is measured before it is read",
    )
    add(
        "--model",
        required=True,
        type=Path,
        metavar="DIR",
        help="directory with the files of the model",
    )
    add(
        "--model-name",
        default="umay-demo",
        metavar="NAME",
        help="name of the model in the API; default umay-demo",
    )
    add("--agent", required=True, metavar="URL", help="URL of the host agent's feed")
    add(
        "--simulator",
        type=Path,
        metavar="SOCKET",
        help="socket of a simulator, used instead of real hardware",
    )
    add(
        "--keep-alive",
        type=float,
        default=Limits.idle_s,
        metavar="SECONDS",
        help="seconds after which an idle connection is closed; default 75",
    )
    add(
        "--drain",
        type=float,
        default=DRAIN_S,
        metavar="SECONDS",
        help=f"seconds that running answers may take to end after SIGTERM; default {DRAIN_S}",
    )
    add("--vm", default="guest", metavar="ID", help="name of the simulated VM; default guest")
    add(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="number of GPUs of the simulated VM; default 1",
    )
    add("--threads", type=int, metavar="N", help="number of CPU threads of the engine; default 1")
    return parser
