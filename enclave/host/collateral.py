"""Where an agent gets vendor collateral: from a simulator, from a file, or from the vendors.

Nobody trusts this collateral: verifiers check every signature in it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from attestation import wire
from attestation.errors import ParseError, UmayError, Unavailable
from attestation.formats import cbor
from attestation.formats.collateral import Collateral, Fetcher
from attestation.formats.evidence import MAX_EVIDENCE_BYTES, Evidence
from attestation.trust.roots import Roots
from attestation.vendors.archive import Archive
from attestation.vendors.collect import collect
from attestation.vendors.fetch import HttpFetcher, Services
from enclave.host.peer import Peer

TIMEOUT_S = 30.0
MAX_BYTES = 8 << 20


def from_simulator(path: Path) -> Collateral:
    """What the simulated vendors publish today. Raises Unavailable or ParseError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(cbor.encode({0: "collateral"}))
            connection.shutdown(socket.SHUT_WR)
            data = bytearray()
            while len(data) <= MAX_BYTES and (part := connection.recv(1 << 16)):
                data += part
    except OSError as error:
        raise Unavailable(f"simulator: {path}: {error.strerror or error}") from None
    answer = cbor.decode_map(bytes(data), required=frozenset({0, 1}), limit=MAX_BYTES)
    if answer[0] != "ok" or not isinstance(answer[1], dict):
        raise ParseError(f"simulator: {path}: expected the parts of collateral")
    return Collateral(answer[1])


class VendorCollateral:
    """Asks the vendors for the collateral that the guest's evidence needs, and keeps it in an
    archive.

    Before a guest has evidence, and while a vendor does not answer, the parts in the archive that
    are still valid are used. `umay audit fetch --archive` fills the archive for a first boot.
    """

    def __init__(
        self,
        guest: str,
        archive: Archive,
        *,
        services: Services,
        roots: Roots,
        fetcher: Fetcher | None = None,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._guest, self._archive = guest.rstrip("/"), archive
        self._services, self._roots = services, roots
        self._fetcher: Fetcher = fetcher or HttpFetcher()
        self._tell, self._clock, self._peer = tell, clock, Peer()

    def __call__(self) -> Collateral:
        """Raises Unavailable where neither vendors nor archive have anything."""
        now = int(self._clock())
        try:
            self._archive.add(self._fetch(now))
        except UmayError as error:
            self._tell(f"collateral: {error}; the archive is used instead")
        found = self._archive.current(now)
        if not found.parts:
            raise Unavailable("collateral: expected parts that are valid now, the archive has none")
        return found

    def _fetch(self, now: int) -> Collateral:
        boots = self._peer.json(self._guest + wire.LISTING).get("boots")
        if not isinstance(boots, list) or len(boots) != 1:
            raise Unavailable("guest: expected evidence, it has none yet")
        boot = wire.read_boot_id(boots[0], where="guest")
        url = f"{self._guest}{wire.base(boot)}evidence"
        evidence = Evidence.from_bytes(self._peer.get(url, limit=MAX_EVIDENCE_BYTES))
        found = collect(
            evidence, self._fetcher, services=self._services, roots=self._roots, now=now
        )
        for name, answer in found.missing.items():
            self._tell(f"collateral: {name} is missing: {answer}")
        return found.collateral


def from_file(path: Path) -> Collateral:
    """Collateral as one file (docs/spec/formats.md). Raises Unavailable or ParseError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"collateral: {path}: {error.strerror}") from None
    return Collateral.from_bytes(data)
