"""`umay.toml`: where this user's policy, chain and relay are. Written by `umay up`.

It holds no secret. Options on the command line win over it.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import check_own, check_own_directory, home, read_trusted, unusable
from attestation.formats import toml
from attestation.net.url import checked_url
from attestation.trust.policy import Policy

DEFAULT_DIR = Path("~/.umay")
NAME = "umay.toml"
KEYS = ("url", "chain", "policy")
MAX_CONFIG_BYTES = 64 * 1024
NOT_ASKED = "-"
"""What commands give that need no url or no policy, so that none is missing."""

LITE = "lite:"
"""Begins a chain that is no URL (contracts/light/chain.py)."""


@dataclass(frozen=True)
class Config:
    """Addresses as URLs; `policy` is the policy file's path, `network` the directory whose
    umay.toml gave all addresses that are asked. Where `network_file` names the relays, `url` is
    NOT_ASKED."""

    url: str
    chain: str
    policy: Path
    network: Path | None = None
    network_file: Path | None = None

    def to_toml(self) -> str:
        return (
            "# Written by `umay up`; read by `umay client` and `umay audit`.\n"
            f'url = "{self.url}"\nchain = "{self.chain}"\npolicy = "{self.policy}"\n'
        )


@dataclass(frozen=True)
class SavedConfig:
    """DIRECTORY/umay.toml, read only for what `connect` was not given."""

    directory: Path

    def text(self, name: str) -> str:
        """What the file says. Raises UsageError where it does not, or where there is no file."""
        path = home(self.directory) / NAME
        found = _saved(path).get(name)
        if not found:
            state = f"does not name a {name}" if path.exists() else "does not exist"
            raise UsageError(
                f"{name}: {path} {state}; start a network of your own with `umay up`, name the "
                "directory of another one, or give url=, policy= and chain= to connect()"
            )
        return found


def load(
    *,
    url: str | None,
    chain: str | None,
    policy: Path | None,
    directory: Path = DEFAULT_DIR,
    network_file: Path | None = None,
) -> Config:
    """The values given, and the others from DIRECTORY/umay.toml. Raises UsageError where a value is
    in neither."""
    if network_file is not None:
        if url is not None:
            raise UsageError("expected --url or --network-file, got both")
        url = NOT_ASKED
    given = {"url": url, "chain": chain, "policy": policy}
    path = home(directory) / NAME
    saved = _saved(path)
    for name, address in (("url", url), ("chain", chain)):
        if address and address != NOT_ASKED:
            _check_address(address, name=f"--{name}")
    found = {key: value or saved.get(key) for key, value in given.items()}
    for key, value in found.items():
        if not value:
            state = f"does not name a {key}" if path.exists() else "does not exist"
            raise UsageError(
                f"expected --{key}, and {path} {state}; give --{key}, start a network with "
                "`umay up`, or name the directory of a network with --dir"
            )
    addresses = (str(found["url"]), str(found["chain"]))
    given_url = network_file is not None or url not in (None, NOT_ASKED)
    network = None if chain or given_url else directory
    return Config(*addresses, Path(str(found["policy"])), network, network_file)


def floors_in(directory: Path) -> Path | None:
    """Where a client of this directory keeps what it has seen; None where there is no such one."""
    place = home(directory)
    return place / "floors.json" if place.is_dir() else None


@contextmanager
def asking(network: Path | None) -> Iterator[None]:
    """Where nothing listens at an address from `network`'s umay.toml, the error says what to do."""
    try:
        yield
    except Unavailable as error:
        if network is None or os.strerror(errno.ECONNREFUSED) not in str(error):
            raise
        default = home(network) == home(DEFAULT_DIR)
        name = str(DEFAULT_DIR) if default else str(network)
        start = "umay up" if default else f"umay up --dir {shlex.quote(name)}"
        text = f"{error}; is the network of {name} running? Start it with `{start}`"
        raise Unavailable(text, again=error.again, retry_after=error.retry_after) from None


def read_policy(path: Path) -> Policy:
    """Raises UsageError, which names the file, where there is none or it is no policy."""
    try:
        return Policy.from_toml(path.read_bytes())
    except OSError as error:
        raise unusable(f"policy: {path}", error) from None
    except ParseError as error:
        raise UsageError(f"{path}: {error}") from None


def _saved(path: Path) -> dict[str, str]:
    """What umay.toml says. Raises UsageError where another user could have written it, or the
    policy that it names, or could replace what lies in its directory."""
    data = read_trusted(path)
    if data is None:
        return {}
    check_own_directory(path.parent)
    try:
        values = toml.read(data, what=str(path), limit=MAX_CONFIG_BYTES)
        toml.check_keys(values, KEYS, where=f"{path}:")
    except ParseError as error:
        raise UsageError(str(error)) from None
    for key, value in values.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key}: expected a string")
    for key in ("url", "chain"):
        if values.get(key):
            _check_address(values[key], name=f"{path}: {key}")
    if values.get("policy"):
        check_own(Path(values["policy"]))  # the file, however its path is spelled
    return values


def _check_address(value: str, *, name: str) -> None:
    """A URL, or a chain with proven reads. Raises UsageError, which begins with `name`."""
    if not value.startswith(LITE):
        checked_url(value, name=name)
