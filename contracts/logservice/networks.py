"""Network files in a log: each version once, and each one that the version before allows.

The first version is the file that the log's operator named. From it on, the log knows which file
may follow without asking anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from attestation.errors import Refused
from attestation.formats.digests import domain_digest
from attestation.formats.network_file import NetworkFile
from attestation.log.leaf import NETWORK, Leaf, document_leaf
from attestation.verify.network import check_dates, check_next
from contracts.logservice.store import Entry


class Log(Protocol):
    """The log's own leaves and documents."""

    def find(self, key: bytes) -> int | None: ...

    def leaf(self, index: int) -> bytes | None: ...

    def blob(self, digest: bytes) -> bytes | None: ...


class NetworkFiles:
    """Those of one network in `log`, beginning with `first`; None: this log accepts none."""

    def __init__(
        self, log: Log, first: NetworkFile | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._log, self._first, self._clock = log, first, clock

    def entry(self, data: bytes) -> Entry:
        """The entry of a file that is the next one, or the newest one again. Raises ParseError,
        NotAuthentic or Refused."""
        if self._first is None:
            text = (
                "this log accepts no network files, because it was started without --network-file"
            )
            raise Refused("log", "closed", text)
        file, newest = NetworkFile.from_bytes(data), self._newest(self._first)
        check_next(newest, file)
        check_dates(file, now=int(self._clock()))
        leaf = document_leaf(NETWORK, data)
        return Entry(_key(file.version), leaf.to_bytes(), blobs=(data,))

    def find(self, version: int) -> tuple[int, bytes] | None:
        """Index and bytes of a logged version."""
        index = self._log.find(_key(version))
        leaf = None if index is None else self._log.leaf(index)
        data = None if leaf is None else self._log.blob(Leaf.from_bytes(leaf).evidence_digest)
        return None if index is None or data is None else (index, data)

    def _newest(self, file: NetworkFile) -> NetworkFile:
        while (found := self.find(file.version + 1)) is not None:
            file = NetworkFile.from_bytes(found[1])
        return file


def _key(version: int) -> bytes:
    """Of the one leaf of a version."""
    return domain_digest("umay/log-network/v1", version.to_bytes(8))
