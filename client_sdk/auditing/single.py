"""One entry, with its proof, evidence and report: nothing else of the log is fetched.

The inclusion proof is made from hash tiles and leads to the anchored root, or there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attestation.errors import UmayError, Unavailable, UsageError
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.log.leaf import BOOT, RELEASE, RENEW, Leaf
from attestation.log.submission import ArchiveRecord
from attestation.log.tiles import WIDTH, TilePath
from attestation.trust.anchor import Anchor
from client_sdk.auditing import sources, tree
from client_sdk.auditing.auditor import Auditor, AuditScope, judge, step
from client_sdk.auditing.claims import parsed, wrong_previous, wrong_release
from client_sdk.auditing.machines import MachineJudge
from client_sdk.auditing.results import Audit, EntryVerdict
from client_sdk.auditing.sources import Source


@dataclass(frozen=True)
class AuditedEntry:
    """`data` is the leaf's bytes and `proof` a tlog-proof of it; empty where there is none.
    `machines` judged it."""

    audit: Audit
    index: int
    data: bytes
    proof: bytes
    machines: MachineJudge

    @property
    def entry(self) -> EntryVerdict | None:
        return self.audit.entries[0] if self.audit.entries else None

    @property
    def leaf(self) -> Leaf | None:
        return parsed(self.data)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.audit.to_json(),
            "index": self.index,
            "leaf": self.data.hex(),
            "proof": self.proof.decode(),
        }


def audit_entry(auditor: Auditor, contract: str, index: int, scope: AuditScope) -> AuditedEntry:
    """Raises Unavailable or ParseError where the contract cannot be read, UsageError where
    the anchored tree has no such entry."""
    audit, anchor, source = auditor.begin(contract, scope)
    _within(index, anchor)
    note = auditor.note(audit, source, anchor)
    get_hash = tree.hashes_from_tiles(source, anchor.size)
    machines = auditor.machines(source, anchor, note, get_hash, scope)
    data = step(audit, "tree", lambda: machines.leaf_at(index))
    if data is None:
        return AuditedEntry(audit, index, b"", b"", machines)
    entry = judge(audit, machines, index, data)
    audit.entries.append(entry)
    step(audit, "claims", lambda: _claims(audit, machines, index, data, entry.boot))
    auditor.check_registry(audit, anchor)
    return AuditedEntry(audit, index, data, machines.proof(index, data) or b"", machines)


def find_boot(auditor: Auditor, contract: str, boot: bytes, scope: AuditScope) -> int:
    """Index of a boot's (16 bytes) newest anchored entry. Not verified: see audit_entry.

    Raises UsageError where the log has none, Unavailable where that cannot be said.
    """
    _, anchor, source = auditor.begin(contract, scope)
    missing: list[int] = []
    for index, data in _backwards(source, anchor.size):
        scope.progress("entries searched", anchor.size - index, anchor.size)
        leaf = parsed(data)
        if leaf is None or leaf.kind not in (BOOT, RENEW):
            continue
        try:
            if _boot_of(source, index) == boot:
                return index
        except UmayError:
            missing.append(index)
    if missing:
        text = f"the evidence of {len(missing)} entries could not be read, and may be of this boot"
        raise Unavailable(f"boot {boot.hex()}: not found; {text}")
    raise UsageError(f"boot {boot.hex()}: expected an anchored entry of this boot, got none")


def find_evidence(auditor: Auditor, contract: str, digest: bytes, scope: AuditScope) -> int:
    """Index of the anchored entry with the evidence of this digest (32 bytes), as a receipt names
    it. Not verified: see audit_entry. Raises UsageError where the log has none, Unavailable."""
    _, anchor, source = auditor.begin(contract, scope)
    for index, data in _backwards(source, anchor.size):
        scope.progress("entries searched", anchor.size - index, anchor.size)
        leaf = parsed(data)
        if leaf is not None and leaf.kind in (BOOT, RENEW) and leaf.evidence_digest == digest:
            return index
    raise UsageError(
        f"evidence {digest.hex()}: expected an anchored entry with this evidence, got none"
    )


def _claims(audit: Audit, machines: MachineJudge, index: int, data: bytes, boot: str) -> None:
    """The earlier entries that it names are there and fit."""
    leaf = parsed(data)
    if leaf is None or leaf.kind not in (BOOT, RENEW):
        return
    if leaf.release is not None:
        named = _earlier(machines, leaf.release, index)
        if named is None or named.kind != RELEASE:
            audit.violation("bad-release", f"entry {index}: {wrong_release(leaf.release)}", index)
    if leaf.kind == BOOT and leaf.previous is None:
        return
    before = None if leaf.previous is None else _earlier(machines, leaf.previous, index)
    renews = before is not None and before.kind in (BOOT, RENEW) and leaf.kind == RENEW
    # A boot of "" was not fetched: that is a problem already, and none of this kind.
    if not renews or (boot and _boot_of(machines.source, leaf.previous or 0).hex() != boot):
        audit.violation("bad-previous", f"entry {index}: {wrong_previous(leaf)}", index)


def _earlier(machines: MachineJudge, named: int, index: int) -> Leaf | None:
    return parsed(machines.leaf_at(named)) if named < index else None


def _boot_of(source: Source, index: int) -> bytes:
    with sources.unsigned(source):
        record = ArchiveRecord.from_bytes(source.get(f"submission/{index}"))
    evidence = Evidence.from_bytes(sources.blob(source, record.evidence))
    return KeyBundle.from_bytes(evidence.bundle).boot_id


def _backwards(source: Source, size: int) -> Iterator[tuple[int, bytes]]:
    for start in range((size - 1) // WIDTH * WIDTH, -1, -WIDTH):
        path = TilePath(None, start // WIDTH, min(WIDTH, size - start))
        leaves = sources.bundle(source, path)
        yield from ((start + at, leaves[at]) for at in range(len(leaves) - 1, -1, -1))


def _within(index: int, anchor: Anchor) -> None:
    if not 0 <= index < anchor.size:
        raise UsageError(f"entry: expected an index below {anchor.size}, got {index}")
