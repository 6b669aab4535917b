"""Follows the network file that a client keeps, version by version (docs/spec/network.md).

What comes from a log or a mirror is believed only where the version before it and the anchored log
say so.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import (
    NotThere,
    ParseError,
    Refused,
    UmayError,
    Unavailable,
    VerificationError,
)
from attestation.files import open_own, replace
from attestation.formats.network_file import MAX_FILE_BYTES, STEP, NetworkFile
from attestation.trust.policy import Policy
from attestation.verify.network import check_dates, check_logged, check_next, not_logged
from attestation.wire import MAX_PROOF_BYTES
from client_sdk.chain_reader import ChainReader
from client_sdk.network_places import parsed, read_kept
from client_sdk.transport import Transport, log_url

MAX_STEPS = 64
"""Versions that one update follows: more than a year of weekly ones."""


@dataclass(frozen=True)
class Updater:
    """Follows the network file at `path` through the log of the policy and the file's mirrors."""

    path: Path
    policy: Policy
    reader: ChainReader
    transport: Transport
    clock: Callable[[], float] = time.time

    def update(self) -> tuple[NetworkFile, int]:
        """The newest file, which is kept then, and how many versions were followed.

        One update of a path at a time, by whichever process. Every step is kept before the next is
        fetched. Raises Refused or NotAuthentic("network", …) for the first that may not follow,
        Unavailable where nobody answers.
        """
        with _alone(self.path):
            file, steps = read_kept(self.path, self.policy), 0
            while steps < MAX_STEPS and (found := self._next(file)) is not None:
                file, steps = found, steps + 1
                replace(self.path, file.to_bytes())
        check_dates(file, now=int(self.clock()))
        return file, steps

    def _next(self, kept: NetworkFile) -> NetworkFile | None:
        """The next version; None where a source says that there is none. One that is away, or gives
        what may not follow, does not stop another; if none has it, that error is raised."""
        errors: list[UmayError] = []
        for source in self._sources(kept):
            try:
                return self._from(source, kept)
            except (Unavailable, ParseError, VerificationError) as error:
                errors.append(error)
        told = [error for error in errors if not isinstance(error, Unavailable)]
        if told or not any(isinstance(error, NotThere) for error in errors):
            raise (told or errors)[0]
        return None

    def _from(self, source: str, kept: NetworkFile) -> NetworkFile:
        where = f"{source}/network/{kept.version + 1}"
        file = parsed(self.transport.get(where, limit=MAX_FILE_BYTES), where)
        check_next(kept, file)
        if file.version == kept.version:
            text = (
                f"{where}: expected version {kept.version + 1}, got {file.version}, which is kept"
            )
            raise Refused(STEP, "rollback", text)
        anchor = self.reader.anchor()
        try:
            proof = self.transport.get(f"{where}?size={anchor.size}", limit=MAX_PROOF_BYTES)
        except NotThere:
            raise not_logged(
                file, f"{source} has none to the anchored size {anchor.size}"
            ) from None
        now = int(self.clock())
        check_logged(file, proof, anchor=anchor, policy=self.policy, now=now)
        return file

    def _sources(self, kept: NetworkFile) -> list[str]:
        return list(dict.fromkeys((log_url(self.policy.log_origin), *kept.mirrors)))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of all processes that update `path`; the lock stays beside it."""
    number = open_own(path.with_name(f"{path.name}.lock"), os.O_RDWR)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)
