"""A log of releases and two machines on a real server, its export, and damage to one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation.formats.digests import sha256
from attestation.log.submission import ArchiveRecord, Submission
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import Policy
from attestation.verify.verifier import Presented
from contracts import artefact
from contracts.chain import AccountState
from contracts.codec import LogState
from contracts.logservice.admission import entry_of
from contracts.logservice.export import Export
from contracts.logservice.store import Entry
from tests.helpers.log_served import KEY, serving
from tests.helpers.world import NOW, World

CONTRACT = "0:" + "ab" * 32
RELEASES = [b"release %d" % number for number in range(298)]
PUBLIC = KEY.public_key().public_bytes_raw()
SIZE, FIRST = 300, 298
"""Entries, and the index of the first machine."""


@dataclass
class Place:
    """The log's address, its export (untouched), and what its machines presented."""

    url: str
    export: Path
    world: World
    presented: list[Presented]
    policy: Policy
    state: LogState

    def account(self, address: str) -> AccountState:
        """The chain."""
        code = artefact.load("attestation_log").code_boc
        return AccountState(address, code, self.state.to_cell().to_boc(), 1, "active", NOW + 10, 7)

    def block(self, seqno: int) -> BlockRef:
        return self.world.beacon

    def head(self) -> BlockRef:
        raise NotImplementedError

    def copy(self, to: Path) -> Path:
        """Of links: whoever changes a file there replaces it."""
        return shutil.copytree(self.export, to, copy_function=os.link)


def export(url: str, directory: Path, get: Callable[[str], bytes]) -> tuple[int, list[str]]:
    """How many files were mended, and which are new."""
    new: list[str] = []
    written = Export(directory, get, lambda path, fresh: new.append(path) if fresh else None)
    written.run(origin=url.partition("://")[2], log_key=PUBLIC, sizes=[260])
    return written.files.mended, new


@contextmanager
def planted(world: World, directory: Path) -> Iterator[Place]:
    """300 entries, of which the last two are machines."""
    import requests

    other = dataclasses.replace(world.bundle, boot_id=b"\x09" * 16, receipt_key=b"\x09" * 32)
    other = dataclasses.replace(other, key_configs=(b"\x02" * 41,))
    presented = [world.presented(), world.presented(world.prove(other))]
    machines = [_machine(world, one) for one in presented]
    batches = (RELEASES[:260], [*RELEASES[260:], *machines])
    with serving(directory / "store", batches) as url:

        def get(path: str) -> bytes:
            answer = requests.get(f"{url}/{path}", timeout=600)
            answer.raise_for_status()
            return answer.content

        (directory / "export").mkdir()
        export(url, directory / "export", get)
        note = (directory / "export/checkpoint").read_bytes()
        origin = url.partition("://")[2]
        policy = dataclasses.replace(
            world.policy,
            log_contract=CONTRACT,
            log_code_hash=artefact.load("attestation_log").code_hash,
            log_origin=origin,
            log_key=PUBLIC,
        )
        yield Place(url, directory / "export", world, presented, policy, _state(note, origin))


def _machine(world: World, presented: Presented) -> Entry:
    submission = Submission(
        kind=1,
        evidence=presented.evidence,
        engine_config=presented.engine_config,
        price_table=presented.price_table,
        host_config=presented.host_config,
        collateral=presented.collateral.to_bytes(),
        release=0,
    )
    leaf = dataclasses.replace(world.leaf(presented), release=0)
    return entry_of(submission, leaf, presented.collateral)


def _state(note: bytes, origin: str) -> LogState:
    from attestation.log import checkpoint as checkpoints

    head = checkpoints.verify(note, origin=origin, log_key=PUBLIC)
    genesis = LogState.genesis(origin=origin, log_key=PUBLIC, size=head.size, root=head.root)
    return dataclasses.replace(genesis, time=NOW)


# Damage to an export: each changes one file


def replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def short(path: str, bytes_less: int) -> Callable[[Place, Path], str]:
    def damage(_: Place, export: Path) -> str:
        data = (export / path).read_bytes()
        replace(export / path, data[:-bytes_less])
        return path

    return damage


def put(path: str, data: bytes) -> Callable[[Place, Path], str]:
    def damage(_: Place, export: Path) -> str:
        replace(export / path, data)
        return path

    return damage


def swapped(path: str, other: str) -> Callable[[Place, Path], str]:
    """Another file of the same export in its place."""

    def damage(_: Place, export: Path) -> str:
        replace(export / path, (export / other).read_bytes())
        return path

    return damage


def flipped(path: str) -> Callable[[Place, Path], str]:
    def damage(_: Place, export: Path) -> str:
        data = bytearray((export / path).read_bytes())
        data[len(data) // 2] ^= 1
        replace(export / path, bytes(data))
        return path

    return damage


def blob(how: Callable[[bytes], bytes]) -> Callable[[Place, Path], str]:
    """The first machine's evidence."""

    def damage(place: Place, export: Path) -> str:
        path = f"evidence/sha256/{sha256(place.presented[0].evidence).hex()}"
        replace(export / path, how((export / path).read_bytes()))
        return path

    return damage


def record(**changes: bytes | int) -> Callable[[Place, Path], str]:
    def damage(_: Place, export: Path) -> str:
        path = f"submission/{FIRST}"
        kept = ArchiveRecord.from_bytes((export / path).read_bytes())
        changed = dataclasses.replace(kept, **changes)  # type: ignore[arg-type]
        replace(export / path, changed.to_bytes())
        return path

    return damage


DAMAGE: dict[str, Callable[[Place, Path], str]] = {
    "a short full tile": short("tile/0/000", 32),
    "a tile that ends inside a hash": short("tile/0/000", 7),
    "a short partial tile": short("tile/0/001.p/44", 32),
    "an empty tile": put("tile/0/000", b""),
    "a tile of another level": swapped("tile/0/001.p/44", "tile/1/000.p/1"),
    "a tile with a bit changed": flipped("tile/0/000"),
    "an upper tile with a bit changed": flipped("tile/1/000.p/1"),
    "an older size's tile with a bit changed": flipped("tile/0/001.p/4"),
    "a tile longer by a hash": put("tile/1/000.p/1", bytes(64)),
    "a truncated bundle": short("tile/entries/000", 100),
    "a bundle with an entry less": swapped("tile/entries/001.p/44", "tile/entries/001.p/4"),
    "an empty bundle": put("tile/entries/001.p/44", b""),
    "a bundle with a bit changed": flipped("tile/entries/000"),
    "a swapped submission": swapped(f"submission/{FIRST}", f"submission/{FIRST + 1}"),
    "an empty submission": put(f"submission/{FIRST}", b""),
    "a submission that is none": put(f"submission/{FIRST}", b"<html>"),
    "a submission of another index": record(index=7),
    "a submission with another engine config": record(engine_config=sha256(RELEASES[0])),
    "a submission that names what nobody has": record(price_table=bytes(32)),
    "a submission with other collateral": record(collateral=sha256(RELEASES[0])),
    "short evidence": blob(lambda data: data[:-1]),
    "empty evidence": blob(lambda _: b""),
    "evidence with a bit changed": blob(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "a damaged checkpoint": flipped(f"checkpoints/{SIZE}"),
    "an empty checkpoint": put(f"checkpoints/{SIZE}", b""),
    "a checkpoint of another size": swapped(f"checkpoints/{SIZE}", "checkpoints/260"),
}
