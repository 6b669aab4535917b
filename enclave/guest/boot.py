"""The boot, in the order that makes its proof true (DESIGN §8).

1 host config: hash into RTMR3, only then read · 2 model: read once, hashing the very bytes
that will be loaded · 3 keys · 4 engine config · 5 init done: RTMR3 closes · 6 engine loads
and tests itself · 7 first epoch: bundle, GPU reports checked here, quote · 8 GPUs ready.
What clients get is served once the agent says that the evidence is anchored.
"""

from __future__ import annotations

import ctypes
import hashlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.channel.ohttp import KeyRing
from attestation.errors import UmayError, Unavailable, UsageError
from attestation.evidence import INIT_DONE
from enclave.guest.config import MAX_CONFIG_BYTES, HostConfig
from enclave.guest.engines.base import Engine, engine_config
from enclave.guest.epochs import Epochs
from enclave.guest.feed import Feed
from enclave.guest.gpu import Gpus
from enclave.guest.guest import Guest
from enclave.guest.keys import BootKeys, Configs, Prover
from enclave.guest.model import ModelFiles, read_model
from enclave.guest.platform import Platform

AGENT_SECONDS = 120.0
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Machine:
    """What the guest stands on; with a simulator, both are one object."""

    platform: Platform
    gpus: Gpus


async def boot(
    machine: Machine,
    *,
    host_config: Path,
    model: Path,
    feed: Feed,
    make_engine: Callable[[ModelFiles], Engine],
    model_name: str,
) -> Guest:
    """The guest, with its first epoch pending. Raises UmayError of the stage that failed."""
    raw = _read(host_config)
    machine.platform.extend(hashlib.sha384(raw).digest())
    config = HostConfig.from_toml(raw)
    files = read_model(model)
    engine = make_engine(files)
    configs = Configs(engine_config(engine.info), config.price_table, raw)
    machine.platform.extend(hashlib.sha384(INIT_DONE).digest())
    await engine.start()
    keys = BootKeys()
    prover = Prover(machine.platform, machine.gpus, keys, config, configs, files.digest)
    epochs = Epochs(prover, feed, KeyRing(), config.schedule)
    _first(epochs)
    machine.gpus.set_ready()
    prices = {"prompt": config.prompt_price, "completion": config.completion_price}
    return Guest(keys, epochs, engine, configs, machine.platform, model_name, prices)


def keep_memory_private() -> None:
    """No core dump and no other process of this user may read this one's memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise UsageError("the kernel refused to make this process undumpable")


def _first(epochs: Epochs) -> None:
    """The agent may start after the guest: it is asked again for a while."""
    until = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return epochs.first(time.monotonic())
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UsageError(f"host config: {path}: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"host config: expected at most {MAX_CONFIG_BYTES} bytes")
    return data


__all__ = ["Machine", "UmayError", "boot", "keep_memory_private"]
