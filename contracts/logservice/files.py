"""Files of an export: read whole, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError
from attestation.files import replace, unusable

MAX_FILE = 32 << 20
"""Bytes of one file of a log."""

Told = Callable[[str, bool], None]


@dataclass
class Files:
    """One directory; `tell` hears of each file (path, whether it was written)."""

    directory: Path
    tell: Told = lambda path, new: None
    mended: int = 0
    """How many files that lay there did not fit and were replaced."""

    def read(self, path: str) -> bytes | None:
        """None where no plain file of at most MAX_FILE bytes lies."""
        place = self.directory / path
        try:
            if not place.is_file() or place.stat().st_size > MAX_FILE:
                return None
            return place.read_bytes()
        except OSError as error:
            raise unusable(place, error) from None

    def keep(self, path: str, data: bytes) -> None:
        """Exactly these bytes, written only where others or none lie there."""
        found = self.read(path)
        if found == data:
            self.tell(path, False)
            return
        self.mended += found is not None
        self.write(path, data)

    def write(self, path: str, data: bytes) -> None:
        """Whole or not at all. Raises Unavailable where the disk is full, UsageError."""
        place = self.directory / path
        if ".." in place.relative_to(self.directory).parts:
            raise ParseError(f"export: {path} leads elsewhere")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(place, error) from None
        replace(place, data, mode=0o644)
        self.tell(path, True)
