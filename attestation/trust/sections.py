"""Tables of a policy file, read key by key.

A Section hands out each of its keys exactly once. A key that is absent, unknown or of a wrong form
raises ParseError, which says where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from attestation.errors import ParseError
from attestation.formats import toml
from attestation.formats.address import canonical
from attestation.formats.origin import check_log_name

ANY, NONE = "any", "none"
T = TypeVar("T")
_ADVISORY = re.compile(r"[A-Z]+-S[AB]-[0-9]+")
_INSTANCE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{128}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?")
_VERSION = re.compile(r"[0-9]{1,8}(\.[0-9]{1,8}){0,7}")


class Section:
    """A table whose every key must be taken exactly once."""

    def __init__(self, name: str, value: object, known: str | None = None) -> None:
        """`known` has the keys there are, None where the writer of the file chooses them."""
        if not isinstance(value, dict):
            raise ParseError(f"policy: [{name}]: expected a table, got another value")
        self.name, self.values = name, dict(value)
        if known is not None:
            toml.check_keys(value, known.split(), where=self._place())

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise ParseError(self._absent(key))
        return self.values.pop(key)

    def text(self, key: str, *allowed: str) -> str:
        """One of `allowed`, or any text that can be shown to people as it is."""
        value = self.take(key)
        if not _is_name(value) or (allowed and value not in allowed):
            what = " or ".join(allowed) or "a text of printable characters"
            raise ParseError(f"policy: [{self.name}] {key}: expected {what}, got {shown(value)}")
        return value

    def number(self, key: str) -> int:
        value = self.take(key)
        if type(value) is not int or not 0 <= value < 2**53:
            raise ParseError(
                f"policy: [{self.name}] {key}: expected a whole number from 0, got {shown(value)}"
            )
        return value

    def digest(self, key: str) -> bytes:
        return hex32(f"[{self.name}] {key}", self.take(key))

    def words(self, key: str, allowed: frozenset[str] | None = None) -> frozenset[str]:
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ParseError(
                f"policy: [{self.name}] {key}: expected a list of strings, got another value"
            )
        unknown = set(value) - allowed if allowed is not None else set()
        if unknown:
            word = min(unknown)
            text = f"{word} is unknown; {toml.meant(word, allowed or ())}"
            raise ParseError(f"policy: [{self.name}] {key}: {text}")
        return frozenset(value)

    def digests(self, key: str) -> frozenset[bytes]:
        return frozenset(hex32(f"[{self.name}] {key}", item) for item in self.words(key))

    def names(self) -> list[str]:
        """The keys of a table whose writer chooses them."""
        for name in self.values:
            if not _is_name(name):
                raise ParseError(
                    f"{self._place()}: expected names of printable characters, got {shown(name)}"
                )
        return sorted(self.values)

    def domain(self, key: str) -> str:
        """The name of an operator, of which there is one spelling: names are counted."""
        return self._of_form(key, _DOMAIN, "lower-case letters, digits, dots and dashes")

    def version(self, key: str) -> str:
        return self._of_form(key, _VERSION, "a version such as 570.86.15")

    def _of_form(self, key: str, form: re.Pattern[str], expected: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not form.fullmatch(value):
            got = shown(value)
            raise ParseError(f"policy: [{self.name}] {key}: expected {expected}, got {got}")
        return value

    def account(self, key: str) -> str:
        """The one form of an address in any spelling."""
        spelling = self.text(key)
        try:
            return canonical(spelling)
        except ParseError as error:
            raise ParseError(f"policy: [{self.name}] {key}: {error}") from None

    def origin(self, key: str) -> str:
        origin = self.text(key)
        try:
            check_log_name(origin)
        except ParseError as error:
            raise ParseError(f"policy: [{self.name}] {key}: {error}") from None
        return origin

    def advisories(self, key: str) -> frozenset[str]:
        """In the vendors' capitals. What no vendor names so would refuse nothing, unnoticed."""
        found = frozenset(item.upper() for item in self.words(key))
        self._all(key, found, _ADVISORY, "advisory ids such as INTEL-SA-00837")
        return found

    def instances(self, key: str) -> frozenset[str]:
        """PPIDs (16 bytes) and CHIP_IDs (64) in hex of either case."""
        found = frozenset(item.lower() for item in self.words(key))
        self._all(key, found, _INSTANCE, "PPIDs of 32 or CHIP_IDs of 128 hex digits")
        return found

    def _all(self, key: str, items: frozenset[str], form: re.Pattern[str], expected: str) -> None:
        for item in sorted(items):
            if not form.fullmatch(item):
                raise ParseError(f"policy: [{self.name}] {key}: expected {expected}, got {item!r}")

    def unless_any(self, key: str, read: Callable[[str], T]) -> T | None:
        """None where the file says "any", else what `read` takes."""
        return self.unless(key, ANY, read)

    def unless(self, key: str, word: str, read: Callable[[str], T]) -> T | None:
        """None where the file says `word`, else what `read` takes."""
        if self.values.get(key) == word:
            del self.values[key]
            return None
        return read(key)

    def is_none(self, key: str) -> bool:
        """Whether the table demands nothing: `key` says "none", and stands alone."""
        if key not in self.values:
            self.take(key)
        if self.values[key] != NONE:
            return False
        if others := sorted(self.values.keys() - {key}):
            raise ParseError(
                f'{self._place()} {others[0]}: expected no other key beside {key} = "{NONE}"'
            )
        return True

    def finish(self) -> None:
        toml.check_keys(self.values, (), where=self._place())

    def _absent(self, key: str) -> str:
        if self.name or key == "version":
            return (
                f"{self._place()} {key}: expected a value, but the key is absent; no key has a "
                "default: docs/spec/policy.md says which values it takes"
            )
        return (
            f"policy: [{key}]: expected this table, but it is absent; `umay client policy make` "
            "puts a network's tables and a file of rules together"
        )

    def _place(self) -> str:
        return f"policy: [{self.name}]" if self.name else "policy:"


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and value.isprintable()


def shown(value: object) -> str:
    """A value of the file in an error, which may be as long as the file."""
    return repr(value)[:80]


def hex32(where: str, value: object) -> bytes:
    """32 bytes of 64 lower-case hex digits. Raises ParseError, which names `where`."""
    if not isinstance(value, str) or not _HEX32.fullmatch(value):
        raise ParseError(f"policy: {where}: expected 64 lower-case hex digits, got another value")
    return bytes.fromhex(value)
