"""Where a log's bytes are read: its own address, a mirror's, or a directory.

Nothing read here is believed: callers hash it and compare it with the chain. What a mirror holds
and nobody signed is the mirror's damage where it does not fit, and says nothing about the log.
A static export
holds the log's resources under their paths; `checkpoint` is a file there, so the checkpoints
of a size lie at `checkpoints/<size>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from attestation.errors import (
    Incomplete,
    LogError,
    NotAuthentic,
    NotThere,
    ParseError,
    UmayError,
    Unavailable,
)
from attestation.formats.digests import sha256
from attestation.log.merkle import HASH_BYTES
from attestation.log.tiles import WIDTH, TilePath, decode_bundle
from client_sdk.transport import MAX_ANSWER, Transport, check_url


class DamagedMirror(Incomplete):
    """A mirror's bytes do not fit: the log was not seen, so nothing is said about it."""

    code = "damaged-mirror"


class Source(Protocol):
    """Bytes by path below the log's address. Raises NotThere, Unavailable.

    A `mirror` may lack what the log itself must have.
    """

    @property
    def name(self) -> str: ...

    @property
    def mirror(self) -> bool: ...

    def get(self, path: str) -> bytes: ...


class HttpSource:
    """A log or a mirror of one at a URL."""

    def __init__(self, url: str, transport: Transport, *, mirror: bool = False) -> None:
        self.name, self._transport, self.mirror = url.rstrip("/"), transport, mirror

    def get(self, path: str) -> bytes:
        return self._transport.get(f"{self.name}/{path}")


class DirectorySource:
    """A static export. What is no plain file of at most MAX_ANSWER bytes is not there."""

    mirror = True

    def __init__(self, directory: Path) -> None:
        self.name, self._directory = str(directory), directory

    def get(self, path: str) -> bytes:
        if "?" in path or ".." in path.split("/"):
            raise Unavailable(f"{self.name}: a directory cannot answer {path.partition('?')[0]}")
        try:
            if not (self._directory / path).is_file():  # a pipe would never end
                raise NotThere(f"{self.name}/{path}: there is no such file")
            with (self._directory / path).open("rb") as file:
                data = file.read(MAX_ANSWER + 1)
        except OSError as error:
            raise Unavailable(f"{self.name}/{path}: {error.strerror}") from None
        if len(data) > MAX_ANSWER:
            raise Unavailable(f"{self.name}/{path}: expected at most {MAX_ANSWER} bytes, got more")
        return data


def open_source(where: str, transport: Transport, *, name: str = "") -> Source:
    """A URL, or else a directory. Raises UsageError, which begins with `name`, for a URL that
    is none or may not be spoken with."""
    if "://" in where:
        return HttpSource(check_url(where, name=name), transport, mirror=True)
    return DirectorySource(Path(where).expanduser())


@contextmanager
def unsigned(source: Source) -> Iterator[None]:
    """Around whatever reads and compares bytes that the log's key did not sign. What contradicts
    there is the log's own doing where the log was read, and a mirror's damage where one was."""
    try:
        yield
    except (Unavailable, Incomplete):
        raise
    except UmayError as error:
        if not source.mirror:
            raise
        raise DamagedMirror(f"the mirror {source.name} is damaged: {error}") from None


def checkpoint(source: Source, size: int) -> bytes:
    """The signed note of that size, unverified: of a log, or of a static export."""
    try:
        return source.get(f"checkpoint/{size}")
    except Unavailable:
        return source.get(f"checkpoints/{size}")


def bundle(source: Source, path: TilePath) -> tuple[bytes, ...]:
    """The entries at `path`, where need be the first of its full bundle. Raises LogError
    where there are not as many as its width says."""
    with unsigned(source):
        try:
            found, name = decode_bundle(source.get(str(path))), str(path)
        except Unavailable:
            found, name = decode_bundle(_full(source, path))[: path.width], str(_whole(path))
        if len(found) != path.width:
            raise LogError(f"{name}: expected {path.width} entries, got {len(found)}")
    return found


def tile(source: Source, path: TilePath) -> bytes:
    """The hashes at `path` (32 bytes each), where need be the first of its full tile."""
    wanted = path.width * HASH_BYTES
    try:
        data = source.get(str(path))
    except Unavailable:
        data = _full(source, path)[:wanted]
    with unsigned(source):
        if len(data) != wanted:
            raise ParseError(f"{path}: expected {wanted} bytes, got {len(data)}")
    return data


def blob(source: Source, digest: bytes) -> bytes:
    """What has this SHA-256 (32 bytes). Raises Unavailable; NotAuthentic for other bytes."""
    path = f"evidence/sha256/{digest.hex()}"
    data = source.get(path)
    with unsigned(source):
        if sha256(data) != digest:
            text = f"{source.name}/{path}: expected bytes with this SHA-256, got other bytes"
            raise NotAuthentic("log", "other-bytes", text)
    return data


def _whole(path: TilePath) -> TilePath:
    return TilePath(path.level, path.index)


def _full(source: Source, path: TilePath) -> bytes:
    if path.width == WIDTH:
        raise Unavailable(f"{source.name}/{path}: not found")
    return source.get(str(_whole(path)))
