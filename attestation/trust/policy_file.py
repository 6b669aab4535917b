"""The policy file, version 2: from TOML to a Policy (docs/spec/policy.md).

Every key must be written: an absent key is an error, and so is an unknown one. What a policy does
not demand is written too, as "any" or "none".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attestation.errors import ParseError
from attestation.formats import toml
from attestation.formats.platform import PLATFORMS
from attestation.log.note import COSIGNATURE, VerifierKey
from attestation.trust.policy import (
    SNP_SIGNERS,
    SNP_TCB_PARTS,
    TCB_STATUSES,
    Policy,
    RegistryRules,
    Release,
    WitnessRules,
)
from attestation.trust.registry import BOTH, FILE, REGISTRY, SOURCES
from attestation.trust.roots import Roots
from attestation.trust.sections import ANY, NONE, Section, shown

VERSION = 2
MAX_POLICY_BYTES = 256 * 1024
KEYS = {
    "": "version network freshness cpu gpu channel registry witnesses custody market release model "
    "unsafe",
    "network": "id log_contract log_code_hash log_origin log_key anchor max_anchor_age_s",
    "freshness": "max_beacon_age_s challenge",
    "cpu": "platforms tcb_status refuse_advisories min_tcb_evaluation_number "
    "max_collateral_age_s families instances snp",
    "cpu.snp": "signers min_tcb alias_check",
    "cpu.snp.min_tcb": " ".join(SNP_TCB_PARTS),
    "gpu": "count architectures min_driver revocation",
    "channel": "pq",
    "registry": "contract code_hash releases models",
    "witnesses": "required max_age_s witness",
    "witnesses.witness": "key domain",
    "custody": "required",
    "market": "contract",
    "release": "name launch_ids engine_configs host_configs shapes",
    "model": "name digest",
    "unsafe": "simulated_roots",
    "unsafe.simulated_roots": "intel amd nvidia_device nvidia_rim",
}
"""By table, so that a typo is named as one and not as the absence of what was meant. VM shapes
have names of the writer's choice."""

NOT_ENFORCED = {
    "custody": "required",
    "market": "contract",
}
"""Tables of which this version of Umay enforces nothing, with the key that says so."""


def read(data: bytes) -> Policy:
    """Raises ParseError naming the first key that is absent, unknown or wrong."""
    document = toml.read(data, what="policy", limit=MAX_POLICY_BYTES)
    _check_version(Section("", document).number("version"))
    top = _section("", document)
    top.take("version")
    policy = _policy(top)
    top.finish()
    return policy


def _section(name: str, value: object) -> Section:
    return Section(name, value, KEYS.get(name))


def _check_version(version: int) -> None:
    if version == 1:
        raise ParseError(
            "policy: version: expected 2, got 1; `umay client policy convert FILE` writes it as "
            "version 2"
        )
    if version != VERSION:
        raise ParseError(f"policy: version: expected {VERSION}, got {version}")


def _policy(top: Section) -> Policy:
    names = ("network", "freshness", "cpu", "gpu", "channel")
    network, fresh, cpu, gpu, channel = parts = [_section(name, top.take(name)) for name in names]
    snp = _section("cpu.snp", cpu.take("snp"))
    for name, key in NOT_ENFORCED.items():
        _nothing(top, name, key)
    policy = Policy(
        network=network.text("id"),
        log_contract=network.account("log_contract"),
        log_code_hash=network.digest("log_code_hash"),
        log_origin=network.origin("log_origin"),
        log_key=network.digest("log_key"),
        anchor=network.text("anchor", "reported", "proven"),
        max_anchor_age_s=network.number("max_anchor_age_s"),
        registry=_registry(top),
        witnesses=_witnesses(top),
        max_beacon_age_s=fresh.number("max_beacon_age_s"),
        challenge=fresh.text("challenge", "required", "optional"),
        platforms=cpu.words("platforms", frozenset(PLATFORMS)),
        tcb_status=cpu.words("tcb_status", TCB_STATUSES),
        refuse_advisories=cpu.advisories("refuse_advisories"),
        min_tcb_evaluation_number=cpu.number("min_tcb_evaluation_number"),
        max_collateral_age_s=cpu.number("max_collateral_age_s"),
        families=cpu.unless_any("families", cpu.words),
        instances=cpu.unless_any("instances", cpu.instances),
        snp_signers=snp.words("signers", SNP_SIGNERS),
        snp_min_tcb=snp.unless_any("min_tcb", lambda key: _floor(snp.take(key))),
        snp_alias_check=snp.text("alias_check", "required", ANY) == "required",
        gpu_count=gpu.unless_any("count", gpu.number),
        gpu_architectures=gpu.unless_any("architectures", gpu.words),
        gpu_min_driver=gpu.unless_any("min_driver", gpu.version),
        gpu_revocation=gpu.text("revocation", "required", "unsafe-unchecked"),
        releases=tuple(_release(item) for item in _tables(top, "release")),
        models=tuple(_model(item) for item in _tables(top, "model")),
        pq=channel.text("pq", "required", "preferred"),
        simulated_roots=_unsafe(top),
    )
    for part in (*parts, snp):
        part.finish()
    _check_sources(policy)
    _check_others(policy)
    return policy


