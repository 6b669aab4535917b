"""The audit: from a contract's address to every enclave that the log holds.

1 contract   read through the auditor's own endpoint; not forked; the one the policy pins
2 log        its signed checkpoint of the anchored size is the anchored one, and where the policy
             demands witnesses, enough of them cosigned it
3 tree       every entry fetched; the root recomputed here equals the anchored root
4 tiles      every hash tile is that of this tree
5 history    the log's newest checkpoint continues the anchored tree
6 entries    every machine's evidence fetched by digest and verified again, as of its time
             and as of now
7 claims     entries name earlier ones of their boot and releases; no statement twice, no
             key in two boots
8 registry   where one is named, by the policy or besides it: release and model of every machine
             were allowed at its time

Nobody's word is taken: what a server or a mirror says is hashed, and compared with the
chain. A mirror's own damage is named and leaves the audit incomplete: it is no word of the log's.
A violation is something that contradicts; what cannot be fetched or was left out is
incomplete, not good.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attestation.errors import (
    Incomplete,
    NotThere,
    ParseError,
    UmayError,
    Unavailable,
    VerificationError,
)
from attestation.formats.address import same_account
from attestation.formats.collateral import Collateral
from attestation.formats.dates import dated
from attestation.log.leaf import BOOT, RENEW, Leaf
from attestation.log.merkle import Tree
from attestation.log.note import Note
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.trust.registry import REGISTRY, Unread
from attestation.verify.session_step import on_record
from attestation.verify.verifier import Verifier
from attestation.verify.witness_step import check_witnesses
from client_sdk.auditing import tree
from client_sdk.auditing.claims import check_claims
from client_sdk.auditing.documents import check_document
from client_sdk.auditing.machines import MachineJudge
from client_sdk.auditing.registry_check import check_registry, read_named
from client_sdk.auditing.results import KINDS, Audit, EntryVerdict
from client_sdk.auditing.sources import DamagedMirror, HttpSource, Source, open_source
from client_sdk.auditing.state import AuditState
from client_sdk.chain_reader import ChainReader
from client_sdk.config import asking
from client_sdk.transport import Transport, log_url
from contracts.chain import ReadOnlyChain, raw_address

LATE_ANCHOR_S = 3600
"""Entries that wait longer than this for an anchor are reported as incomplete: anchoring normally
happens at least every ten minutes."""

T = TypeVar("T")


@dataclass(frozen=True)
class AuditScope:
    """What an audit covers, and as of when.

    `sample` is how many entries are verified, chosen at random; None means all. `now` is in Unix
    seconds; None means the time of the chain's state. `current` is today's collateral. Evidence
    of renewals older than `renewals_kept_s` may be gone, which leaves the audit incomplete.
    """

    sample: int | None = None
    state: AuditState | None = None
    now: int | None = None
    current: Collateral | None = None
    progress: tree.Progress = tree.silent
    renewals_kept_s: int | None = None


class Auditor:
    """Audits one contract under one policy, with an endpoint that the auditor chose.

    `mirror` (URL or directory) is read in place of the log's own address; `registry` is the
    address of a Registry that must have allowed what the machines ran; `network` is the directory
    of `umay up` that the endpoint comes from, for errors. Raises UsageError for a mirror's URL
    that is none.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        transport: Transport | None = None,
        mirror: str | None = None,
        registry: str | None = None,
        network: Path | None = None,
    ) -> None:
        self._policy, self._chain, self._network = policy, chain, network
        self._registry = None if registry is None else raw_address(registry, "registry")
        self._transport = transport or Transport()
        self._mirror = (
            None if mirror is None else open_source(mirror, self._transport, name="mirror")
        )
        # Witnesses speak of today's checkpoint: they are asked about once, not for each machine.
        self._verifier = Verifier(dataclasses.replace(on_record(policy), witnesses=None))

    def run(self, contract: str, scope: AuditScope | None = None) -> Audit:
        """Raises Unavailable or ParseError where the contract itself cannot be read."""
        scope = scope or AuditScope()
        audit, anchor, source = self.begin(contract, scope)
        note = self.note(audit, source, anchor)
        found = step(audit, "tree", lambda: tree.anchored_tree(source, anchor, scope.progress))
        leaves, built = found or ([], None)
        if built is not None:
            step(audit, "tiles", lambda: _tiles(source, built, anchor, scope))
        step(audit, "log", lambda: _history(audit, source, anchor, built))
        if built is not None:
            machines = self.machines(source, anchor, note, built.get_hash, scope)
            self._entries(audit, machines, leaves, scope)
        check_claims(audit, leaves)
        self.check_registry(audit, anchor)
        return audit

    def note(self, audit: Audit, source: Source, anchor: Anchor) -> bytes | None:
        """The anchored checkpoint, with cosignatures where the policy demands them."""
        note = step(audit, "log", lambda: tree.anchored_checkpoint(source, anchor))
        rules = self._policy.witnesses
        if note is None or rules is None:
            return note
        cosigned = (
            step(audit, "log", lambda: tree.cosigned_checkpoint(source, anchor, note)) or note
        )
        try:
            check_witnesses(Note.from_bytes(cosigned), rules, now=audit.at)
        except VerificationError as error:
            audit.incomplete(f"witness-{error.code}", error.message)
        return cosigned

    def check_registry(self, audit: Audit, anchor: Anchor) -> None:
        """Against the policy's Registry, and against the one that was named besides."""
        rules = self._policy.registry
        if isinstance(anchor.registry, Unread):
            audit.incomplete("registry-unavailable", anchor.registry.reason)
        elif rules is not None and anchor.registry is not None:
            check_registry(audit, anchor.registry, releases=rules.releases, models=rules.models)
        if self._registry is not None:
            named = read_named(audit, self._chain, self._registry)
            if named is not None:
                check_registry(audit, named, releases=REGISTRY, models=REGISTRY)

    def begin(self, contract: str, scope: AuditScope) -> tuple[Audit, Anchor, Source]:
        """The contract, checked, and where its log is read."""
        contract = raw_address(contract, "contract")
        audit = Audit(contract, simulated=self._policy.roots.simulated)
        with asking(self._network):
            anchor = ChainReader(self._chain, self._policy).anchor_of(contract)
        audit.size, audit.root = anchor.size, anchor.root.hex()
        audit.anchored, audit.read_at, audit.level = anchor.time, anchor.read_at, anchor.level
        audit.at = anchor.read_at if scope.now is None else scope.now
        source = self._source(anchor)
        audit.log_url = source.name
        self._contract(audit, anchor)
        return audit, anchor, source

    def machines(
        self,
        source: Source,
        anchor: Anchor,
        note: bytes | None,
        get_hash: Callable[[int, int], bytes],
        scope: AuditScope,
    ) -> MachineJudge:
        return MachineJudge(
            verifier=self._verifier,
            chain=self._chain,
            source=source,
            anchor=anchor,
            note=note,
            get_hash=get_hash,
            now=anchor.read_at if scope.now is None else scope.now,
            current=scope.current,
            renewals_kept_s=scope.renewals_kept_s,
        )

    def _source(self, anchor: Anchor) -> Source:
        if self._mirror is not None:
            return self._mirror
        return HttpSource(log_url(anchor.origin), self._transport)

    def _contract(self, audit: Audit, anchor: Anchor) -> None:
        if anchor.forked:
            audit.violation("forked", "the contract holds proof that this log forked")
        policy = self._policy
        if not same_account(anchor.address, policy.log_contract):
            _not_pinned(audit, "contract", policy.log_contract, anchor.address)
        pinned = (
            ("code-hash", policy.log_code_hash.hex(), anchor.code_hash.hex()),
            ("origin", policy.log_origin, anchor.origin),
            ("log-key", policy.log_key.hex(), anchor.log_key.hex()),
        )
        for what, expected, got in pinned:
            if got != expected:
                _not_pinned(audit, what, expected, got)
        if audit.at - anchor.read_at > policy.max_anchor_age_s:
            age = audit.at - anchor.read_at
            text = f"the chain endpoint shows the state of {dated(anchor.read_at)}, {age} s ago"
            text += f"; the policy accepts at most {policy.max_anchor_age_s} s: try another --chain"
            audit.incomplete("old-read", text)

    def _entries(
        self, audit: Audit, machines: MachineJudge, leaves: list[bytes | None], scope: AuditScope
    ) -> None:
        chosen = _chosen(audit, len(leaves), scope.sample)
        for index, data in enumerate(leaves):
            if data is None:
                audit.entries.append(_other_bytes(audit, index, machines.source))
            elif chosen is not None and index not in chosen:
                audit.entries.append(_unseen(index, data))
            else:
                audit.entries.append(_known(audit, machines, index, data, scope.state))
            scope.progress("entries verified", index + 1, len(leaves))


