"""Step "log" of the verification plan: the log holds this Evidence, in the anchored tree."""

from __future__ import annotations

from attestation.errors import NotAuthentic, NotChecked, Refused
from attestation.formats.address import same_account
from attestation.formats.dates import dated
from attestation.formats.measurement import measurement_digest
from attestation.log import proof as log_proof
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import Leaf
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.verify.case import Case
from attestation.verify.reading import check_reading


def log(case: Case) -> str:
    """The log's leaf is of this Evidence, and stands in the tree that is anchored on the chain.

    The anchor is of the contract that the policy pins, read recently, and not forked. Source:
    RFC 6962 and RFC 9162 (inclusion), C2SP tlog-proof and signed-note; docs/spec/log.md.
    """
    case.needs("parse")
    if case.anchor is None:
        raise NotChecked("anchor: expected one that was read from the chain, got none")
    _anchor(case, case.anchor)
    if case.proof is None:
        text = (
            f"log proof: expected one to the anchored size {case.anchor.size}, the host gave none"
        )
        raise Refused("log", "no-proof", text)
    leaf, checkpoint = log_proof.verify_proof(
        case.proof, origin=case.policy.log_origin, log_key=case.policy.log_key
    )
    _anchored(checkpoint, case.anchor)
    _leaf(case, leaf)
    return f"in the anchored tree of {case.anchor.size} ({case.anchor.level})"


def _anchored(checkpoint: Checkpoint, anchor: Anchor) -> None:
    if (checkpoint.size, checkpoint.root) != (anchor.size, anchor.root):
        text = f"log proof: expected the anchored tree of size {anchor.size} with root "
        text += f"{anchor.root.hex()}, got size {checkpoint.size} with {checkpoint.root.hex()}"
        raise NotAuthentic("log", "other-history", text)


def check_anchor(anchor: Anchor, *, policy: Policy, now: int) -> None:
    """The anchor is of the contract that the policy pins, not forked, and was read recently by
    `now` (Unix seconds). Raises Refused("log", …)."""
    check_pinned(policy, anchor)
    if anchor.forked:
        text = f"expected a log that never forked, contract {anchor.address} holds proof of a fork"
        raise Refused("log", "forked", f"anchor: {text}")
    check_reading(
        "log", "anchor", read_at=anchor.read_at, level=anchor.level, policy=policy, now=now
    )


def _anchor(case: Case, anchor: Anchor) -> None:
    check_anchor(anchor, policy=case.policy, now=case.now)
    if case.beacon is not None and case.beacon.utime > anchor.read_at:
        read, beacon = dated(anchor.read_at), dated(case.beacon.utime)
        text = f"expected a reading not before the beacon block of {beacon}, got one of {read}"
        raise Refused("log", "anchor-before-beacon", f"anchor: {text}; read it again")
    case.expiries.append(anchor.read_at + case.policy.max_anchor_age_s)


def check_pinned(policy: Policy, anchor: Anchor) -> None:
    """The anchor is of the contract that the policy pins. Raises Refused("log", "other-…")."""
    account = anchor.address
    if same_account(anchor.address, policy.log_contract):
        account = policy.log_contract
    for what, key, got, expected in (
        ("network", "id", anchor.network, policy.network),
        ("contract", "log_contract", account, policy.log_contract),
        ("code-hash", "log_code_hash", anchor.code_hash.hex(), policy.log_code_hash.hex()),
        ("origin", "log_origin", anchor.origin, policy.log_origin),
        ("log-key", "log_key", anchor.log_key.hex(), policy.log_key.hex()),
    ):
        if got != expected:
            text = f"anchor: expected {what} {expected} (policy [network] {key}), got {got}"
            raise Refused("log", f"other-{what}", text)


def _leaf(case: Case, data: bytes) -> None:
    leaf = Leaf.from_bytes(data)
    # The step "measurement" may have refused before it had this.
    case.measurement_digest = measurement_digest(case.evidence.platform, case.cpu.registers)
    expected = case.leaf(kind=leaf.kind, release=leaf.release, previous=leaf.previous)
    for name in (
        "platform",
        "evidence_digest",
        "bundle_digest",
        "measurement_digest",
        "beacon",
        "statement",
    ):
        want, got = getattr(expected, name), getattr(leaf, name)
        if got != want:
            text = f"log leaf {name}: expected {_shown(want)} as in the Evidence, got {_shown(got)}"
            raise NotAuthentic("log", "other-leaf", text)
    if leaf.kind not in (1, 2):
        text = f"log leaf kind: expected 1 (boot) or 2 (renewal), got {leaf.kind}"
        raise NotAuthentic("log", "other-leaf", text)


def _shown(value: object) -> str:
    """A leaf's field: a number, a digest in hex, or a block as its number and root hash."""
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return value.hex() if isinstance(value, bytes) else str(value)
