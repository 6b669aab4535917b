"""The steps of the verification plan, in its order. `verifier` says when each runs.

A step returns one line for people or raises: NotAuthentic, Refused, ParseError, or
NotChecked where a step it builds on has not passed. Steps share a Case, on which each
leaves what it established.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from attestation import nvidia
from attestation.errors import NotAuthentic, NotChecked, ParseError, Refused
from attestation.formats.address import same_account
from attestation.formats.dates import dated, in_future, lapse, too_old
from attestation.formats.digests import engine_digest, host_config_digest, price_digest
from attestation.formats.evidence import (
    GPU,
    Evidence,
    evidence_digest,
    fresh_challenged,
    fresh_published,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.log import proof as log_proof
from attestation.log.leaf import Leaf
from attestation.nvidia import CheckedDevice
from attestation.platforms.registry import parse_cpu
from attestation.trust.anchor import Anchor, BlockRef, reaches
from attestation.trust.policy import accept
from attestation.verify.case import Case
from attestation.verify.verdict import Finding
from attestation.wire import MAX_CONFIG_BYTES

MAX_CLOCK_SKEW_S = 60
MAX_BUNDLE_LIFE_S = 7200


def parse(case: Case) -> str:
    case.evidence = Evidence.from_bytes(case.evidence_bytes)
    case.evidence_digest = evidence_digest(case.evidence_bytes)
    case.bundle = KeyBundle.from_bytes(case.evidence.bundle)
    if case.bundle.network != case.policy.network:
        raise Refused(
            "parse",
            "wrong-network",
            f"expected network {case.policy.network}, got {case.bundle.network}",
        )
    case.cpu = parse_cpu(case.evidence)
    case.name(platform=case.evidence.platform)
    size = len(case.evidence_bytes)
    return f"{case.evidence.platform.upper()}, {len(case.evidence.devices)} device(s), {size} bytes"


def cpu_signature(case: Case) -> str:
    case.needs("parse")
    text = case.cpu.check_signature(roots=case.policy.roots, now=case.now)
    case.expiries.append(case.cpu.certificates_expire)
    return text


def cpu_attributes(case: Case) -> str:
    case.needs("parse")
    accept("cpu-attributes", "platform", case.evidence.platform, case.policy.platforms)
    return case.cpu.check_attributes(case.policy)


def cpu_tcb(case: Case) -> str:
    # dcap-qvl refuses a TD by its attributes before it judges the TCB.
    case.needs("cpu-signature", "cpu-attributes")
    standing = case.cpu.check_tcb(case.collateral, case.policy, now=case.now)
    most = case.policy.max_collateral_age_s
    if case.now - standing.issued > most:
        text = too_old("the collateral", standing.issued, case.now, most)
        raise Refused("cpu-tcb", "collateral-too-old", text)
    case.expiries += [standing.expires, standing.issued + most]
    case.tcb_issued = standing.issued
    return standing.text


def measurement(case: Case) -> str:
    case.needs("parse")
    booted = case.cpu.check_boot(case.evidence, case.host_bytes)
    if host_config_digest(case.host_bytes) != case.bundle.host_config_digest:
        raise NotAuthentic(
            "measurement", "host-config-mismatch", "host config served is not the one in B[14]"
        )
    case.measurement_digest = measurement_digest(case.evidence.platform, case.cpu.registers)
    others: list[str] = []
    for release in case.policy.releases:
        if (shape := release.shape(case.measurement_digest)) is None:
            continue
        launch = case.cpu.launch_id
        known = launch is None or case.policy.names_launch(launch)  # else cpu-attributes refuses
        if known and not release.allows_launch(launch):
            others.append(release.name)
            continue
        case.release = release
        case.name(release=release.name, shape=shape)
        return f"release {release.name}, {shape}; {booted}"
    if others:
        text = f"what the host set at launch is not named by release {', '.join(others)}"
        raise Refused("measurement", "launch-id", text)
    raise Refused(
        "measurement",
        "unknown-measurement",
        f"{case.measurement_digest.hex()} belongs to no accepted release",
    )


def binding(case: Case) -> str:
    case.needs("parse")
    expected = _binding(case)
    if not hmac.compare_digest(case.cpu.report_data[:32], expected):
        raise NotAuthentic(
            "binding", "wrong-report-data", "REPORT_DATA[0:32] does not name these keys and devices"
        )
    return "the quote names this key bundle and every device report"


def _binding(case: Case) -> bytes:
    e = gpu_evidence_digest(case.evidence.devices)
    return report_data_binding(bundle_digest(case.evidence.bundle), e)


def freshness(case: Case) -> str:
    case.needs("parse")
    beacon, bundle = case.beacon, case.bundle
    if beacon is None:
        raise NotChecked("no beacon block was read")
    if not hmac.compare_digest(case.cpu.report_data[32:], fresh_published(bundle.beacon[1])):
        raise NotAuthentic(
            "freshness", "wrong-report-data", "REPORT_DATA[32:64] does not name the beacon"
        )
    _beacon(case, beacon)
    _validity(case, beacon)
    challenged = _challenge(case)
    age = max(0, case.now - beacon.utime)
    return f"beacon block {beacon.seqno} ({beacon.level}), {age} s old{challenged}"


def _beacon(case: Case, beacon: BlockRef) -> None:
    if (beacon.seqno, beacon.root_hash) != case.bundle.beacon:
        raise NotAuthentic("freshness", "unknown-beacon", "the chain has another block there")
    if not reaches(beacon.level, case.policy.anchor):
        raise Refused("freshness", "beacon-level", f"expected {case.policy.anchor}")
    if beacon.utime > case.now + MAX_CLOCK_SKEW_S:
        text = in_future("the beacon", beacon.utime, case.now)
        raise Refused("freshness", "beacon-in-future", text)
    most = case.policy.max_beacon_age_s
    if case.now - beacon.utime > most:
        text = too_old("the beacon", beacon.utime, case.now, most)
        raise Refused("freshness", "beacon-too-old", text)


def _validity(case: Case, beacon: BlockRef) -> None:
    bundle, of_beacon = case.bundle, f"their beacon of {dated(beacon.utime)}"
    if bundle.not_before < beacon.utime - MAX_CLOCK_SKEW_S:
        text = f"the keys count from {dated(bundle.not_before)}, before {of_beacon}"
        raise Refused("freshness", "dated-before-beacon", text)
    if bundle.not_after > beacon.utime + MAX_BUNDLE_LIFE_S:
        text = f"the keys count until {dated(bundle.not_after)}, more than {MAX_BUNDLE_LIFE_S} s"
        raise Refused("freshness", "lives-too-long", f"{text} after {of_beacon}")
    window = bundle.not_before, bundle.not_after
    if found := lapse(window, case.now, skew=MAX_CLOCK_SKEW_S):
        word, text = found
        raise Refused("freshness", word, f"the keys: {text}")
    case.expiries += [bundle.not_after, beacon.utime + case.policy.max_beacon_age_s]


def _challenge(case: Case) -> str:
    if case.challenge is None:
        if case.policy.challenge == "required":
            raise Refused("freshness", "no-challenge", "the policy demands a challenge of our own")
        return ""
    case.needs("cpu-signature", "cpu-attributes")
    answer = case.cpu.answer(case.challenge.quote)
    answer.check_signature(roots=case.policy.roots, now=case.now)
    answer.check_attributes(case.policy)
    if not case.cpu.same_machine(answer):
        raise NotAuthentic(
            "freshness", "other-machine", "the challenge was answered by another machine or guest"
        )
    expected = case.cpu.report_data[:32] + fresh_challenged(case.challenge.nonce)
    if not hmac.compare_digest(answer.report_data, expected):
        raise NotAuthentic("freshness", "wrong-challenge", "the answer is to another challenge")
    return "; challenge answered"


def gpu(case: Case) -> str:
    case.needs("parse")
    policy, roots = case.policy, case.policy.roots
    devices = case.evidence.devices
    count = sum(device.kind == GPU for device in devices)
    if count != case.bundle.gpu_count:
        raise NotAuthentic("gpu", "wrong-count", f"expected {case.bundle.gpu_count}, got {count}")
    if policy.gpu_count is not None and count != policy.gpu_count:
        raise Refused("gpu", "wrong-count", f"policy expects {policy.gpu_count} GPUs, got {count}")
    nonce = gpu_nonce(bundle_digest(case.evidence.bundle))
    checked = [
        nvidia.check_device(device, nonce=nonce, roots=roots, now=case.now) for device in devices
    ]
    nvidia.check_set(checked)
    for device in checked:
        _gpu(case, device)
    if checked and policy.gpu_revocation != "required":
        text = "policy leaves GPU revocation unchecked"
        case.findings.append(Finding("gpu", "revocation-unchecked", text))
    return f"{count} GPU(s): signed, right nonce, firmware as published"


def _gpu(case: Case, device: CheckedDevice) -> None:
    policy, collateral, now = case.policy, case.collateral, case.now
    accept("gpu", "architecture", device.architecture, policy.gpu_architectures)
    nvidia.check_driver(device, minimum=policy.gpu_min_driver)
    firmware = nvidia.check_measurements(device, collateral, roots=policy.roots, now=now)
    case.expiries += [firmware.expires, device.certificates_expire]
    if policy.gpu_revocation == "required":
        case.expiries.append(nvidia.check_revocation(device, firmware, collateral, now=now))


def model(case: Case) -> str:
    case.needs("parse")
    for name, digest in case.policy.models:
        if hmac.compare_digest(digest, case.bundle.model_digest):
            case.model_name = name
            case.name(model=name)
            return f"{name}, digest {digest.hex()[:16]}…"
    raise Refused(
        "model", "unknown-model", f"{case.bundle.model_digest.hex()} is no accepted model"
    )


def engine(case: Case) -> str:
    case.needs("parse")
    if engine_digest(case.engine_bytes) != case.bundle.engine_digest:
        raise NotAuthentic("engine", "config-mismatch", "engine config served is not that in B[5]")
    if price_digest(case.price_bytes) != case.bundle.price_digest:
        raise NotAuthentic("engine", "price-mismatch", "price table served is not that in B[13]")
    case.engine_config = _json("engine config", case.engine_bytes)
    case.price_table = _json("price table", case.price_bytes)
    case.needs("measurement")
    release = case.release
    for what, accepted, digest in (
        ("engine config", release.engine_configs, case.bundle.engine_digest),
        ("host config", release.host_configs, case.bundle.host_config_digest),
    ):
        if accepted is not None and digest not in accepted:
            raise Refused("engine", "unknown-config", f"{what} is not of release {release.name}")
    name = str(case.engine_config.get("engine", "engine"))
    case.name(engine=name)
    return f"{name}, accepted by release {release.name}"


def log(case: Case) -> str:
    case.needs("parse")
    if case.anchor is None:
        raise NotChecked("no anchor was read")
    _anchor(case, case.anchor)
    if case.proof is None:
        raise Refused("log", "no-proof", "the host gave no proof that the log holds this evidence")
    leaf, checkpoint = log_proof.verify_proof(
        case.proof, origin=case.policy.log_origin, log_key=case.policy.log_key
    )
    if (checkpoint.size, checkpoint.root) != (case.anchor.size, case.anchor.root):
        raise NotAuthentic(
            "log", "other-history", "the proof's tree is not the one anchored on the chain"
        )
    _leaf(case, leaf)
    return f"in the anchored tree of {case.anchor.size} ({case.anchor.level})"


def _anchor(case: Case, anchor: Anchor) -> None:
    policy = case.policy
    pinned = (
        ("network", anchor.network == policy.network),
        ("contract", same_account(anchor.address, policy.log_contract)),
        ("code-hash", anchor.code_hash == policy.log_code_hash),
        ("origin", anchor.origin == policy.log_origin),
        ("log-key", anchor.log_key == policy.log_key),
    )
    for what, good in pinned:
        if not good:
            raise Refused("log", f"other-{what}", f"the anchor's {what} is not the pinned one")
    if anchor.forked:
        raise Refused("log", "forked", "the contract holds proof that this log forked")
    if not reaches(anchor.level, policy.anchor):
        raise Refused("log", "anchor-level", f"expected {policy.anchor}, got {anchor.level}")
    _anchor_age(anchor.read_at, case.now, policy.max_anchor_age_s)
    if case.beacon is not None and case.beacon.utime > anchor.read_at:
        read, beacon = dated(anchor.read_at), dated(case.beacon.utime)
        text = f"the anchor was read at {read}, before the beacon of {beacon}"
        raise Refused("log", "anchor-before-beacon", text)
    case.expiries.append(anchor.read_at + policy.max_anchor_age_s)


def _anchor_age(read_at: int, now: int, most: int) -> None:
    if read_at > now + MAX_CLOCK_SKEW_S:
        text = in_future("the reading of the anchor", read_at, now)
        raise Refused("log", "anchor-in-future", text)
    if now - read_at > most:
        text = too_old("the reading of the anchor", read_at, now, most)
        raise Refused("log", "anchor-too-old", text)


def _leaf(case: Case, data: bytes) -> None:
    leaf = Leaf.from_bytes(data)
    case.needs("parse")
    if "measurement" not in case.passed:
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
        if getattr(leaf, name) != getattr(expected, name):
            raise NotAuthentic("log", "other-leaf", f"the leaf's {name} is of other evidence")
    if leaf.kind not in (1, 2):
        raise NotAuthentic("log", "other-leaf", "the leaf is no boot and no renewal")


def validity(case: Case) -> str:
    case.needs("log")
    case.valid_until = min(case.expiries)
    if case.valid_until <= case.now:
        text = f"what it rests on counts until {dated(case.valid_until)}, now is {dated(case.now)}"
        raise Refused("mint", "expired", text)
    return f"valid for {case.valid_until - case.now} s"


def _json(what: str, data: bytes) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise ParseError(f"{what}: expected at most {MAX_CONFIG_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ParseError(f"{what}: not JSON") from None
    if not isinstance(value, dict):
        raise ParseError(f"{what}: expected a JSON object")
    return value
