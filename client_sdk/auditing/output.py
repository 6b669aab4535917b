"""A file that a command writes at its end, opened at its beginning: work of hours is not lost
to a path that cannot be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attestation.files import unusable

FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def output(path: Path | None, *, private: bool = False) -> Iterator[Callable[[bytes], None]]:
    """What writes the whole file; nothing where `path` is None.

    Where it is never called, the file is as it was before. A `private` one can be read by its
    owner alone, also where it was there before. Raises UsageError for a path that cannot be
    written, Unavailable as for a full disk.
    """
    if path is None:
        yield lambda data: None
        return
    new = not path.exists()
    try:
        number = os.open(path, FLAGS, 0o600 if private else 0o644)
    except OSError as error:
        raise unusable(path, error) from None
    written = False

    def write(data: bytes) -> None:
        nonlocal written
        written = True
        try:
            with os.fdopen(number, "wb", closefd=False) as file:
                if stat.S_ISREG(os.fstat(number).st_mode):
                    if private:
                        os.fchmod(number, 0o600)
                    file.truncate(0)
                file.write(data)
        except OSError as error:
            raise unusable(path, error) from None

    try:
        yield write
    finally:
        os.close(number)
        if new and not written:
            with suppress(OSError):
                path.unlink()
