"""What an audit has verified already, in one file of the auditor's own.

It counts under exactly one question: contract, policy, collateral and UTC day. Under another
one it is empty. An entry counts for its leaf's bytes alone, so the tree is always read. Only
what verified is kept: whatever had a problem is looked at again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from attestation import cbor
from attestation.digests import domain_digest, sha256
from attestation.errors import ParseError, UsageError
from client_sdk.auditing.results import EntryVerdict

WINDOW_S = 86_400
MAX_STATE_BYTES = 1 << 30
"""Half a kilobyte an entry: two million of them."""

SAVE_EVERY = 256
_KEPT = ("kind", "boot", "runs", "since", "platform", "release", "keys", "now")


def question(*, contract: str, policy: bytes, collateral: bytes | None, now: int) -> bytes:
    """32 bytes that differ where an earlier answer does not count any more. `policy` is its
    file's bytes, `collateral` a manifest digest, `now` Unix seconds."""
    fields = [1, contract, sha256(policy), collateral, now // WINDOW_S]
    return domain_digest("umay/audit-state/v1", cbor.encode(fields))


class State:
    """Raises UsageError where the file cannot be used or is none of this program's."""

    def __init__(self, path: Path, under: bytes) -> None:
        self._path, self._under, self._unsaved = path, under.hex(), 0
        self._entries: dict[str, dict[str, Any]] = self._read()

    def recall(self, index: int, leaf: bytes) -> EntryVerdict | None:
        """What verified earlier, without its report."""
        kept = self._entries.get(str(index))
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
        kept = {"leaf": sha256(leaf).hex(), **{name: shown[name] for name in _KEPT}}
        self._entries[str(entry.index)] = kept
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Whole or not at all."""
        text = json.dumps({"version": 1, "under": self._under, "entries": self._entries})
        try:
            directory = self._path.absolute().parent
            with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
                file.write(text)
            os.replace(file.name, self._path)
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror}") from None
        self._unsaved = 0

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                state = json.loads(file.read(MAX_STATE_BYTES))
            if state["version"] != 1 or state["under"] != self._under:
                return {}
            entries = state["entries"]
            if not all(isinstance(item, dict) for item in entries.values()):
                raise ValueError
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(f"{self._path}: expected the state of an audit") from None
        return dict(entries)


def _verdict(index: int, kept: dict[str, Any]) -> EntryVerdict:
    texts = [kept.get(name) for name in ("kind", "boot", "runs", "platform", "release")]
    lists = [kept.get("keys"), kept.get("now")]
    good = all(isinstance(text, str) for text in texts) and all(map(_words, lists))
    if not good or type(kept.get("since")) is not int:
        raise ParseError(f"entry {index}: not as this program writes it")
    kind, boot, runs, platform, release = map(str, texts)
    return EntryVerdict(
        index=index,
        kind=kind,
        boot=boot,
        runs=runs,
        verdict="verified",
        detail=", ".join(kept["now"]),
        since=kept["since"],
        platform=platform,
        release=release,
        keys=tuple(kept["keys"]),
        now=tuple(kept["now"]),
    )


def _words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
