"""The audit: from a contract's address to every enclave that the log holds.

1 contract   read through the auditor's own endpoint; not forked; the one the policy pins
2 log        its address is the anchored origin; its signed checkpoint is the anchored one
3 tree       every entry fetched; the root recomputed here equals the anchored root
4 history    the log's newest checkpoint continues the anchored tree
5 entries    every machine's evidence fetched by digest and verified again, as of its time
6 claims     entries name earlier ones of their boot and releases; no statement twice

Nobody's word is taken: what a server says is hashed, and compared with the chain. A
violation is something that contradicts; what cannot be fetched is incomplete, not good.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attestation.anchor import Anchor
from attestation.collateral import Collateral
from attestation.digests import sha256
from attestation.errors import (
    LogError,
    NotAuthentic,
    ParseError,
    UmayError,
    Unavailable,
)
from attestation.evidence import Evidence
from attestation.keys import KeyBundle
from attestation.log import checkpoint as checkpoints
from attestation.log.admission import Record
from attestation.log.leaf import BOOT, COLLATERAL, RELEASE, RENEW, RETIRE, Leaf, release_leaf
from attestation.log.merkle import Tree, verify_consistency
from attestation.log.tiles import WIDTH, TilePath, decode_bundle
from attestation.policy import Policy
from attestation.verdict import Report
from attestation.verifier import Presented, Verifier
from client_sdk.transport import Transport, is_loopback
from contracts.chain import Chain
from contracts.reader import read_anchor

KINDS = {
    BOOT: "boot",
    RENEW: "renewal",
    RELEASE: "release",
    COLLATERAL: "collateral",
    RETIRE: "retirement",
}
Severity = Literal["violation", "incomplete"]


@dataclass(frozen=True)
class Problem:
    """`code` is stable, `text` for people; `index` the entry it is about, if any."""

    severity: Severity
    code: str
    text: str
    index: int | None = None


@dataclass(frozen=True)
class EntryVerdict:
    """One leaf and what became of it. `boot` and digests in hex."""

    index: int
    kind: str
    boot: str
    runs: str
    verdict: str
    detail: str = ""
    since: int | None = None
    report: Report | None = None


@dataclass
class Audit:
    """The whole audit; `exit_code` as every command ends: 0 good, 1 violation, 6 incomplete."""

    contract: str
    log_url: str = ""
    size: int = 0
    root: str = ""
    simulated: bool = False
    entries: list[EntryVerdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def exit_code(self) -> int:
        severities = {problem.severity for problem in self.problems}
        return 1 if "violation" in severities else 6 if severities else 0

    @property
    def verdict(self) -> str:
        machines = sum(entry.kind in ("boot", "renewal") for entry in self.entries)
        return {
            0: f"no violation: {machines} attestation(s) verified again",
            1: "a violation was found",
            6: "incomplete: something could not be checked",
        }[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        entries = [dataclasses.asdict(dataclasses.replace(e, report=None)) for e in self.entries]
        for shown, entry in zip(entries, self.entries, strict=True):
            shown["report"] = entry.report.to_json() if entry.report else None
        return {
            "ok": self.ok,
            "contract": self.contract,
            "log": self.log_url,
            "size": self.size,
            "root": self.root,
            "simulated": self.simulated,
            "verdict": self.verdict,
            "entries": entries,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }


class Auditor:
    """Audits one contract under one policy, with an endpoint that the auditor chose."""

    def __init__(self, *, policy: Policy, chain: Chain, transport: Transport | None = None) -> None:
        self._policy, self._chain = policy, chain
        self._transport = transport or Transport()
        self._verifier = Verifier(policy)

    def run(self, contract: str) -> Audit:
        """Raises Unavailable or ParseError where the contract itself cannot be read."""
        audit = Audit(contract, simulated=self._policy.roots.simulated)
        anchor = read_anchor(self._chain, network=self._policy.network, address=contract)
        audit.size, audit.root = anchor.size, anchor.root.hex()
        audit.log_url = log_url(anchor.origin)
        self._contract(audit, anchor)
        self._step(audit, "log", lambda: self._log(audit, anchor))
        leaves = self._step(audit, "tree", lambda: self._tree(audit, anchor))
        for index, leaf in enumerate(leaves or ()):
            audit.entries.append(self._entry(audit, anchor, index, leaf))
        _claims(audit, leaves or [])
        return audit

    def _contract(self, audit: Audit, anchor: Anchor) -> None:
        if anchor.forked:
            _violation(audit, "forked", "the contract holds proof that this log forked")
        pinned = (
            ("contract", anchor.address, self._policy.log_contract),
            ("code-hash", anchor.code_hash, self._policy.log_code_hash),
            ("origin", anchor.origin, self._policy.log_origin),
            ("log-key", anchor.log_key, self._policy.log_key),
        )
        for what, got, expected in pinned:
            if got != expected:
                _violation(audit, f"other-{what}", f"the contract's {what} is not the pinned one")

    def _log(self, audit: Audit, anchor: Anchor) -> None:
        """The log signs what is anchored, and what it signs now continues it."""
        note = self._get(audit, f"checkpoint/{anchor.size}")
        head = checkpoints.verify(note, origin=anchor.origin, log_key=anchor.log_key)
        if (head.size, head.root) != (anchor.size, anchor.root):
            raise LogError(f"the log signs another tree of {anchor.size} entries than the anchored")
        newest = self._get(audit, "checkpoint")
        now = checkpoints.verify(newest, origin=anchor.origin, log_key=anchor.log_key)
        if now.size < anchor.size:
            raise LogError(f"expected at least {anchor.size} entries, the log shows {now.size}")
        answer = self._get(audit, f"consistency?from={anchor.size}&to={now.size}")
        verify_consistency(
            old_size=anchor.size,
            old_root=anchor.root,
            new_size=now.size,
            new_root=now.root,
            proof=_hashes(answer),
        )

    def _tree(self, audit: Audit, anchor: Anchor) -> list[bytes]:
        leaves: list[bytes] = []
        for first in range(0, anchor.size, WIDTH):
            path = TilePath(None, first // WIDTH, min(WIDTH, anchor.size - first))
            bundle = decode_bundle(self._get(audit, str(path)))
            if len(bundle) != path.width:
                raise LogError(f"{path}: expected {path.width} entries, got {len(bundle)}")
            leaves += bundle
        tree = Tree()
        for leaf in leaves:
            tree.append(leaf)
        if tree.root() != anchor.root:
            raise LogError("the entries that the log serves do not make the anchored root")
        return leaves

    def _entry(self, audit: Audit, anchor: Anchor, index: int, data: bytes) -> EntryVerdict:
        try:
            leaf = Leaf.from_bytes(data)
        except ParseError as error:
            _violation(audit, "malformed-leaf", f"entry {index}: {error}", index)
            return EntryVerdict(index, "unknown", "", "", "refused", "malformed")
        kind = KINDS[leaf.kind]
        try:
            if leaf.kind in (BOOT, RENEW):
                return self._machine(audit, anchor, index, leaf)
            return self._document(audit, index, leaf)
        except Unavailable as error:
            problem = Problem("incomplete", "unavailable", f"entry {index}: {error}", index)
            audit.problems.append(problem)
            return EntryVerdict(index, kind, "", "", "not checked", str(error))
        except UmayError as error:
            _violation(audit, "bad-entry", f"entry {index}: {error}", index)
            return EntryVerdict(index, kind, "", "", "refused", str(error))

    def _document(self, audit: Audit, index: int, leaf: Leaf) -> EntryVerdict:
        """A release and its like: its bytes must be there; what it allows is the policy's."""
        if leaf.kind == RELEASE:
            manifest = self._blob(audit, leaf.evidence_digest)
            if leaf != release_leaf(manifest):
                raise NotAuthentic("log", "other-leaf", "a release's leaf claims more than it is")
        digest = leaf.evidence_digest.hex()[:16]
        return EntryVerdict(index, KINDS[leaf.kind], "", digest, "on record")

    def _machine(self, audit: Audit, anchor: Anchor, index: int, leaf: Leaf) -> EntryVerdict:
        presented = self._presented(audit, index, leaf, anchor.size)
        bundle = KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)
        beacon = self._chain.block(bundle.beacon[0])
        at = max(beacon.utime, bundle.not_before)
        # Verified as of the enclave's own time. The anchor was read today; that only
        # means the evidence was on record no later than today.
        then = dataclasses.replace(anchor, read_at=at)
        report = self._verifier.examine(presented, anchor=then, beacon=beacon, now=at)
        boot = bundle.boot_id.hex()
        if not report.ok:
            steps = ", ".join(report.failed) or "not everything could be checked"
            text = f"entry {index}: evidence that the log admitted does not verify: {steps}"
            if report.failed:
                _violation(audit, "bad-evidence", text, index)
            else:
                audit.problems.append(Problem("incomplete", "not-checked", text, index))
        named = {step.name: step.detail for step in report.steps}
        runs = f"{named['measurement'].partition(';')[0]}, {named['model'].partition(',')[0]}"
        return EntryVerdict(
            index=index,
            kind=KINDS[leaf.kind],
            boot=boot,
            runs=runs if report.ok else "",
            verdict="verified" if report.ok else "refused" if report.failed else "not checked",
            detail=", ".join(report.failed),
            since=beacon.utime,
            report=report,
        )

    def _presented(self, audit: Audit, index: int, leaf: Leaf, size: int) -> Presented:
        record = Record.from_bytes(self._get(audit, f"submission/{index}"))
        if record.index != index or record.evidence != leaf.evidence_digest:
            raise NotAuthentic("log", "other-record", "the record is of another entry")
        collateral = Collateral.from_bytes(self._blob(audit, record.collateral))
        if collateral.manifest_digest() != leaf.collateral_digest:
            raise NotAuthentic("log", "other-record", "the collateral is not the one logged")
        return Presented(
            evidence=self._blob(audit, record.evidence),
            engine_config=self._blob(audit, record.engine_config),
            price_table=self._blob(audit, record.price_table),
            host_config=self._blob(audit, record.host_config),
            collateral=collateral,
            proof=self._get(audit, f"proof?index={index}&size={size}"),
        )

    def _blob(self, audit: Audit, digest: bytes) -> bytes:
        data = self._get(audit, f"evidence/sha256/{digest.hex()}")
        if sha256(data) != digest:
            raise NotAuthentic("log", "other-bytes", "the log serves other bytes under a digest")
        return data

    def _get(self, audit: Audit, path: str) -> bytes:
        return self._transport.get(f"{audit.log_url}/{path}")

    def _step(self, audit: Audit, name: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Unavailable as error:
            audit.problems.append(Problem("incomplete", f"{name}-unavailable", str(error)))
        except UmayError as error:
            _violation(audit, name, f"{name}: {error}")
        return None


def log_url(origin: str) -> str:
    """https:// and the origin; plain http for loopback only."""
    host = origin.partition("/")[0].rpartition(":")[0] or origin.partition("/")[0]
    scheme = "http" if is_loopback(host.strip("[]")) else "https"
    return f"{scheme}://{origin}"


def _claims(audit: Audit, leaves: list[bytes]) -> None:
    """What the log alone answers for: entries name earlier ones that fit, and no statement
    of a machine has two entries. Those that do not parse are violations already."""
    kinds: list[int | None] = []
    boots: list[str | None] = []
    statements: dict[bytes, int] = {}
    for index, (entry, data) in enumerate(zip(audit.entries, leaves, strict=True)):
        leaf = _parsed(data)
        machine = leaf is not None and leaf.kind in (BOOT, RENEW)
        if leaf is not None and machine:
            _claimed(audit, index, leaf, entry.boot, boots, kinds)
            _once(audit, index, leaf, statements)
        boots.append(entry.boot if machine else None)
        kinds.append(leaf.kind if leaf else None)


def _claimed(
    audit: Audit,
    index: int,
    leaf: Leaf,
    boot: str,
    boots: list[str | None],
    kinds: list[int | None],
) -> None:
    """`boots` and `kinds` are those of the earlier entries."""
    same = (boot, "") if boot else tuple(b for b in boots if b is not None)  # "": not fetched
    renews = leaf.previous is not None and _names(boots, leaf.previous, *same)
    if renews != (leaf.kind == RENEW) or (leaf.kind == BOOT and leaf.previous is not None):
        _violation(audit, "bad-previous", f"entry {index}: names no entry of its boot", index)
    if leaf.release is not None and not _names(kinds, leaf.release, RELEASE):
        _violation(audit, "bad-release", f"entry {index}: names no release", index)


def _once(audit: Audit, index: int, leaf: Leaf, statements: dict[bytes, int]) -> None:
    first = statements.setdefault(leaf.statement, index)
    if first != index:
        _violation(audit, "twice", f"entry {index}: its statement is entry {first} too", index)


def _names(earlier: Sequence[object], index: int, *wanted: object) -> bool:
    return index < len(earlier) and earlier[index] in wanted


def _parsed(data: bytes) -> Leaf | None:
    try:
        return Leaf.from_bytes(data)
    except ParseError:
        return None


def _violation(audit: Audit, code: str, text: str, index: int | None = None) -> None:
    audit.problems.append(Problem("violation", code, text, index))


def _hashes(answer: bytes) -> tuple[bytes, ...]:
    try:
        return tuple(bytes.fromhex(item) for item in json.loads(answer)["hashes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParseError("consistency: expected JSON with hashes") from None
