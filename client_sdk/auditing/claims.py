"""Checks of the entries against each other: every entry names earlier entries that fit, no signed
statement of a machine has two entries, and no key is in two boots."""

from __future__ import annotations

from collections.abc import Sequence

from attestation.errors import ParseError
from attestation.log.leaf import BOOT, RELEASE, RENEW, RETIRE, Leaf
from client_sdk.auditing.results import Audit

UNSEEN = 0
"""The kind of an entry whose bytes were not served: it may be any."""


def check_claims(audit: Audit, leaves: Sequence[bytes | None]) -> None:
    """Checks every entry of `audit` in order. Entries that do not parse, or whose bytes were not
    served (None), have been reported already."""
    kinds: list[int | None] = []
    boots: list[str | None] = []
    statements: dict[bytes, int] = {}
    retired: dict[str, int] = {}
    for index, (entry, data) in enumerate(zip(audit.entries, leaves, strict=True)):
        leaf = parsed(data) if data is not None else None
        machine = leaf is not None and leaf.kind in (BOOT, RENEW)
        if leaf is not None and machine:
            _claimed(audit, index, leaf, entry.boot, boots, kinds)
            _once(audit, index, leaf, statements)
            if entry.boot in retired:
                text = f"entry {index}: came after its boot retired in entry {retired[entry.boot]}"
                audit.finding("after-retirement", text, index)
        elif leaf is not None and leaf.kind == RETIRE and entry.boot:
            retired.setdefault(entry.boot, index)
        boots.append(entry.boot if machine or data is None else None)
        kinds.append(UNSEEN if data is None else leaf.kind if leaf else None)
    _keys(audit)


def parsed(data: bytes) -> Leaf | None:
    try:
        return Leaf.from_bytes(data)
    except ParseError:
        return None


def _claimed(
    audit: Audit,
    index: int,
    leaf: Leaf,
    boot: str,
    boots: list[str | None],
    kinds: list[int | None],
) -> None:
    """`boots` and `kinds` are those of the earlier entries; a boot of "" was not fetched."""
    renews = leaf.previous is not None and _fits(boots, leaf.previous, boot)
    if renews != (leaf.kind == RENEW) or (leaf.kind == BOOT and leaf.previous is not None):
        audit.violation("bad-previous", f"entry {index}: {wrong_previous(leaf)}", index)
    release = leaf.release
    if release is None:
        audit.finding("no-release", f"entry {index}: names no release entry", index)
    elif not (release < len(kinds) and kinds[release] in (RELEASE, UNSEEN)):
        audit.violation("bad-release", f"entry {index}: {wrong_release(release)}", index)


def wrong_previous(leaf: Leaf) -> str:
    """Why the field `previous` of this machine's leaf is refused."""
    got = "none" if leaf.previous is None else f"entry {leaf.previous}"
    if leaf.kind == BOOT:
        return f"a boot must not name a previous entry, got {got}"
    return f"a renewal must name an earlier entry of its boot as previous, got {got}"


def wrong_release(release: int) -> str:
    return f"expected an earlier release entry as its release, got entry {release}"


def _once(audit: Audit, index: int, leaf: Leaf, statements: dict[bytes, int]) -> None:
    first = statements.setdefault(leaf.statement, index)
    if first != index:
        text = f"entry {index}: has the same signed statement as entry {first}"
        audit.violation("twice", text, index)


def _keys(audit: Audit) -> None:
    """Keys are made anew at every boot: one in two boots has left its enclave."""
    owners: dict[str, tuple[str, int]] = {}
    for entry in audit.entries:
        shared = [owners.setdefault(key, (entry.boot, entry.index)) for key in entry.keys]
        others = {index for boot, index in shared if boot != entry.boot}
        if others:
            text = f"entry {entry.index}: has a key of another boot (entry {min(others)})"
            audit.violation("reused-key", text, entry.index)


def _fits(boots: Sequence[str | None], index: int, boot: str) -> bool:
    """Whether an earlier entry is, or may be, of this boot."""
    earlier = boots[index] if index < len(boots) else None
    return earlier is not None and (earlier == boot or "" in (earlier, boot))