def _not_pinned(audit: Audit, what: str, expected: str, got: str) -> None:
    text = f"the policy expects the {what} {expected}, the contract has {got}"
    audit.violation(f"other-{what}", text)


def judge(audit: Audit, machines: MachineJudge, index: int, data: bytes) -> EntryVerdict:
    """One entry; its problems go to `audit`."""
    kind = "unknown"
    try:
        leaf = Leaf.from_bytes(data)
        kind = KINDS[leaf.kind]
        if leaf.kind in (BOOT, RENEW):
            return machines.judge(audit, index, data)
        return check_document(machines, index, leaf)
    except NotThere as error:
        return _missing(audit, machines, index, kind, data, error)
    except DamagedMirror as error:
        audit.incomplete(error.code, f"entry {index}: {error}", index)
        return EntryVerdict(index, kind, "", "", "not checked", str(error))
    except (Unavailable, Incomplete) as error:
        audit.incomplete("unavailable", f"entry {index}: {error}", index)
        return EntryVerdict(index, kind, "", "", "not checked", str(error))
    except UmayError as error:
        code = "malformed-leaf" if kind == "unknown" else "bad-entry"
        audit.violation(code, f"entry {index}: {error}", index)
        return EntryVerdict(index, kind, "", "", "refused", str(error))


