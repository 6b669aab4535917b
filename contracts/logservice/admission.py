"""Submissions of hosts, and the decision whether they become leaves.

The decision is a parameter (Admission): the log itself has no policy and reads no chain. The log
itself ensures that `previous` and `release` name existing leaves of the right kind, and that one
REPORT_DATA[0:32] has one leaf.
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
    """Returns the leaf of a submission, or raises a UmayError that says why it is not admitted."""

    def __call__(self, submission: Submission) -> Leaf: ...


ReleaseAdmission = Callable[[bytes], None]
"""Raises a UmayError that says why a release manifest is not admitted."""


def no_release(_: bytes) -> None:
    text = "this log accepts no release manifests, because it was started without --registry"
    raise Refused("log", "closed", text)


class Reader(Protocol):
    """The log's own leaves and documents, with which the claims of a submission are compared."""

    def leaf(self, index: int) -> bytes | None: ...

    def blob(self, digest: bytes) -> bytes | None: ...


def check_claims(submission: Submission, log: Reader) -> None:
    """Raises Refused unless `previous` is a leaf of the same boot and `release` a release leaf."""
    if submission.release is not None:
        data = log.leaf(submission.release)
        if data is None or Leaf.from_bytes(data).kind != RELEASE:
            text = f"release: expected the index of a release leaf, got {submission.release}"
            raise Refused("log", "unknown-release", text)
    if submission.previous is not None:
        boot_id = KeyBundle.from_bytes(Evidence.from_bytes(submission.evidence).bundle).boot_id
        if _boot_id(submission.previous, log) != boot_id:
            text = (
                "previous: expected the index of a boot or renewal leaf of boot "
                f"{boot_id.hex()}, got "
                f"{submission.previous}"
            )
            raise Refused("log", "unknown-previous", text)


def check_leaf(leaf: Leaf, submission: Submission) -> None:
    """Raises Refused unless the admitted leaf belongs to this submission."""
    expected = (submission.kind, sha256(submission.evidence))
    claims = (submission.previous, submission.release)
    if (leaf.kind, leaf.evidence_digest) != expected or (leaf.previous, leaf.release) != claims:
        text = "admission: expected the leaf of this submission, got the leaf of another one"
        raise Refused("log", "other-leaf", text)


def entry_of(submission: Submission, leaf: Leaf, collateral: Collateral) -> Entry:
    """The entry for an admitted submission: one leaf per REPORT_DATA[0:32].

    The evidence of a boot is kept forever. The evidence of renewals is most of a log's data, and
    the operator may have it deleted after some days (--keep-renewals).
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