def _registry(top: Section) -> RegistryRules | None:
    section = _section("registry", top.take("registry"))
    if section.is_none("contract"):
        return None
    rules = RegistryRules(
        contract=section.account("contract"),
        code_hash=section.digest("code_hash"),
        releases=section.text("releases", *SOURCES),
        models=section.text("models", *SOURCES),
    )
    section.finish()
    return rules


def _witnesses(top: Section) -> WitnessRules | None:
    section = _section("witnesses", top.take("witnesses"))
    if section.is_none("required"):
        return None
    rules = WitnessRules(
        required=section.number("required"),
        max_age_s=section.number("max_age_s"),
        witnesses=tuple(_witness(item) for item in _tables(section, "witness")),
    )
    section.finish()
    if not 0 < rules.required <= len(rules.domains):
        raise ParseError(
            f"policy: [witnesses] required: expected 1 to {len(rules.domains)}, the number of "
            f'domains of its witnesses, or "{NONE}", got {rules.required}'
        )
    if len({key.public_key for key, _ in rules.witnesses}) != len(rules.witnesses):
        raise ParseError("policy: [[witnesses.witness]] key: expected each key once, got one twice")
    return rules


def _witness(value: object) -> tuple[VerifierKey, str]:
    section = _section("witnesses.witness", value)
    try:
        key = VerifierKey.from_text(section.text("key"), COSIGNATURE)
    except ParseError as error:
        raise ParseError(f"policy: [[witnesses.witness]] key: {error}") from None
    domain = section.domain("domain")
    section.finish()
    return key, domain


def _check_sources(policy: Policy) -> None:
    """A [[release]] or [[model]] is left to the Registry where [registry] says so, and only there:
    then it is the only one, which names all that the Registry allows."""
    rules = policy.registry
    for key, source, slots in (
        ("release", rules.releases if rules else FILE, [r.by_registry for r in policy.releases]),
        ("model", rules.models if rules else FILE, [d is None for _, d in policy.models]),
    ):
        what = "shapes" if key == "release" else "digest"
        if source == REGISTRY and slots != [True]:
            raise ParseError(
                f'policy: [[{key}]]: expected exactly one, with {what} = "{REGISTRY}", because '
                f'[registry] {key}s is "{REGISTRY}"'
            )
        if source != REGISTRY and any(slots):
            raise ParseError(
                f'policy: [[{key}]] {what}: "{REGISTRY}" needs [registry] {key}s = "{REGISTRY}", '
                f'which is {source}; with "{FILE}" and "{BOTH}" this file lists its own'
            )


def _check_others(policy: Policy) -> None:
    """A log cannot be its own witness: it signs whatever it shows."""
    rules = policy.witnesses
    if rules and policy.log_key in {key.public_key for key, _ in rules.witnesses}:
        raise ParseError(
            "policy: [[witnesses.witness]] key: expected keys of others than the log, got "
            "[network] log_key"
        )


def _nothing(top: Section, name: str, key: str) -> None:
    """A table whose one key says "none". Raises ParseError where it says another thing."""
    section = _section(name, top.take(name))
    if not section.is_none(key):
        raise ParseError(
            f'policy: [{name}] {key}: expected "{NONE}", the one value that this version of Umay '
            f"can enforce, got {shown(section.take(key))}"
        )


def _floor(value: object) -> Mapping[str, int]:
    """The least SVN, 0 to 255, of each part of an SNP TCB."""
    section = _section("cpu.snp.min_tcb", value)
    floor = {part: section.number(part) for part in SNP_TCB_PARTS}
    section.finish()
    if max(floor.values()) > 255:
        raise ParseError(
            f"policy: [{section.name}]: expected SVNs from 0 to 255, got {max(floor.values())}"
        )
    return MappingProxyType(floor)


def _tables(top: Section, key: str) -> list[Any]:
    value = top.values.pop(key, None)
    if not isinstance(value, list) or not value:
        raise ParseError(f"policy: [[{key}]]: expected at least one, got none")
    return value


def _release(value: object) -> Release:
    section = _section("release", value)
    release = Release(
        name=section.text("name"),
        shapes=_shapes(section),
        launch_ids=section.digests("launch_ids"),
        engine_configs=section.unless_any("engine_configs", section.digests),
        host_configs=section.unless_any("host_configs", section.digests),
    )
    section.finish()
    return release


def _shapes(release: Section) -> Mapping[str, frozenset[bytes]]:
    value = release.take("shapes")
    if value == REGISTRY:
        return MappingProxyType({})
    section = _section("release.shapes", value)
    shapes = {name: section.digests(name) for name in section.names()}
    if not shapes or not all(shapes.values()):
        raise ParseError(
            "policy: [release.shapes]: expected measurements for each VM shape, they are absent"
        )
    return MappingProxyType(shapes)


def _model(value: object) -> tuple[str, bytes | None]:
    section = _section("model", value)
    model = section.text("name"), section.unless("digest", REGISTRY, section.digest)
    section.finish()
    return model


def _unsafe(top: Section) -> Roots | None:
    if "unsafe" not in top.values:
        return None
    unsafe = _section("unsafe", top.take("unsafe"))
    section = _section("unsafe.simulated_roots", unsafe.take("simulated_roots"))
    roots = Roots(
        intel=section.digests("intel"),
        amd=section.digests("amd"),
        nvidia_device=section.digests("nvidia_device"),
        nvidia_rim=section.digests("nvidia_rim"),
        simulated=True,
    )
    section.finish()
    unsafe.finish()
    return roots