def _missing(
    audit: Audit, machines: MachineJudge, index: int, kind: str, data: bytes, error: NotThere
) -> EntryVerdict:
    """The log itself must have all evidence. A mirror may lack it, and so may the log for old
    renewals where the auditor accepts that."""
    if machines.may_be_gone(Leaf.from_bytes(data)):
        audit.incomplete(
            "passed",
            f"entry {index}: its evidence is no longer there, as --renewals-kept accepts",
            index,
        )
    elif machines.source.mirror:
        audit.incomplete("unavailable", f"entry {index}: {error}", index)
    else:
        audit.violation("missing-evidence", f"entry {index}: {error}", index)
        return EntryVerdict(index, kind, "", "", "refused", str(error))
    return EntryVerdict(index, kind, "", "", "not checked", str(error))


def _other_bytes(audit: Audit, index: int, source: Source) -> EntryVerdict:
    text = f"{source.name} serves other bytes for this entry than the anchored ones"
    if source.mirror:
        audit.incomplete(DamagedMirror.code, f"entry {index}: the mirror {text}", index)
        return EntryVerdict(index, "unknown", "", "", "not checked", text)
    audit.violation("other-leaf", f"entry {index}: {text}", index)
    return EntryVerdict(index, "unknown", "", "", "refused", text)


def _known(
    audit: Audit, machines: MachineJudge, index: int, data: bytes, state: AuditState | None
) -> EntryVerdict:
    """Verified now, or earlier and kept."""
    kept = state.recall(index, data) if state else None
    if kept is not None:
        for code in kept.now or ():
            audit.finding(
                code,
                f"entry {index}: valid at its own time, but not now; an earlier run found this",
                index,
            )
        return kept
    entry = judge(audit, machines, index, data)
    if state is not None:
        state.keep(entry, data)
    return entry


def _chosen(audit: Audit, size: int, sample: int | None) -> set[int] | None:
    """None for all of them."""
    if sample is None:
        return None
    chosen = set(random.SystemRandom().sample(range(size), min(sample, size)))
    audit.incomplete(
        "sampled", f"only {len(chosen)} of {size} entries were verified, chosen at random"
    )
    return chosen


def _unseen(index: int, data: bytes) -> EntryVerdict:
    try:
        kind = KINDS[Leaf.from_bytes(data).kind]
    except ParseError:
        kind = "unknown"
    return EntryVerdict(index, kind, "", "", "not checked", "not in the sample")


def _tiles(source: Source, built: Tree, anchor: Anchor, scope: AuditScope) -> None:
    tree.check_tiles(source, built, anchor.size, scope.progress)


def _history(audit: Audit, source: Source, anchor: Anchor, built: Tree | None) -> None:
    audit.tail = tree.check_history(source, anchor, built)
    if not audit.tail:
        return
    waiting = anchor.read_at - anchor.time
    text = f"{audit.tail} entries beyond the {anchor.size} anchored entries were not audited"
    if waiting > LATE_ANCHOR_S:
        text += f"; the last anchor is of {dated(anchor.time)}, {waiting} s earlier"
        audit.incomplete("unanchored-tail", text)
    else:
        audit.finding("unanchored-tail", text)


def step(audit: Audit, name: str, run: Callable[[], T]) -> T | None:
    """What `run` returns. Where it raises UmayError, the audit notes that and this returns None."""
    try:
        return run()
    except Unavailable as error:
        audit.incomplete(f"{name}-unavailable", str(error))
    except DamagedMirror as error:
        audit.incomplete(error.code, f"{name}: {error}")
    except UmayError as error:
        audit.violation(name, f"{name}: {error}")
    return None
