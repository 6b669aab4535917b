"""The files of an export. A file is written as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError
from attestation.files import replace, unusable

MAX_FILE = 32 << 20
"""Most bytes of one file of a log."""

FileListener = Callable[[str, bool], None]
"""Called for each file with its path and whether it was written."""


@dataclass
class ExportFiles:
    """The files in one directory; `tell` is called for each."""

    directory: Path
    tell: FileListener = lambda path, new: None
    mended: int = 0
    """Number of existing files that were wrong and were replaced."""

    def read(self, path: str) -> bytes | None:
        """The bytes; None unless there is a plain file of at most MAX_FILE bytes."""
        place = self.directory / path
        try:
            if not place.is_file() or place.stat().st_size > MAX_FILE:
                return None
            return place.read_bytes()
        except OSError as error:
            raise unusable(place, error) from None

    def keep(self, path: str, data: bytes) -> None:
        """Make the file have exactly these bytes; it is written only if it differs or is
        missing."""
        found = self.read(path)
        if found == data:
            self.tell(path, False)
            return
        self.mended += found is not None
        self.write(path, data)

    def write(self, path: str, data: bytes) -> None:
        """Write the whole file or nothing. Raises Unavailable if the disk is full, UsageError."""
        place = self.directory / path
        if ".." in place.relative_to(self.directory).parts:
            raise ParseError(f"export: expected a path inside {self.directory}, got {path}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(place, error) from None
        replace(place, data, mode=0o644)
        self.tell(path, True)
