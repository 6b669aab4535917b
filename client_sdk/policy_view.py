"""Explains a policy in words: every rule, and every relaxation."""

from __future__ import annotations

from attestation.trust.policy import Policy, RegistryRules, Release, WitnessRules
from attestation.trust.registry import BOTH, FILE, REGISTRY

_WHO = {FILE: "this file", REGISTRY: "the Registry", BOTH: "this file and the Registry together"}


def explain(policy: Policy) -> list[tuple[str, str]]:
    """(what, rule) for every part of the policy, in the file's order."""
    gpus = "any number" if policy.gpu_count is None else str(policy.gpu_count)
    floor = policy.snp_min_tcb
    return [
        ("network", policy.network),
        ("log", f"{policy.log_origin}, contract {policy.log_contract}"),
        ("chain", f"{policy.anchor} reads, at most {policy.max_anchor_age_s} s old"),
        ("registry", _registry(policy.registry)),
        ("witnesses", _witnesses(policy.witnesses)),
        ("freshness", f"beacon at most {policy.max_beacon_age_s} s old"),
        ("challenge", policy.challenge),
        ("machines", _listed(policy.platforms)),
        ("families", _listed(policy.families)),
        ("instances", _listed(policy.instances)),
        ("TDX TCB", _listed(policy.tcb_status) + _refusing(policy)),
        ("SNP keys", _listed(policy.snp_signers)),
        ("SNP TCB", "any" if floor is None else ", ".join(f"{k} ≥ {v}" for k, v in floor.items())),
        ("SNP alias check", "required" if policy.snp_alias_check else "any"),
        ("collateral", f"at most {policy.max_collateral_age_s} s old"),
        ("GPUs", f"{gpus} of {_listed(policy.gpu_architectures)}"),
        ("GPU driver", f"{policy.gpu_min_driver or 'any'}"),
        ("GPU revocation", policy.gpu_revocation),
        *((f"release {item.name}", _release(item)) for item in policy.releases),
        *((f"model {name}", _model(digest)) for name, digest in policy.models),
        ("channel", "X-Wing only" if policy.pq == "required" else "X-Wing, else X25519"),
        ("roots", "SIMULATED machines only" if policy.roots.simulated else "the vendors'"),
    ]


def relaxations(policy: Policy) -> list[str]:
    """Every rule that the policy relaxes, worst first."""
    weak = sorted(policy.tcb_status - {"UpToDate"})
    found = (
        (policy.roots.simulated, "simulated roots: these machines prove nothing"),
        (policy.gpu_revocation != "required", "GPU revocation is not checked with NVIDIA"),
        (bool(weak), f"TCB statuses worse than UpToDate are accepted: {', '.join(weak)}"),
        ("VLEK" in policy.snp_signers, "VLEK keys are accepted: the report need not name its chip"),
        ("snp" in policy.platforms and policy.snp_min_tcb is None, "no minimum SNP TCB"),
        (
            "snp" in policy.platforms and not policy.snp_alias_check,
            "no alias check is required on SNP",
        ),
        (policy.min_tcb_evaluation_number == 0, "no minimum TCB evaluation number"),
        (policy.anchor != "proven", "chain reads rest on the endpoint's word; they are not proven"),
        (
            policy.challenge != "required",
            "challenge is optional, so no session is asked for; freshness rests on the beacon",
        ),
        (policy.pq != "required", "a channel without post-quantum keys is accepted"),
        (
            policy.registry is None,
            "no Registry is asked: what its owner revokes stays accepted until this file changes",
        ),
        (
            policy.registry is not None
            and REGISTRY in (policy.registry.releases, policy.registry.models),
            "the Registry's owner can add what is accepted, without a change of this file",
        ),
        (
            policy.witnesses is None,
            "no witness is asked: log and chain endpoint together could show an old tree",
        ),
        (policy.instances is None, "any genuine machine is accepted, whoever operates it"),
        (
            any(item.engine_configs is None for item in policy.releases),
            "any engine configuration is accepted",
        ),
        (
            any(item.host_configs is None for item in policy.releases),
            "any host configuration is accepted",
        ),
    )
    return [text for holds, text in found if holds]


def _registry(rules: RegistryRules | None) -> str:
    if rules is None:
        return "none"
    return (
        f"{rules.contract}; releases by {_WHO[rules.releases]}, models by {_WHO[rules.models]}; "
        "what it revoked is refused"
    )


def _witnesses(rules: WitnessRules | None) -> str:
    if rules is None:
        return "none"
    return f"{rules.required} of {', '.join(rules.domains)}, at most {rules.max_age_s} s old"


def _model(digest: bytes | None) -> str:
    return "whatever the Registry allows" if digest is None else digest.hex()


def _listed(values: frozenset[str] | None) -> str:
    return "any" if values is None else ", ".join(sorted(values)) or "none"


def _refusing(policy: Policy) -> str:
    refused = ", ".join(sorted(policy.refuse_advisories))
    number = f"; evaluation number ≥ {policy.min_tcb_evaluation_number}"
    return (f"; not with {refused}" if refused else "") + number


def _release(release: Release) -> str:
    shapes = f"VM shapes {', '.join(release.shapes) or 'that the Registry allows'}"
    engines = release.engine_configs
    configs = "any engine config" if engines is None else f"{len(engines)} engine config(s)"
    launch = f"; {len(release.launch_ids)} launch id(s)" if release.launch_ids else ""
    return f"{shapes}; {configs}{launch}"
