"""The files of a model's directory, each opened once and hashed while it is read.

The directory holds plain files only, of the kinds in `formats.model`: a link, a folder, a pipe, a
pickle or a Python file refuses the whole model. Who only needs the manifest keeps 16 MiB in memory,
however large the model is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.files import unusable
from attestation.formats.model import WEIGHTS, ModelFile, check_name

CHUNK = 16 * 1024 * 1024

MAX_FILES = 1024
"""Large models ship about 200 shards."""

MAX_SMALL_FILE = 64 * 1024 * 1024
"""Bytes of anything but weights: the largest tokenizers are about 35 MB."""

MAX_MODEL = 4 * 1024**4
"""Bytes of all files together; a host that names a larger folder is mistaken."""


@dataclass(frozen=True)
class OpenFile:
    """One plain file, which is open until the next one is asked for; `size` in bytes."""

    name: str
    size: int
    handle: int

    def read(self, keep: bytearray | None = None) -> ModelFile:
        """Reads the file once, into `keep` (of `size` bytes) if it is given. Raises ParseError if
        the file has another size by then."""
        view = memoryview(bytearray(min(CHUNK, self.size)) if keep is None else keep)
        state = hashlib.sha256()
        done = 0
        while done < self.size:
            start = 0 if keep is None else done
            place = view[start : start + min(CHUNK, self.size - done)]
            count = self._next(place)
            if not count:
                raise ParseError(
                    f"model: {self.name!r}: expected {self.size} bytes, got {done}: it shrank "
                    "while it was read"
                )
            state.update(place[:count])
            done += count
        if self._next(memoryview(bytearray(1))):
            raise ParseError(
                f"model: {self.name!r}: expected {self.size} bytes, got more: it grew while it was "
                "read"
            )
        return ModelFile(self.name, self.size, state.digest())

    def _next(self, place: memoryview) -> int:
        try:
            return os.readv(self.handle, [place])
        except OSError as error:
            raise unusable(self.name, error) from None


def read_manifest(directory: Path | str) -> tuple[ModelFile, ...]:
    """The model's manifest, in the order of its names. Raises what `open_files` raises."""
    return tuple(file.read() for file in open_files(directory))


def open_files(directory: Path | str, *, limit: int = MAX_MODEL) -> Iterator[OpenFile]:
    """Every file of `directory`, in the order of its names; at most `limit` bytes together.

    Raises UsageError when the directory cannot be read, and ParseError when it holds anything but
    plain data files.
    """
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            f"model: expected a readable directory, got {directory}: {reason}"
        ) from None
    try:
        for name in _names(folder):
            file = _open(folder, name, limit)
            limit -= file.size
            try:
                yield file
            finally:
                os.close(file.handle)
    finally:
        os.close(folder)


def _names(folder: int) -> list[str]:
    names = sorted(os.listdir(folder), key=os.fsencode)
    if not 0 < len(names) <= MAX_FILES:
        raise ParseError(f"model: expected 1 to {MAX_FILES} files, got {len(names)}")
    for name in names:
        check_name(name)
    return names


def _open(folder: int, name: str, limit: int) -> OpenFile:
    # O_NONBLOCK: a named pipe must be refused, not waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        reason = error.strerror
        raise ParseError(f"model: expected a plain file, got {name!r}: {reason}") from None
    try:
        return OpenFile(name, _plain_size(handle, name, limit), handle)
    except BaseException:
        os.close(handle)
        raise


def _plain_size(handle: int, name: str, limit: int) -> int:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise ParseError(f"model: expected a plain file, got {name!r} of another kind")
    most = limit if name.endswith(WEIGHTS) else min(limit, MAX_SMALL_FILE)
    if status.st_size > most:
        raise ParseError(f"model: {name!r}: expected at most {most} bytes, got {status.st_size}")
    return status.st_size
