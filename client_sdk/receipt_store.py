"""Receipts that a user keeps: one file for each, in a directory of their own.

Nothing is kept unless the user names such a directory. A file holds the receipt, its salts, the
request and the answer, because only with their very bytes can a holder show later what was asked
and answered. So it is as secret as the exchange itself: mode 0600, in a directory of mode 0700.
"""

from __future__ import annotations

import re
from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.files import create, home, own_directory, read_secret, unusable
from client_sdk.disclosure import MAX_DISCLOSURE_BYTES, DisclosedReceipt

SUFFIX = ".receipt"
_PREFIX = re.compile("[0-9a-f]{4,32}")


class ReceiptStore:
    """The receipts in one directory, by the first digits of their ids."""

    def __init__(self, directory: Path) -> None:
        self._directory = home(directory)

    def prepare(self) -> None:
        """Makes the directory where there is none. Raises UsageError where it is not this user's
        own, Unavailable as for a full disk."""
        own_directory(self._directory)

    def add(self, kept: DisclosedReceipt) -> str:
        """Its id. The same receipt again changes nothing. Raises what `prepare` raises, and
        UsageError or ParseError where something else has the place of this receipt."""
        self.prepare()
        path = self._file(kept.id)
        if not create(path, kept.to_bytes()) and read_disclosed(path) != kept:
            raise UsageError(
                f"{path}: expected nothing or this very receipt, got another content; move it away"
            )
        return kept.id

    def ids(self) -> list[str]:
        """Of all that is kept, the oldest file first. Raises UsageError where nothing was kept
        there yet."""
        try:
            found = [path for path in self._directory.iterdir() if path.suffix == SUFFIX]
            dated = sorted((path.lstat().st_mtime_ns, path.stem) for path in found)
        except OSError as error:
            raise unusable(self._directory, error) from None
        return [name for _, name in dated]

    def get(self, begin: str) -> DisclosedReceipt:
        """The receipt whose id begins so (4 hex digits or more).

        Raises UsageError where there is none or more than one, ParseError for a damaged file.
        """
        if not _PREFIX.fullmatch(begin):
            raise UsageError(
                "receipt: expected the path of a file, or 4 to 32 lower-case hex digits with which "
                f"the id of a kept receipt begins, got {begin[:80]!r}"
            )
        found = [name for name in self.ids() if name.startswith(begin)]
        if len(found) != 1:
            raise UsageError(
                f"{self._directory}: expected one receipt whose id begins with {begin}, "
                f"got {len(found)}"
            )
        path = self._file(found[0])
        kept = read_disclosed(path)
        if kept.id != found[0]:
            raise ParseError(f"{path}: expected the receipt {found[0]}, got {kept.id}")
        return kept

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}{SUFFIX}"


def read_disclosed(path: Path) -> DisclosedReceipt:
    """A kept receipt. Raises UsageError where others can read it, ParseError for another file."""
    data = read_secret(path, limit=MAX_DISCLOSURE_BYTES)
    if data is None:
        raise UsageError(f"{path}: expected a receipt, there is no such file")
    try:
        return DisclosedReceipt.from_bytes(data)
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from None
