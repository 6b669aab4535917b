"""What a client has seen of the chain, on disk, so that nobody shows it less a second time.

An endpoint could show an older state within the policy's age bound: an anchor before a log's last
entries, or a Registry before a revocation. The floors only rise. They are in one file of this user,
written whole under a lock, so that several processes may share it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, Refused, Unavailable, UsageError
from attestation.files import open_own, read_trusted, replace
from attestation.formats.address import canonical
from attestation.formats.json import object_of
from attestation.trust.anchor import Anchor
from attestation.trust.registry import RegistrySnapshot

MAX_FLOORS_BYTES = 4 << 20
"""512 revoked entries of a Registry are 40 KB."""

LAG_S = 60
"""Servers of one endpoint may differ by a few blocks, as long as none of them shows less."""

_STRINGS, _NUMBERS = ("network", "log", "registry"), ("seqno", "read_at", "size")


@dataclass(frozen=True)
class Floor:
    """Of one log and one Registry ("" for none): the highest block, its time (Unix seconds) and
    size, the manifests that were revoked, in hex, and whether the log's contract held proof of a
    fork."""

    network: str
    log: str
    registry: str
    seqno: int = 0
    read_at: int = 0
    size: int = 0
    revoked: frozenset[str] = frozenset()
    forked: bool = False

    @property
    def about(self) -> tuple[str, str, str]:
        return self.network, self.log, self.registry


@dataclass(frozen=True)
class Floors:
    """The floors in the file at `path`, whose directory exists."""

    path: Path

    def pass_over(self, anchor: Anchor) -> None:
        """`anchor` shows no less than was seen before; what it shows is kept.

        Raises Unavailable for a block before one that was read already, where it shows less or is
        more than LAG_S older; Refused("log", "shrank") and Refused("registry", "unrevoked") for
        less at a later block, Refused("log", "forked") where the proof of a fork is gone;
        UsageError where the file cannot be used.
        """
        found = _floor(anchor)
        with self._alone():
            kept = {floor.about: floor for floor in self._read()}
            before = kept.get(found.about, Floor(*found.about))
            self._check(before, found)
            seqno, read_at = max(before.seqno, found.seqno), max(before.read_at, found.read_at)
            risen = dataclasses.replace(found, seqno=seqno, read_at=read_at)
            if risen != before:
                kept[found.about] = risen
                self._write(kept.values())

    def _check(self, before: Floor, found: Floor) -> None:
        hint = f"; {self.path} says so: remove it only if this network was begun anew"
        if before.forked and not found.forked:
            text = f"contract {found.log} held proof of a fork when it was read before, and proofs "
            raise Refused("log", "forked", f"anchor: {text}stay; expected it, got none{hint}")
        gone = sorted(before.revoked - found.revoked)
        less = found.size < before.size or bool(gone)
        if found.seqno < before.seqno and (less or found.read_at < before.read_at - LAG_S):
            text = f"expected block {before.seqno}, which was read before, or a later one, got "
            text += f"{found.seqno}; ask again, or use another endpoint{hint}"
            raise Unavailable(f"chain: {text}", again=True)
        if found.size < before.size:
            text = f"expected at least the {before.size} entries that were anchored before, got "
            raise Refused("log", "shrank", f"anchor: {text}{found.size}{hint}")
        if gone:
            text = f"expected the entry {gone[0]} to be revoked, as it was before{hint}"
            raise Refused("registry", "unrevoked", f"Registry {found.registry}: {text}")

    def _read(self) -> list[Floor]:
        data = read_trusted(self.path, limit=MAX_FLOORS_BYTES)
        if data is None:
            return []
        try:
            value = object_of(json.loads(data), what=str(self.path))
            return [_parsed(item) for item in value["floors"]]
        except (ParseError, ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{self.path}: expected what this program keeps about networks, got another "
                "content; remove the file to begin anew"
            ) from None

    def _write(self, floors: Any) -> None:
        items = [
            {**vars(floor), "revoked": sorted(floor.revoked)}
            for floor in sorted(floors, key=lambda floor: floor.about)
        ]
        replace(self.path, json.dumps({"floors": items}, indent=1).encode() + b"\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of all threads and processes that use this file."""
        number = open_own(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)


def _floor(anchor: Anchor) -> Floor:
    address, revoked = "", frozenset[str]()
    if isinstance(registry := anchor.registry, RegistrySnapshot):
        address = canonical(registry.address)
        revoked = frozenset(e.manifest.hex() for e in registry.entries if e.revoked_at)
    return Floor(
        network=anchor.network,
        log=canonical(anchor.address),
        registry=address,
        seqno=anchor.seqno,
        read_at=anchor.read_at,
        size=anchor.size,
        revoked=revoked,
        forked=anchor.forked,
    )


def _parsed(item: dict[str, Any]) -> Floor:
    good = all(type(item[name]) is str for name in _STRINGS)
    good &= all(type(item[name]) is int and item[name] >= 0 for name in _NUMBERS)
    good &= type(item.get("forked", False)) is bool  # older versions did not keep it
    revoked = item["revoked"]
    if not good or not isinstance(revoked, list) or not all(type(e) is str for e in revoked):
        raise ValueError
    return Floor(**{**item, "revoked": frozenset(revoked)})
