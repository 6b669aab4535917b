"""Reads the metadata of a GGUF file by name and type, and knows what nobody has read.

A key that changes what a model computes and is not understood must refuse the import: `finish`
does that for all keys under a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attestation.errors import ParseError

MAX_NUMBER = 2**32


class Fields:
    """The metadata; each method notes the key as read and raises ParseError naming it."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._read: set[str] = set()

    def integer(self, key: str, default: int | None = None) -> int:
        """From 0 to 2^32; of a key without default, at least 1."""
        value = self._take(key, default)
        least = 1 if default is None else 0
        if type(value) is not int or not least <= value < MAX_NUMBER:
            raise _wrong(key, f"a whole number from {least} to 2^32", value)
        return value

    def identifier(self, key: str) -> int | None:
        """A token's id, or None where the file names none."""
        return self.integer(key, 0) if key in self._metadata else None

    def number(self, key: str, default: float | None = None) -> float:
        """Above zero and finite."""
        value = self._take(key, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise _wrong(key, "a number above zero", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise _wrong(key, "a text", value)
        return value

    def texts(self, key: str) -> list[str]:
        value = self._take(key, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _wrong(key, "a list of texts", value)
        return value

    def integers(self, key: str) -> list[int]:
        value = self._take(key, None)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise _wrong(key, "a list of whole numbers", value)
        return value

    def flag(self, key: str) -> bool:
        """False where the file does not say."""
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise _wrong(key, "true or false", value)
        return value

    def has(self, key: str) -> bool:
        return key in self._metadata

    def finish(self, prefix: str) -> None:
        """Raises ParseError unless every key under `prefix` was read."""
        unread = sorted(
            key for key in self._metadata if key.startswith(prefix) and key not in self._read
        )
        if unread:
            raise ParseError(
                f"GGUF: {unread[0]}: expected only settings that this import understands, got this "
                "one; the model would compute something else without it"
            )

    def _take(self, key: str, default: object) -> Any:
        self._read.add(key)
        value = self._metadata.get(key, default)
        if value is None:
            raise ParseError(f"GGUF: {key}: expected a value, found none")
        return value


def _wrong(key: str, expected: str, value: object) -> ParseError:
    return ParseError(f"GGUF: {key}: expected {expected}, got {type(value).__name__}")
