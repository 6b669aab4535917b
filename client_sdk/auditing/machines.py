"""One machine's entry, verified twice: as of its own time, and as of now.

Then: everything at the time of the enclave's beacon block, with the collateral that the log
archived. What fails is a violation: the log admitted what does not hold. Now: the steps that
vendors and policies can change their minds about. What fails today is a finding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from attestation.errors import Incomplete, ParseError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.platform import LEAF_PLATFORMS
from attestation.log.leaf import RENEW, Leaf
from attestation.log.merkle import GetHash, inclusion_proof, leaf_hash, verify_inclusion
from attestation.log.proof import Proof
from attestation.log.submission import ArchiveRecord, check_archived
from attestation.trust.anchor import Anchor, BlockRef
from attestation.verify.verdict import Report, StepResult
from attestation.verify.verifier import Presented, Verifier
from client_sdk.auditing import sources, tree
from client_sdk.auditing.results import KINDS, Audit, EntryVerdict
from client_sdk.auditing.sources import Source
from contracts.chain import ReadOnlyChain

STEPS_JUDGED_NOW = (
    "cpu-signature",
    "cpu-attributes",
    "cpu-tcb",
    "measurement",
    "gpu",
    "model",
    "engine",
)
"""Steps that may fail later; freshness and anchor are of the entry's own time. Of the Registry,
registry_check says so."""


@dataclass(frozen=True)
class MachineJudge:
    """Judges the entries of machines against one log and chain.

    `note` is the anchored checkpoint, or None where it could not be read. `current` is today's
    collateral; its parts replace those that the log archived. A renewal's evidence may be gone
    after `renewals_kept_s`.
    """

    verifier: Verifier
    chain: ReadOnlyChain
    source: Source
    anchor: Anchor
    note: bytes | None
    get_hash: GetHash
    now: int
    current: Collateral | None = None
    renewals_kept_s: int | None = None

    def may_be_gone(self, leaf: Leaf) -> bool:
        """Whether the auditor accepts that this evidence is gone. Raises Unavailable."""
        if self.renewals_kept_s is None or leaf.kind != RENEW:
            return False
        return self.chain.block(leaf.beacon[0]).utime < self.now - self.renewals_kept_s

    def judge(self, audit: Audit, index: int, data: bytes) -> EntryVerdict:
        """Raises Unavailable or Incomplete where something lacks, and the other errors of
        attestation for what contradicts."""
        leaf = Leaf.from_bytes(data)
        presented = self.presented(index, data)
        bundle = bundle_of(presented)
        beacon = self.chain.block(bundle.beacon[0])
        at = time_of(beacon, bundle)
        then = self.examine(presented, beacon, at)
        failed = tuple(name for name in then.failed if self.note or name != "log")
        _report_failures(audit, index, then, failed)
        now = self._today(audit, index, presented, beacon) if not failed else None
        return _verdict(index, leaf, bundle, beacon, then, failed, now)

    def examine(self, presented: Presented, beacon: BlockRef, at: int) -> Report:
        """As of `at` (Unix seconds). The anchor was read today; that only means the evidence
        was on record no later than today."""
        anchor = self.anchor.as_of(at)
        return self.verifier.examine(presented, anchor=anchor, beacon=beacon, now=at)

    def presented(self, index: int, data: bytes) -> Presented:
        """All that the log archived about the entry with these bytes, by digest."""
        leaf = Leaf.from_bytes(data)
        with sources.unsigned(self.source):
            record = ArchiveRecord.from_bytes(self.source.get(f"submission/{index}"))
            record.check_of(index, leaf)
            archived = [self._blob(digest) for digest in record.digests]
            check_archived(leaf, *archived)
        evidence, engine_config, price_table, host_config, collateral = archived
        return Presented(
            evidence=evidence,
            engine_config=engine_config,
            price_table=price_table,
            host_config=host_config,
            collateral=Collateral.from_bytes(collateral),
            proof=self.proof(index, data),
        )

    def leaf_at(self, index: int) -> bytes:
        """An entry's bytes, proven to stand there. Raises LogError or Unavailable."""
        size, root = self.anchor.size, self.anchor.root
        data = tree.leaf_at(self.source, index, size)
        with sources.unsigned(self.source):
            proof = inclusion_proof(index, size, self.get_hash)
            verify_inclusion(leaf_hash(data), index=index, size=size, root=root, proof=proof)
        return data

    def proof(self, index: int, data: bytes) -> bytes | None:
        """Made here, from the tree: no server is asked for one. None without `note`."""
        if self.note is None:
            return None
        hashes = inclusion_proof(index, self.anchor.size, self.get_hash)
        return Proof(index, tuple(hashes), self.note, data).to_bytes()

    def _today(
        self, audit: Audit, index: int, presented: Presented, beacon: BlockRef
    ) -> tuple[str, ...]:
        """Names of what would fail now, each a finding."""
        current = self.current.parts if self.current else {}
        try:
            collateral = Collateral({**presented.collateral.parts, **current})
        except ParseError as error:  # the auditor gave too many: the log is not to blame
            raise Incomplete(
                f"the log's and today's collateral together have too many parts: {error}"
            ) from None
        today = dataclasses.replace(presented, collateral=collateral)
        report = self.examine(today, beacon, self.now)
        failed = [s for s in report.steps if s.name in STEPS_JUDGED_NOW and s.status == "failed"]
        for step in failed:
            audit.finding(_code(step), f"entry {index}: {self._differs(step)}", index)
        return tuple(_code(step) for step in failed)

    def _differs(self, step: StepResult) -> str:
        hint = (
            "" if self.current else "; judged by the log's collateral: give today's by --collateral"
        )
        return f"valid at its own time, but not now: {step.name}: {step.detail}{hint}"

    def _blob(self, digest: bytes) -> bytes:
        return sources.blob(self.source, digest)


