"""What an audit has verified already, in one file of the auditor's own.

Lines of JSON: first the question, then one verified entry each, written as it is verified; a
last line that was cut off does not count. It all counts under exactly one question: contract,
policy, collateral and UTC day. Under another one the file begins anew. An entry counts for its
leaf's bytes alone, so the tree is always read. Only what verified is kept: whatever had a
problem is looked at again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, UsageError
from attestation.files import open_own, unusable
from attestation.formats import cbor
from attestation.formats.digests import domain_digest, sha256
from client_sdk.auditing.results import EntryVerdict

WINDOW_S = 86_400
MAX_STATE_BYTES = 1 << 30
"""Half a kilobyte an entry: two million of them."""

_TEXTS = ("kind", "boot", "runs", "platform", "release", "measurement", "model")
_TIMES = ("since", "tcb_issued")
_KEPT = (*_TEXTS, *_TIMES, "keys", "now")


def audit_digest(*, contract: str, policy: bytes, collateral: bytes | None, now: int) -> bytes:
    """32 bytes for what an audit asks. They are others if an earlier result is no longer valid.
    `policy` is the bytes of the policy file, `collateral` the digest of a manifest, `now` Unix
    seconds."""
    fields = [1, contract, sha256(policy), collateral, now // WINDOW_S]
    return domain_digest("umay/audit-state/v1", cbor.encode(fields))


class AuditState:
    """What audits have verified so far, kept in a file.

    Raises UsageError if the file cannot be used or was not written by an audit.
    """

    def __init__(self, path: Path, under: bytes) -> None:
        self._path = path
        self._head = _line({"umay-audit-state": 3, "under": under.hex()})
        try:
            self._file = os.fdopen(open_own(path, os.O_RDWR), "r+b")
            self._entries = self._read()
        except OSError as error:
            raise unusable(path, error) from None

    def recall(self, index: int, leaf: bytes) -> EntryVerdict | None:
        """What verified earlier, without its report."""
        kept = self._entries.get(index)
        if kept is None or kept.get("leaf") != sha256(leaf).hex():
            return None
        try:
            return _verdict(index, kept)
        except ParseError as error:
            raise UsageError(f"{self._path}: {error}; remove it to begin anew") from None

    def keep(self, entry: EntryVerdict, leaf: bytes) -> None:
        if entry.verdict != "verified":
            return
        shown = dataclasses.asdict(dataclasses.replace(entry, report=None))
        kept = {"index": entry.index, "leaf": sha256(leaf).hex()}
        self._write(_line({**kept, **{name: shown[name] for name in _KEPT}}))

    def close(self) -> None:
        self._file.close()

    def _read(self) -> dict[int, dict[str, Any]]:
        """Every whole line of this question; the file is left at their end."""
        data = self._file.read(MAX_STATE_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        head, *lines = whole.splitlines(keepends=True) or [data]
        if head and not head.startswith(b'{"umay-audit-state": '):
            raise UsageError(
                f"{self._path}: expected a file that `umay audit run --state` wrote; "
                "give another path"
            )
        if head != self._head:
            lines, whole = [], b""
        try:
            items = [json.loads(line) for line in lines]
            entries = {item["index"]: item for item in items}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{self._path}: expected a JSON entry on every line; remove the file to begin anew"
            ) from None
        self._file.seek(len(whole))
        self._file.truncate()
        if not whole:
            self._write(self._head)
        return entries

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise unusable(self._path, error) from None


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _verdict(index: int, kept: dict[str, Any]) -> EntryVerdict:
    texts: dict[str, Any] = {name: kept.get(name) for name in _TEXTS}
    lists = [kept.get("keys"), kept.get("now")]
    good = all(isinstance(text, str) for text in texts.values()) and all(map(_words, lists))
    times: dict[str, Any] = {name: kept.get(name) for name in _TIMES}
    if not good or any(type(time) is not int for time in times.values()):
        raise ParseError(f"entry {index}: expected the fields that this program writes")
    return EntryVerdict(
        **texts,
        **times,
        index=index,
        verdict="verified",
        detail=", ".join(kept["now"]),
        keys=tuple(kept["keys"]),
        now=tuple(kept["now"]),
    )


def _words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
