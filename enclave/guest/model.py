"""The model's files, read once.

What is hashed is what is loaded: every file is read exactly once into guest memory,
hashed while it is read, and nothing of the model is opened again. The directory holds
plain files only, of kinds that carry data and no code: a link, a folder, a pickle or a
Python file refuses the whole model. Names are hashed with their sizes, so two models
with equal weights and different templates differ.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest

MODEL_DOMAIN = "umay/model/v1"

DATA_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt")
"""Formats that hold data only. Pickles (.bin, .pt, .ckpt) and code (.py) run when loaded."""

MAX_FILES = 1024
"""Large models ship about 200 shards."""

MAX_SMALL_FILE = 64 * 1024 * 1024
"""Bytes of anything but weights: the largest tokenizers are about 35 MB."""

MAX_MODEL = 4 * 1024**4
"""Bytes of all files together; a host that names a larger folder is mistaken."""

CHUNK = 16 * 1024 * 1024


@dataclass(frozen=True)
class ModelFile:
    """One line of the model's manifest: size in bytes, SHA-256 of the content."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class ModelFiles:
    """A model in memory. `files` are the very bytes that `digest` is over."""

    files: dict[str, bytearray]
    manifest: tuple[ModelFile, ...]
    digest: bytes

    def __repr__(self) -> str:
        return f"ModelFiles({len(self.files)} files, digest={self.digest.hex()})"


def model_digest(manifest: Iterable[ModelFile]) -> bytes:
    """H("umay/model/v1" ‖ 0 ‖ CBOR [[name, size, sha256], …]), by UTF-8 name (DESIGN §4)."""
    lines = sorted(manifest, key=lambda line: line.name.encode())
    table = [[line.name, line.size, line.sha256] for line in lines]
    return domain_digest(MODEL_DOMAIN, cbor.encode(table))


def read_model(directory: Path | str, *, limit: int = MAX_MODEL) -> ModelFiles:
    """Reads every file of `directory` once; at most `limit` bytes together.

    Raises UsageError when the directory cannot be read and ParseError when it holds
    anything but plain data files.
    """
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            f"model: expected a readable directory, got {directory}: {reason}"
        ) from None
    try:
        return _read_folder(folder, limit)
    finally:
        os.close(folder)


def _read_folder(folder: int, limit: int) -> ModelFiles:
    names = sorted(os.listdir(folder), key=os.fsencode)
    if not 0 < len(names) <= MAX_FILES:
        raise ParseError(f"model: expected 1 to {MAX_FILES} files, got {len(names)}")
    files: dict[str, bytearray] = {}
    manifest = []
    for name in names:
        data, digest = _read_file(folder, name, limit)
        limit -= len(data)
        files[name] = data
        manifest.append(ModelFile(name, len(data), digest))
    return ModelFiles(files, tuple(manifest), model_digest(manifest))


def _check_name(name: str) -> None:
    if name.startswith(".") or not name.endswith(DATA_SUFFIXES) or not name.isprintable():
        kinds = ", ".join(DATA_SUFFIXES)
        raise ParseError(f"model: expected only data files ({kinds}), got {name!r}")


def _read_file(folder: int, name: str, limit: int) -> tuple[bytearray, bytes]:
    """(content, SHA-256) of one plain file, from one pass over it."""
    _check_name(name)
    most = limit if name.endswith(".safetensors") else min(limit, MAX_SMALL_FILE)
    # O_NONBLOCK: a named pipe must be refused, not waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        reason = error.strerror
        raise ParseError(f"model: expected a plain file, got {name!r}: {reason}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ParseError(f"model: expected a plain file, got {name!r} of another kind")
        if status.st_size > most:
            raise ParseError(
                f"model: {name!r}: expected at most {most} bytes, got {status.st_size}"
            )
        return _read_hashing(handle, name, status.st_size)
    finally:
        os.close(handle)


def _read_hashing(handle: int, name: str, size: int) -> tuple[bytearray, bytes]:
    data = bytearray(size)
    view = memoryview(data)
    state = hashlib.sha256()
    done = 0
    while done < size:
        count = os.readv(handle, [view[done : done + CHUNK]])
        if not count:
            raise ParseError(f"model: {name!r}: expected {size} bytes, got {done}")
        state.update(view[done : done + count])
        done += count
    if os.read(handle, 1):
        raise ParseError(f"model: {name!r}: expected {size} bytes, got more: it grew while read")
    return data, state.digest()
