"""Entries that no quote stands behind: a release, a collateral set, a retirement, a network file.

Their document must be there, and the leaf must say no more than it does. What a release allows
is the policy's and the Registry's matter.
"""

from __future__ import annotations

from attestation.errors import NotAuthentic
from attestation.formats.network_file import NetworkFile
from attestation.formats.retirement import Retirement
from attestation.log.documents import collateral_leaf, retire_leaf
from attestation.log.leaf import COLLATERAL, NETWORK, RELEASE, Leaf, document_leaf, release_leaf
from client_sdk.auditing import sources
from client_sdk.auditing.machines import MachineJudge
from client_sdk.auditing.results import KINDS, EntryVerdict


def check_document(machines: MachineJudge, index: int, leaf: Leaf) -> EntryVerdict:
    """Raises Unavailable where something lacks, NotAuthentic, Refused or ParseError for what
    contradicts."""
    document = sources.blob(machines.source, leaf.evidence_digest)
    boot = ""
    if leaf.kind == RELEASE:
        expected = release_leaf(document)
    elif leaf.kind == COLLATERAL:
        expected = collateral_leaf(document)
    elif leaf.kind == NETWORK:
        file = NetworkFile.from_bytes(document)
        file.check_signed(file.keys, file.required, "its own keys")
        expected = document_leaf(NETWORK, document)
    else:
        retirement = Retirement.from_bytes(document)
        expected, boot = _retire_leaf(machines, index, leaf, retirement), retirement.boot_id.hex()
    if leaf != expected:
        raise NotAuthentic(
            "log",
            "other-leaf",
            f"the leaf of this {KINDS[leaf.kind]} is not the leaf of its document",
        )
    return EntryVerdict(index, KINDS[leaf.kind], boot, leaf.evidence_digest.hex()[:16], "on record")


def _retire_leaf(machines: MachineJudge, index: int, leaf: Leaf, retirement: Retirement) -> Leaf:
    previous = leaf.previous
    if previous is None or previous >= index:
        raise NotAuthentic(
            "log", "bad-previous", f"a retirement must name an earlier entry, got {previous}"
        )
    last = Leaf.from_bytes(machines.leaf_at(previous))
    evidence = sources.blob(machines.source, last.evidence_digest)
    return retire_leaf(retirement, previous, last, evidence)
