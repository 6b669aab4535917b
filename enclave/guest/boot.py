"""The boot, in the order that makes its proof true (DESIGN §8).

1 host config: hash into RTMR3, only then read · 2 model: read once, hashing the very bytes
that will be loaded · 3 engine config · 4 init done: RTMR3 closes · 5 GPUs: their reports
checked here over a nonce of ours, then set ready, for an engine cannot load before · 6 engine
loads and tests itself · 7 keys and first epoch: bundle, GPU reports over it, quote. The
beacon is read last, because loading a large model takes longer than a beacon stays fresh.
What clients get is served once the agent says that the evidence is anchored.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attestation.channel.server import KeyRing
from attestation.errors import Unavailable, UsageError
from attestation.formats.evidence import INIT_DONE
from attestation.wire import MAX_CONFIG_BYTES
from enclave.guest.config import HostConfig
from enclave.guest.engines.base import engine_config
from enclave.guest.engines.registry import MakeEngine, choose
from enclave.guest.epochs import Epochs
from enclave.guest.feed import Feed
from enclave.guest.gpu import Gpus, attest
from enclave.guest.guest import Guest
from enclave.guest.keys import BootKeys, Configs, Prover
from enclave.guest.model import read_model
from enclave.guest.platforms.tsm import Platform

AGENT_SECONDS = 120.0
PAUSE_S = 0.2
T = TypeVar("T")


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
    engines: Mapping[str, MakeEngine],
    model_name: str,
) -> Guest:
    """The guest, with its first epoch pending. Raises UmayError of the stage that failed."""
    raw = _read(host_config)
    machine.platform.extend(hashlib.sha384(raw).digest())
    config = HostConfig.from_toml(raw)
    files = read_model(model)
    engine = choose(engines, config.engine.name)(files, config.engine)
    configs = Configs(engine_config(engine.info), config.price_table, raw)
    machine.platform.extend(hashlib.sha384(INIT_DONE).digest())
    _ready_gpus(machine, config, now=_patiently(feed.beacon).utime)
    keys = BootKeys()
    prover = Prover(machine.platform, machine.gpus, keys, config, configs, files.digest)
    epochs = Epochs(prover, feed, KeyRing(), config.schedule)
    try:
        await engine.start()
        _patiently(lambda: epochs.first(time.monotonic()))
    except BaseException:
        await engine.close()
        raise
    prices = {"prompt": config.prompt_price, "completion": config.completion_price}
    return Guest(keys, epochs, engine, configs, machine.platform, model_name, prices)


def _ready_gpus(machine: Machine, config: HostConfig, *, now: int) -> None:
    roots, nonce = machine.platform.roots, secrets.token_bytes(32)
    if attest(machine.gpus, nonce=nonce, count=config.gpus, roots=roots, now=now):
        machine.gpus.set_ready()


def _patiently(action: Callable[[], T]) -> T:
    """The agent may start after the guest: it is asked again for a while."""
    until = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return action()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE_S)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UsageError(f"host config: {path}: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(
            f"host config: {path}: expected at most {MAX_CONFIG_BYTES} bytes, got more"
        )
    return data


__all__ = ["Machine", "boot"]
