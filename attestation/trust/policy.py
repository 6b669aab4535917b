"""The policy file: what this client, auditor or log accepts. TOML, version 1.

Every key must be written: an absent key is an error, and so is an unknown one.
Where everything is accepted the file says "any". Simulated roots stand in [unsafe]
alone, and a policy that has them accepts no vendor's root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from attestation.errors import ParseError, Refused
from attestation.formats import toml
from attestation.formats.address import canonical
from attestation.formats.origin import check_log_name
from attestation.formats.platform import PLATFORMS
from attestation.trust.roots import PRODUCTION, Roots

MAX_POLICY_BYTES = 256 * 1024
ANY = "any"
T = TypeVar("T")
_ADVISORY = re.compile(r"[A-Z]+-S[AB]-[0-9]+")
_INSTANCE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{128}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
SNP_SIGNERS = frozenset({"VCEK", "VLEK"})
TCB_STATUSES = frozenset(
    {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    }
)
"""Intel's words that a policy may accept; "Revoked" is not among them."""

SNP_TCB_PARTS = ("bootloader", "tee", "snp", "microcode")
"""Of every family; Turin's FMC is not among them."""


@dataclass(frozen=True)
class Release:
    """A named set of accepted digests; None stands for a written "any".

    `shapes` has the measurements of each VM shape: firmware measures the devices and memory
    it finds, so one release has several. `launch_ids` is empty where the host may set nothing.
    """

    name: str
    shapes: Mapping[str, frozenset[bytes]]
    launch_ids: frozenset[bytes]
    engine_configs: frozenset[bytes] | None
    host_configs: frozenset[bytes] | None

    def shape(self, measurement: bytes) -> str | None:
        """The VM shape that measures so, None where none does."""
        return next((name for name, listed in self.shapes.items() if measurement in listed), None)

    def allows_launch(self, launch: bytes | None) -> bool:
        """`launch` as of `measurement.launch_id`."""
        return launch in self.launch_ids if self.launch_ids else launch is None


@dataclass(frozen=True)
class Policy:
    """Fields as in the file (docs/spec/policy.md); ages in seconds, digests 32 bytes,
    `log_contract` the address's one form."""

    network: str
    log_contract: str
    log_code_hash: bytes
    log_origin: str
    log_key: bytes
    anchor: str
    max_anchor_age_s: int
    max_beacon_age_s: int
    challenge: str
    platforms: frozenset[str]
    tcb_status: frozenset[str]
    refuse_advisories: frozenset[str]
    min_tcb_evaluation_number: int
    max_collateral_age_s: int
    families: frozenset[str] | None
    instances: frozenset[str] | None
    snp_signers: frozenset[str]
    snp_min_tcb: Mapping[str, int] | None
    snp_alias_check: bool
    gpu_count: int | None
    gpu_architectures: frozenset[str] | None
    gpu_min_driver: str | None
    gpu_revocation: str
    releases: tuple[Release, ...]
    models: tuple[tuple[str, bytes], ...]
    pq: str
    simulated_roots: Roots | None

    @property
    def roots(self) -> Roots:
        """Vendors' roots, or only the simulator's where [unsafe] names them."""
        return self.simulated_roots or PRODUCTION

    def names_launch(self, launch: bytes | None) -> bool:
        """Whether any release names this launch id; which one is the measurement step's."""
        return any(launch in release.launch_ids for release in self.releases)

    @classmethod
    def from_toml(cls, data: bytes) -> Policy:
        """Raises ParseError naming the first key that is absent, unknown or wrong."""
        document = toml.read(data, what="policy", limit=MAX_POLICY_BYTES)
        top = _Section("", document)
        policy = _read(top)
        top.finish()
        return policy


def accept(step: str, what: str, got: str, accepted: frozenset[str] | None) -> None:
    """Raises Refused(step, "<what>-not-accepted") unless listed; None stands for "any"."""
    if accepted is not None and got not in accepted:
        expected = ", ".join(sorted(accepted)) if len(accepted) < 9 else f"{len(accepted)} values"
        text = f"{what}: expected one that the policy lists ({expected}), got {got}"
        raise Refused(step, f"{what}-not-accepted", text)


