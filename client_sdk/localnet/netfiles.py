"""Files of a network on one machine: ports, guests' host configs, the policy.

Everything lies in one directory; what was chosen at the first start is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import create, home, own_directory, read_secret, read_trusted, replace
from attestation.formats.json import decode
from attestation.formats.model import model_digest
from attestation.model_folder import read_manifest
from attestation.process import lacks
from client_sdk import policies

NETWORK_ID = "umay-local"
HOST = "127.0.0.1"
MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107."""


@dataclass(frozen=True)
class GuestSpec:
    """A guest to run: prices in nano per token; `model` a directory, None the demo model."""

    name: str
    prompt_price: int
    completion_price: int
    model: Path | None = None


GUESTS = (GuestSpec("ada", 40, 120), GuestSpec("bela", 50, 150))
"""Two hosts with one model and different prices."""


@dataclass(frozen=True)
class PolicyFacts:
    """What the local policy pins. Digests in hex."""

    contract: str
    code_hash: str
    origin: str
    log_key: str
    roots: dict[str, str]
    model_name: str
    model_digest: str
    releases: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(name, measurement, engine config digests; none of them means any)"""


class NetworkFiles:
    """The files of a network, in one directory of this user, which is made with mode 0700 if it
    does not exist.

    Raises UsageError if other users could have prepared the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = own_directory(home(directory).absolute())
        self.policy = self.directory / "policy.toml"
        self.config = self.directory / "umay.toml"
        self.log_key = self.directory / "log.key"
        self.wallet = self.directory / "wallet.key"
        self.token = self.directory / "token"
        self.record = self.directory / "relay.record"
        self.release = self.directory / "release.json"
        self.simulator = self.directory / "simulator"
        self.chain = self.directory / "chain"
        self.log = self.directory / "log"
        self.errors = self.directory / "errors"
        self._socket_home: tempfile.TemporaryDirectory[str] | None = None

    def socket(self) -> Path:
        """The simulator's socket: here, or in a shorter place where this one is too deep."""
        path = self.directory / "simulator.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        if self._socket_home is None:
            self._socket_home = tempfile.TemporaryDirectory(prefix="umay-")
        return Path(self._socket_home.name) / "simulator.sock"

    def host_config(self, guest: GuestSpec, *, engine: str | None = None) -> Path:
        path = self.directory / f"{guest.name}.toml"
        replace(path, host_config(guest, engine=engine).encode())
        return path

    def api_token(self) -> str:
        """The proxy's bearer token, made once, mode 0600."""
        token = read_secret(self.token)
        if token is None:
            create(self.token, f"umay-{secrets.token_urlsafe(24)}\n".encode())
            token = read_secret(self.token) or b""
        return token.decode().strip()

    def ports(self, names: tuple[str, ...]) -> dict[str, int]:
        """A port for every name: those of the last start, new ones for new names.

        Raises Unavailable naming the port that another program holds.
        """
        ports = {n: p for n, p in self.read_json("ports.json").items() if isinstance(p, int)}
        for name in names:
            if name in ports:
                _check_free(name, ports[name])
        ports |= self.new_ports(tuple(name for name in names if name not in ports))
        self.write_json("ports.json", ports)
        return ports

    def new_ports(self, names: tuple[str, ...]) -> dict[str, int]:
        """Ports that nobody holds now, for a part that is not kept."""
        return dict(zip(names, _free_ports(len(names)), strict=True))

    def read_json(self, name: str) -> dict[str, object]:
        path = self.directory / name
        data = read_trusted(path)
        value = {} if data is None else decode(data, what=str(path))
        if not isinstance(value, dict):
            raise ParseError(f"{path}: expected a JSON object; remove it to begin anew")
        return value

    def write_json(self, name: str, value: object) -> None:
        replace(self.directory / name, f"{json.dumps(value, indent=1)}\n".encode())


def demo_model() -> Path:
    """The model that comes with the guest's package, found without importing it."""
    spec = importlib.util.find_spec("enclave.guest")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(lacks("enclave.guest", "guest"))
    return Path(spec.submodule_search_locations[0]) / "demo_model"


def digest_of(model: Path) -> str:
    """What a guest with the files of this directory will claim, in hex. Raises what
    `open_files` raises."""
    return model_digest(read_manifest(model)).hex()


def host_config(guest: GuestSpec, *, engine: str | None = None) -> str:
    """The host config of a guest on this machine; its hash is measured."""
    chosen = "" if engine is None else f'\n[engine]\nname = "{engine}"\n'
    return (
        f'[network]\nid = "{NETWORK_ID}"\n\n'
        f"[price]\nprompt = {guest.prompt_price}\ncompletion = {guest.completion_price}\n"
        f"{chosen}"
    )


def policy_toml(facts: PolicyFacts) -> str:
    """A policy for this network alone: simulated roots, one log, one model."""
    releases = "".join(_release(*release) for release in facts.releases)
    network = f"""# Written by `umay up`: what follows is this network's own.
[network]
id = "{NETWORK_ID}"
log_contract = "{facts.contract}"
log_code_hash = "{facts.code_hash}"
log_origin = "{facts.origin}"
log_key = "{facts.log_key}"
anchor = "reported"
max_anchor_age_s = 600

[registry]
contract = "none"

[witnesses]
required = "none"
{releases}
[[model]]
name = "{facts.model_name}"
digest = "{facts.model_digest}"

[unsafe.simulated_roots]
intel = ["{facts.roots["intel"]}"]
amd = []
nvidia_device = ["{facts.roots["nvidia_device"]}"]
nvidia_rim = ["{facts.roots["nvidia_rim"]}"]
"""
    return policies.make("simulation", network)


def _release(name: str, measurement: str, engines: tuple[str, ...]) -> str:
    listed = json.dumps(list(engines)) if engines else '"any"'
    return (
        f'\n[[release]]\nname = "{name}"\nlaunch_ids = []\n'
        f'engine_configs = {listed}\nhost_configs = "any"\n'
        f'[release.shapes]\n"simulated" = ["{measurement}"]\n'
    )


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise Unavailable(
                f"{name}: port {port} is in use, by another `umay up` with this --dir "
                "or by another program; stop it, or give another --dir"
            ) from None


def _free_ports(count: int) -> list[int]:
    """Ports that nobody holds now. All are held at once, so that none comes twice."""
    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports
