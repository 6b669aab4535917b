"""The relays of the signed network file that a client keeps (docs/spec/network.md).

The kept file is trusted as the policy is: the user, or who set the user up, put it there. It holds
places alone; nothing of it decides what is accepted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import read_trusted
from attestation.formats.network_file import MAX_FILE_BYTES, NetworkFile
from attestation.trust.policy import Policy
from attestation.verify.network import check_dates, check_own
from client_sdk.effects import Work
from client_sdk.finding import Relays
from client_sdk.presented import Place


@dataclass(frozen=True)
class NetworkDirectory:
    """A Directory of the relays in the network file at `path`, read again for each search."""

    path: Path
    policy: Policy
    clock: Callable[[], float] = time.time

    def places(self) -> Work[tuple[Place, ...]]:
        """Raises Refused("network", …) for a file that does not count now, as one that expired."""
        file = read_kept(self.path, self.policy)
        check_dates(file, now=int(self.clock()))
        if not file.relays:
            raise Unavailable(f"{self.path}: expected relays in the network file, got none")
        return (yield from Relays(file.relays).places())


def relays_of(path: Path, policy: Policy) -> NetworkDirectory:
    """Raises as `read_kept`, before anything is asked."""
    read_kept(path, policy)
    return NetworkDirectory(path, policy)


def read_kept(path: Path, policy: Policy) -> NetworkFile:
    """The kept file, signed by its own keys and of the policy's network.

    Raises UsageError where there is none or another user could have written it, ParseError,
    NotAuthentic or Refused("network", …).
    """
    data = read_trusted(path, limit=MAX_FILE_BYTES)
    if data is None:
        text = "there is no such file; get it from whom you have the policy"
        raise UsageError(f"network file: {path}: {text}")
    file = parsed(data, str(path))
    check_own(file, network=policy.network)
    return file


def parsed(data: bytes, where: str) -> NetworkFile:
    try:
        return NetworkFile.from_bytes(data)
    except ParseError as error:
        raise ParseError(f"{where}: {error}") from None
