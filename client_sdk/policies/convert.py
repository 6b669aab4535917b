"""Policies of version 1, written as version 2.

The text stays as it is, with its comments; the version's number changes, and the tables that
version 2 adds are written at the end. Each says "none", which is what version 1 demanded.
"""

from __future__ import annotations

import re

from attestation.errors import ParseError, UsageError
from attestation.formats import toml
from attestation.trust.policy import Policy
from attestation.trust.policy_file import MAX_POLICY_BYTES
from attestation.trust.sections import NONE

ADDED = {
    "registry": "contract",
    "witnesses": "required",
    "custody": "required",
    "market": "contract",
}
"""The tables of version 2 that version 1 lacked, with the key that says "none"."""

_VERSION = re.compile(rb"^([ \t]*version[ \t]*=[ \t]*)1(?=[ \t]*(?:#|\r?$))", re.MULTILINE)


def convert(old: bytes) -> bytes:
    """The policy file as version 2. Raises UsageError for a file that is no policy of version 1."""
    _check_first(old)
    new, found = _VERSION.subn(rb"\g<1>2", old, count=1)
    tables = "".join(f'\n[{name}]\n{key} = "{NONE}"\n' for name, key in ADDED.items())
    text = "\n# Version 1 could not demand any of these.\n" + tables
    new = new.rstrip(b"\n") + b"\n" + text.encode()
    try:
        same = found == 1 and _document(new) == _with_added(_document(old))
        Policy.from_toml(new)
    except ParseError as error:
        raise UsageError(str(error)) from None
    if not same:
        raise UsageError("policy: expected the line `version = 1`, got another spelling of it")
    return new


def _check_first(old: bytes) -> None:
    try:
        version = _document(old).get("version")
    except ParseError as error:
        raise UsageError(str(error)) from None
    if type(version) is not int or version != 1:
        raise UsageError(f"policy: version: expected 1, which is converted, got {version!r:.80}")


def _document(data: bytes) -> dict[str, object]:
    return toml.read(data, what="policy", limit=MAX_POLICY_BYTES)


def _with_added(document: dict[str, object]) -> dict[str, object]:
    added = {name: {key: NONE} for name, key in ADDED.items()}
    return {**document, **added, "version": 2}
