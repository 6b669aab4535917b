"""Step "registry" of the verification plan: the Registry that the policy pins allows this release
and this model, and has not revoked them."""

from __future__ import annotations

from attestation.errors import NotChecked, Refused
from attestation.formats.address import same_account
from attestation.trust.policy import RegistryRules
from attestation.trust.registry import GUEST, MODEL, REGISTRY, STEP, RegistrySnapshot
from attestation.verify.case import Case
from attestation.verify.reading import check_reading

NOT_DEMANDED = "not demanded"


def registry(case: Case) -> str:
    """What runs is allowed by the pinned contract, read at the block of the log's anchor.

    Source: docs/spec/registry.md; docs/spec/policy.md says what each value of `releases` and
    `models` demands.
    """
    rules, snapshot = case.policy.registry, case.registry
    if rules is None:
        return NOT_DEMANDED
    if not isinstance(snapshot, RegistrySnapshot):
        why = "nobody read it" if snapshot is None else snapshot.reason
        text = f"Registry {rules.contract}: expected its state at the block of the anchor, got none"
        raise NotChecked(f"{text}: {why}")
    check_registry_pinned(rules, snapshot)
    policy = case.policy
    check_reading(
        STEP,
        "registry",
        read_at=snapshot.read_at,
        level=snapshot.level,
        policy=policy,
        now=case.now,
    )
    _one_block(case, snapshot)
    case.needs("parse", "measurement", "model")
    _judge(case, rules, snapshot)
    case.expiries.append(snapshot.read_at + policy.max_anchor_age_s)
    return f"release: {rules.releases}; model: {rules.models}; nothing revoked ({snapshot.level})"


def check_registry_pinned(rules: RegistryRules, snapshot: RegistrySnapshot) -> None:
    """It is of the contract that the policy pins. Raises Refused("registry", "other-…")."""
    if not same_account(snapshot.address, rules.contract):
        text = f"expected contract {rules.contract} (policy [registry] contract), got "
        raise Refused(STEP, "other-contract", f"Registry: {text}{snapshot.address}")
    if snapshot.code_hash != rules.code_hash:
        text = f"expected code hash {rules.code_hash.hex()} (policy [registry] code_hash), got "
        raise Refused(STEP, "other-code-hash", f"Registry: {text}{snapshot.code_hash.hex()}")


def _one_block(case: Case, snapshot: RegistrySnapshot) -> None:
    """A log that asks no anchor, before it appends, has none to compare with."""
    anchor = case.anchor
    if anchor is None:
        return
    if (snapshot.seqno, snapshot.read_at) != (anchor.seqno, anchor.read_at) or not anchor.seqno:
        text = f"expected the state at block {anchor.seqno}, where the anchor was read, got block "
        raise Refused(STEP, "other-block", f"Registry: {text}{snapshot.seqno}; read both again")


def _judge(case: Case, rules: RegistryRules, snapshot: RegistrySnapshot) -> None:
    release = snapshot.check(GUEST, case.measurement_digest, source=rules.releases)
    snapshot.check(MODEL, case.bundle.model_digest, source=rules.models)
    if release is not None and rules.releases == REGISTRY:
        case.name(shape=f"shape {release.digests[case.measurement_digest]}")
