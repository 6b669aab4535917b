"""The host config: what the host may choose, measured before it is read (DESIGN §8).

TOML. It names no secret and loosens nothing that a client checks; every key is known or
the guest does not boot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from attestation.formats import toml
from attestation.formats.address import canonical
from attestation.wire import MAX_CONFIG_BYTES
from enclave.guest.engines.base import EngineSettings
from enclave.guest.engines.registry import DEFAULT

KEYS = {
    "network": ("id",),
    "price": ("prompt", "completion", "payee"),
    "epoch": ("length_s", "overlap_s", "lead_s"),
    "gpu": ("count",),
    "engine": ("name", "slots", "max_len", "dtype", "threads"),
}
"""Of every table; each is read where it is written."""

MAX_PRICE = 10**15
MAX_NETWORK, MAX_ADDRESS = 64, 128
"""Characters: a KeyBundle holds no longer network id, and no spelling of an address is longer."""
MAX_ENGINE_NAME = 32
MAX_SLOTS, MAX_CONTEXT, MAX_THREADS = 4096, 1 << 24, 1024
MAX_BUNDLE_LIFE_S = 7200
"""From the beacon to not_after; clients refuse more."""


@dataclass(frozen=True)
class Schedule:
    """Seconds. An epoch's keys open requests for `length + overlap`; the next epoch is made
    `lead` before its use."""

    length: int = 3600
    overlap: int = 600
    lead: int = 1800


@dataclass(frozen=True)
class HostConfig:
    """Prices in nano per token; `payee` is an address in its one form, whatever the file's
    spelling; `gpus` is how many the VM must have; `engine` says which one answers
    (`engines.registry`), and how."""

    network: str
    prompt_price: int
    completion_price: int
    payee: str | None
    gpus: int
    engine: EngineSettings
    schedule: Schedule

    @classmethod
    def from_toml(cls, data: bytes) -> HostConfig:
        """Raises ParseError naming the key that is absent, unknown or out of range."""
        document = toml.read(data, what="host config", limit=MAX_CONFIG_BYTES)
        toml.check_keys(document, KEYS, where="host config:")
        network, price = _table(document, "network"), _table(document, "price")
        epoch, gpu, engine = (_table(document, name, {}) for name in ("epoch", "gpu", "engine"))
        config = cls(
            network=_text(network, "id", MAX_NETWORK),
            prompt_price=_number(price, "prompt", 0, MAX_PRICE),
            completion_price=_number(price, "completion", 0, MAX_PRICE),
            payee=_address(price, "payee") if "payee" in price else None,
            gpus=_number(gpu, "count", 0, 64, 1),
            engine=_engine(engine),
            schedule=_schedule(epoch),
        )
        return config

    @property
    def price_table(self) -> bytes:
        """Canonical JSON, hashed as `umay/price/v1`."""
        table = {"prompt": self.prompt_price, "completion": self.completion_price}
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()


def _engine(engine: dict[str, Any]) -> EngineSettings:
    most = {"slots": MAX_SLOTS, "max_len": MAX_CONTEXT, "threads": MAX_THREADS}
    numbers = {key: _number(engine, key, 1, limit) for key, limit in most.items() if key in engine}
    dtype = _text(engine, "dtype", MAX_ENGINE_NAME) if "dtype" in engine else None
    name = _text(engine, "name", MAX_ENGINE_NAME, DEFAULT)
    return EngineSettings(name=name, dtype=dtype, **numbers)


def _schedule(epoch: dict[str, Any]) -> Schedule:
    default = Schedule()
    schedule = Schedule(
        length=_number(epoch, "length_s", 2, default.length, default.length),
        overlap=_number(epoch, "overlap_s", 1, default.overlap, default.overlap),
        lead=_number(epoch, "lead_s", 1, default.length, default.lead),
    )
    if schedule.lead >= schedule.length:
        raise ParseError("host config: [epoch] lead_s: expected less than length_s")
    if schedule.length + schedule.overlap + schedule.lead > MAX_BUNDLE_LIFE_S:
        raise ParseError(f"host config: [epoch]: expected at most {MAX_BUNDLE_LIFE_S} s in all")
    return schedule


def _table(document: dict[str, Any], name: str, default: object = None) -> dict[str, Any]:
    value = document.pop(name, default)
    if not isinstance(value, dict):
        raise ParseError(f"host config: expected a table [{name}]")
    toml.check_keys(value, KEYS[name], where=f"host config: [{name}]")
    return dict(value)


def _text(table: dict[str, Any], key: str, most: int, default: str | None = None) -> str:
    value = table.pop(key, default)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ParseError(f"host config: {key}: expected 1 to {most} printable characters")
    return value


def _address(table: dict[str, Any], key: str) -> str:
    text = _text(table, key, MAX_ADDRESS)
    try:
        return canonical(text)
    except ParseError as error:
        raise ParseError(f"host config: {key}: {error}") from None


def _number(
    table: dict[str, Any], key: str, least: int, most: int, default: int | None = None
) -> int:
    value = table.pop(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ParseError(f"host config: {key}: expected a whole number from {least} to {most}")
    return value