def bundle_of(presented: Presented) -> KeyBundle:
    return KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)


def time_of(beacon: BlockRef, bundle: KeyBundle) -> int:
    """The enclave's own time, Unix seconds."""
    return max(beacon.utime, bundle.not_before)


def _report_failures(audit: Audit, index: int, then: Report, failed: tuple[str, ...]) -> None:
    if failed:
        text = f"the log admitted evidence that fails these steps: {', '.join(failed)}"
        audit.violation("bad-evidence", f"entry {index}: {text}", index)
    elif not then.ok:
        names = ", ".join(step.name for step in then.steps if step.status != "passed")
        text = f"entry {index}: these steps could not be checked: {names}"
        audit.incomplete("not-checked", text, index)


def _verdict(
    index: int,
    leaf: Leaf,
    bundle: KeyBundle,
    beacon: BlockRef,
    then: Report,
    failed: tuple[str, ...],
    now: tuple[str, ...] | None,
) -> EntryVerdict:
    named = then.named
    return EntryVerdict(
        index=index,
        kind=KINDS[leaf.kind],
        boot=bundle.boot_id.hex(),
        runs=f"release {named.release}, {named.shape}, {named.model}" if then.ok else "",
        verdict="verified" if then.ok else "refused" if failed else "not checked",
        detail=", ".join(failed or now or ()),
        since=beacon.utime,
        report=then,
        platform=LEAF_PLATFORMS[leaf.platform],
        release=(named.release or "") if then.ok else "",
        keys=_keys(bundle),
        measurement=leaf.measurement_digest.hex(),
        model=bundle.model_digest.hex(),
        now=now,
        tcb_issued=then.tcb_issued,
    )


def _keys(bundle: KeyBundle) -> tuple[str, ...]:
    """Without the key configurations' first byte: an identifier, not part of the key."""
    keys = (bundle.receipt_key, *(config[1:] for config in bundle.key_configs))
    return tuple(sha256(key).hex() for key in keys)


def _code(step: StepResult) -> str:
    return f"now:{step.name}/{step.code}"