KEYS = {
    "": "version network freshness cpu gpu channel release model unsafe",
    "network": "id log_contract log_code_hash log_origin log_key anchor max_anchor_age_s",
    "freshness": "max_beacon_age_s challenge",
    "cpu": "platforms tcb_status refuse_advisories min_tcb_evaluation_number "
    "max_collateral_age_s families instances snp",
    "cpu.snp": "signers min_tcb alias_check",
    "cpu.snp.min_tcb": " ".join(SNP_TCB_PARTS),
    "gpu": "count architectures min_driver revocation",
    "channel": "pq",
    "release": "name launch_ids engine_configs host_configs shapes",
    "model": "name digest",
    "unsafe": "simulated_roots",
    "unsafe.simulated_roots": "intel amd nvidia_device nvidia_rim",
}
"""By table, so that a typo is named as one and not as the absence of what was meant. VM shapes
have names of the writer's choice."""


class _Section:
    """A table whose every key must be taken exactly once."""

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise ParseError(f"policy: [{name}]: expected a table, got another value")
        self.name, self.values = name, dict(value)
        if name in KEYS:
            toml.check_keys(value, KEYS[name].split(), where=self._place())

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise ParseError(
                f"{self._place()} {key}: expected a value, the key is absent; "
                'write it, or "any" where everything is accepted'
            )
        return self.values.pop(key)

    def text(self, key: str, *allowed: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or (allowed and value not in allowed):
            what = " or ".join(allowed) or "a string"
            raise ParseError(f"policy: [{self.name}] {key}: expected {what}, got {_short(value)}")
        return value

    def number(self, key: str) -> int:
        value = self.take(key)
        if type(value) is not int or not 0 <= value < 2**53:
            raise ParseError(
                f"policy: [{self.name}] {key}: expected a whole number from 0, got {_short(value)}"
            )
        return value

    def digest(self, key: str) -> bytes:
        return _hex32(f"[{self.name}] {key}", self.take(key))

    def words(self, key: str, allowed: frozenset[str] | None = None) -> frozenset[str]:
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ParseError(
                f"policy: [{self.name}] {key}: expected a list of strings, got another value"
            )
        unknown = set(value) - allowed if allowed is not None else set()
        if unknown:
            word = min(unknown)
            text = f"{word} is unknown; {toml.meant(word, allowed or ())}"
            raise ParseError(f"policy: [{self.name}] {key}: {text}")
        return frozenset(value)

    def digests(self, key: str) -> frozenset[bytes]:
        return frozenset(_hex32(f"[{self.name}] {key}", item) for item in self.words(key))

    def account(self, key: str) -> str:
        """The one form of an address in any spelling."""
        try:
            return canonical(self.text(key))
        except ParseError as error:
            raise ParseError(f"policy: [{self.name}] {key}: {error}") from None

    def origin(self, key: str) -> str:
        origin = self.text(key)
        try:
            check_log_name(origin)
        except ParseError as error:
            raise ParseError(f"policy: [{self.name}] {key}: {error}") from None
        return origin

    def advisories(self, key: str) -> frozenset[str]:
        """In the vendors' capitals. What no vendor names so would refuse nothing, unnoticed."""
        found = frozenset(item.upper() for item in self.words(key))
        self._all(key, found, _ADVISORY, "advisory ids such as INTEL-SA-00837")
        return found

    def instances(self, key: str) -> frozenset[str]:
        """PPIDs (16 bytes) and CHIP_IDs (64) in hex of either case."""
        found = frozenset(item.lower() for item in self.words(key))
        self._all(key, found, _INSTANCE, "PPIDs of 32 or CHIP_IDs of 128 hex digits")
        return found

    def _all(self, key: str, items: frozenset[str], form: re.Pattern[str], expected: str) -> None:
        for item in sorted(items):
            if not form.fullmatch(item):
                raise ParseError(f"policy: [{self.name}] {key}: expected {expected}, got {item!r}")

    def unless_any(self, key: str, read: Callable[[str], T]) -> T | None:
        """None where the file says "any", else what `read` takes."""
        if self.values.get(key) == ANY:
            del self.values[key]
            return None
        return read(key)

    def floor(self, key: str) -> Mapping[str, int]:
        """The least SVN, 0 to 255, of each part of an SNP TCB."""
        section = _Section(f"{self.name}.{key}", self.take(key))
        floor = {part: section.number(part) for part in SNP_TCB_PARTS}
        section.finish()
        if max(floor.values()) > 255:
            raise ParseError(
                f"policy: [{section.name}]: expected SVNs from 0 to 255, got {max(floor.values())}"
            )
        return MappingProxyType(floor)

    def finish(self) -> None:
        toml.check_keys(self.values, (), where=self._place())

    def _place(self) -> str:
        return f"policy: [{self.name}]" if self.name else "policy:"


def _read(top: _Section) -> Policy:
    if top.number("version") != 1:
        raise ParseError("policy: expected version 1, got another")
    names = ("network", "freshness", "cpu", "gpu", "channel")
    network, fresh, cpu, gpu, channel = parts = [_Section(name, top.take(name)) for name in names]
    snp = _Section("cpu.snp", cpu.take("snp"))
    policy = Policy(
        network=network.text("id"),
        log_contract=network.account("log_contract"),
        log_code_hash=network.digest("log_code_hash"),
        log_origin=network.origin("log_origin"),
        log_key=network.digest("log_key"),
        anchor=network.text("anchor", "reported", "proven"),
        max_anchor_age_s=network.number("max_anchor_age_s"),
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
        snp_min_tcb=snp.unless_any("min_tcb", snp.floor),
        snp_alias_check=snp.text("alias_check", "required", ANY) == "required",
        gpu_count=gpu.unless_any("count", gpu.number),
        gpu_architectures=gpu.unless_any("architectures", gpu.words),
        gpu_min_driver=gpu.unless_any("min_driver", gpu.text),
        gpu_revocation=gpu.text("revocation", "required", "unsafe-unchecked"),
        releases=tuple(_release(item) for item in _tables(top, "release")),
        models=tuple(_model(item) for item in _tables(top, "model")),
        pq=channel.text("pq", "required", "preferred"),
        simulated_roots=_unsafe(top),
    )
    for part in (*parts, snp):
        part.finish()
    return policy


def _tables(top: _Section, key: str) -> list[Any]:
    value = top.take(key)
    if not isinstance(value, list) or not value:
        raise ParseError(f"policy: [[{key}]]: expected at least one, got none")
    return value


def _release(value: object) -> Release:
    section = _Section("release", value)
    release = Release(
        name=section.text("name"),
        shapes=_shapes(section),
        launch_ids=section.digests("launch_ids"),
        engine_configs=section.unless_any("engine_configs", section.digests),
        host_configs=section.unless_any("host_configs", section.digests),
    )
    section.finish()
    return release


def _shapes(release: _Section) -> Mapping[str, frozenset[bytes]]:
    section = _Section("release.shapes", release.take("shapes"))
    shapes = {name: section.digests(name) for name in sorted(section.values)}
    if not shapes or not all(shapes.values()):
        raise ParseError(
            "policy: [release.shapes]: expected measurements for each VM shape, they are absent"
        )
    return MappingProxyType(shapes)


def _model(value: object) -> tuple[str, bytes]:
    section = _Section("model", value)
    model = section.text("name"), section.digest("digest")
    section.finish()
    return model


def _unsafe(top: _Section) -> Roots | None:
    if "unsafe" not in top.values:
        return None
    unsafe = _Section("unsafe", top.take("unsafe"))
    section = _Section("unsafe.simulated_roots", unsafe.take("simulated_roots"))
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


def _short(value: object) -> str:
    """A value of the file in an error, which may be as long as the file."""
    return repr(value)[:80]


def _hex32(where: str, value: object) -> bytes:
    if not isinstance(value, str) or not _HEX32.fullmatch(value):
        raise ParseError(f"policy: {where}: expected 64 lower-case hex digits, got another value")
    return bytes.fromhex(value)
