"""What a host submits to the log, and who decides whether it becomes a leaf.

Admission is given, not known: the log holds no policy and reads no chain. What the log
itself answers for is that `previous` and `release` name leaves that exist and fit, and
that one REPORT_DATA[0:32] has one leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attestation.errors import Refused
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.log.leaf import BOOT, RELEASE, RENEW, Leaf
from attestation.log.submission import ArchiveRecord, Submission, binding_of
from contracts.logservice.store import Entry


class Admission(Protocol):
    """Decides. Returns the leaf, or raises a UmayError that says why there is none."""

    def __call__(self, submission: Submission) -> Leaf: ...


ReleaseAdmission = Callable[[bytes], None]
"""Raises a UmayError that says why a release manifest becomes no leaf."""


def no_release(_: bytes) -> None:
    raise Refused("log", "closed", "this log takes no releases: it was started without a Registry")


class Reader(Protocol):
    """What the claims of a submission are compared with."""

    def leaf(self, index: int) -> bytes | None: ...

    def blob(self, digest: bytes) -> bytes | None: ...


def check_claims(submission: Submission, log: Reader) -> None:
    """`previous` is a leaf of the same boot, `release` a release leaf. Raises Refused."""
    if submission.release is not None:
        data = log.leaf(submission.release)
        if data is None or Leaf.from_bytes(data).kind != RELEASE:
            raise Refused("log", "unknown-release", "expected the index of a release leaf")
    if submission.previous is not None:
        boot_id = KeyBundle.from_bytes(Evidence.from_bytes(submission.evidence).bundle).boot_id
        if _boot_id(submission.previous, log) != boot_id:
            raise Refused("log", "unknown-previous", "expected the index of a leaf of this boot")


def check_leaf(leaf: Leaf, submission: Submission) -> None:
    """The admitted leaf is of this submission: admission and log must not disagree."""
    expected = (submission.kind, sha256(submission.evidence))
    claims = (submission.previous, submission.release)
    if (leaf.kind, leaf.evidence_digest) != expected or (leaf.previous, leaf.release) != claims:
        raise Refused("log", "other-leaf", "admission returned the leaf of another submission")


def entry_of(submission: Submission, leaf: Leaf, collateral: Collateral) -> Entry:
    """What the log keeps of an admitted submission: one leaf per REPORT_DATA[0:32].

    A boot's evidence is kept for good; a renewal's is most of what a log holds, and passes
    where its operator says so.
    """
    rest = (
        submission.engine_config,
        submission.price_table,
        submission.host_config,
        submission.collateral,
    )
    evidence, renewal = (submission.evidence,), submission.kind == RENEW
    digests = [sha256(content) for content in (*evidence, *rest)]
    return Entry(
        key=binding_of(submission.evidence),
        leaf=leaf.to_bytes(),
        blobs=(*(() if renewal else evidence), *rest, *collateral.parts.values()),
        record=lambda index: ArchiveRecord(index, *digests).to_bytes(),
        passing=evidence if renewal else (),
    )


def _boot_id(index: int, log: Reader) -> bytes | None:
    data = log.leaf(index)
    leaf = Leaf.from_bytes(data) if data is not None else None
    if leaf is None or leaf.kind not in (BOOT, RENEW):
        return None
    evidence = log.blob(leaf.evidence_digest)
    if evidence is None:
        return None
    return KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle).boot_id
