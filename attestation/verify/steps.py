"""The steps of the verification plan, in its order. `verifier` says when each runs.

A step returns one line for people or raises: NotAuthentic, Refused, ParseError, or
NotChecked where a step it builds on has not passed. Steps share a Case, on which each
leaves what it established. The step "log" stands in `log_step`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attestation import nvidia
from attestation.errors import (
    NotAuthentic,
    NotChecked,
    ParseError,
    Refused,
    VerificationError,
)
from attestation.formats.dates import dated, in_future, lapse, too_old
from attestation.formats.digests import engine_digest, host_config_digest, price_digest
from attestation.formats.evidence import (
    GPU,
    Evidence,
    evidence_digest,
    fresh_published,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.json import object_of
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.measurement import measurement_digest
from attestation.nvidia import CheckedDevice
from attestation.platforms.registry import parse_cpu
from attestation.trust.anchor import BlockRef, reaches
from attestation.trust.policy import accept
from attestation.trust.registry import REGISTRY
from attestation.verify.case import Case
from attestation.verify.reading import MAX_CLOCK_SKEW_S, level_text
from attestation.verify.session_step import session
from attestation.verify.verdict import Finding
from attestation.wire import MAX_CONFIG_BYTES

MAX_BUNDLE_LIFE_S = 7200


def parse(case: Case) -> str:
    """Evidence, its KeyBundle and its quote or report are read strictly, and are for this network.

    Source: docs/spec/formats.md; the quote's layout is Intel's TDX DCAP quote, version 4 or 5,
    the report's is AMD 56860's ATTESTATION_REPORT.
    """
    case.evidence = Evidence.from_bytes(case.evidence_bytes)
    case.evidence_digest = evidence_digest(case.evidence_bytes)
    case.bundle = KeyBundle.from_bytes(case.evidence.bundle)
    if case.bundle.network != case.policy.network:
        raise Refused(
            "parse",
            "wrong-network",
            f"KeyBundle B[9]: expected network {case.policy.network!r} (policy [network] id), "
            f"got {case.bundle.network!r}",
        )
    case.cpu = parse_cpu(case.evidence)
    case.name(platform=case.evidence.platform)
    size = len(case.evidence_bytes)
    return f"{case.evidence.platform.upper()}, {len(case.evidence.devices)} device(s), {size} bytes"


def cpu_signature(case: Case) -> str:
    """The quote or report is signed by a key whose certificate chain leads to a pinned root.

    Source: Intel SGX PCK Certificate and CRL Profile; AMD 57230 (VCEK) and 56860; RFC 5280 §6.1.
    """
    case.needs("parse")
    text = case.cpu.check_signature(roots=case.policy.roots, now=case.now)
    case.expiries.append(case.cpu.certificates_expire)
    return text


def cpu_attributes(case: Case) -> str:
    """The guest runs in production mode, on a platform and a machine that the policy accepts.

    Source: TD attributes of the Intel TDX module; guest policy and VMPL of AMD 56860.
    """
    case.needs("parse")
    accept("cpu-attributes", "platform", case.evidence.platform, case.policy.platforms)
    return case.cpu.check_attributes(case.policy)


def cpu_tcb(case: Case) -> str:
    """The platform's TCB is as new as the policy demands, by the vendor's current, signed lists.

    Source: Intel's TCB info, QE identity and CRLs, matched by dcap-qvl; AMD's reported and
    committed TCB versions (56860) and the ARK's CRL (57230).
    """
    # dcap-qvl refuses a TD by its attributes before it judges the TCB.
    case.needs("cpu-signature", "cpu-attributes")
    tcb = case.cpu.check_tcb(case.collateral, case.policy, now=case.now)
    most = case.policy.max_collateral_age_s
    if case.now - tcb.issued > most:
        text = too_old("the collateral", tcb.issued, case.now, most)
        text += " (policy [cpu] max_collateral_age_s); fetch it anew"
        raise Refused("cpu-tcb", "collateral-too-old", text)
    case.expiries += [tcb.expires, tcb.issued + most]
    case.tcb_issued = tcb.issued
    return tcb.text


def measurement(case: Case) -> str:
    """The machine measured a release that the policy lists, and the host config that is served.

    A release that the policy leaves to the Registry is judged by the step "registry".

    Source: MRTD and RTMR0 to RTMR3 of the Intel TDX module with the TCG event log (CCEL);
    MEASUREMENT and HOST_DATA of AMD 56860; docs/spec/formats.md has the digest over them.
    """
    case.needs("parse")
    booted = case.cpu.check_boot(case.evidence, case.host_bytes)
    digest, expected = host_config_digest(case.host_bytes), case.bundle.host_config_digest
    if digest != expected:
        text = _other_digest("host config", "B[14]", expected, digest)
        raise NotAuthentic("measurement", "host-config-mismatch", text)
    case.measurement_digest = measurement_digest(case.evidence.platform, case.cpu.registers)
    others: list[str] = []
    for release in case.policy.releases:
        shape = REGISTRY if release.by_registry else release.shape(case.measurement_digest)
        if shape is None:
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
        got = case.cpu.launch_id.hex() if case.cpu.launch_id else "none"
        text = f"launch id: expected one that release {', '.join(others)} allows, got {got}"
        raise Refused("measurement", "launch-id", text)
    got = case.measurement_digest.hex()
    text = f"measurement digest: expected one of a [[release]] of the policy, got {got}"
    raise Refused("measurement", "unknown-measurement", text)


def binding(case: Case) -> str:
    """REPORT_DATA[0:32] is the digest of this KeyBundle and of every device's report.

    Source: docs/spec/formats.md, "Binding".
    """
    case.needs("parse")
    expected, got = _binding(case), case.cpu.report_data[:32]
    if not hmac.compare_digest(got, expected):
        text = f"REPORT_DATA[0:32]: expected {expected.hex()} for this KeyBundle and these "
        text += f"devices, got {got.hex()}"
        raise NotAuthentic("binding", "wrong-report-data", text)
    return "the quote names this key bundle and every device report"


def _binding(case: Case) -> bytes:
    e = gpu_evidence_digest(case.evidence.devices)
    return report_data_binding(bundle_digest(case.evidence.bundle), e)


def freshness(case: Case) -> str:
    """The quote and its keys are younger than a block of the chain that is itself recent enough.

    REPORT_DATA[32:64] names the block; a session, where there is one, is of the same machine.
    Source: docs/spec/formats.md, "Binding".
    """
    case.needs("parse")
    beacon, bundle = case.beacon, case.bundle
    if beacon is None:
        raise NotChecked("beacon block: expected one that was read from the chain, got none")
    expected, got = fresh_published(bundle.beacon[1]), case.cpu.report_data[32:]
    if not hmac.compare_digest(got, expected):
        text = f"REPORT_DATA[32:64]: expected {expected.hex()} for the beacon block that the "
        text += f"KeyBundle names, got {got.hex()}"
        raise NotAuthentic("freshness", "wrong-report-data", text)
    _beacon(case, beacon)
    _validity(case, beacon)
    asked = session(case)
    age = max(0, case.now - beacon.utime)
    return f"beacon block {beacon.seqno} ({beacon.level}), {age} s old{asked}"


def _beacon(case: Case, beacon: BlockRef) -> None:
    seqno, root_hash = case.bundle.beacon
    if (beacon.seqno, beacon.root_hash) != (seqno, root_hash):
        text = f"beacon block {seqno}: expected root hash {root_hash.hex()} (KeyBundle B[10]), "
        text += f"the chain has {beacon.root_hash.hex()} at block {beacon.seqno}"
        raise NotAuthentic("freshness", "unknown-beacon", text)
    if not reaches(beacon.level, case.policy.anchor):
        text = level_text(f"beacon block {seqno}", case.policy.anchor, beacon.level)
        raise Refused("freshness", "beacon-level", text)
    if beacon.utime > case.now + MAX_CLOCK_SKEW_S:
        text = in_future("the beacon", beacon.utime, case.now)
        raise Refused("freshness", "beacon-in-future", text)
    most = case.policy.max_beacon_age_s
    if case.now - beacon.utime > most:
        text = too_old("the beacon", beacon.utime, case.now, most)
        text += " (policy [freshness] max_beacon_age_s)"
        raise Refused("freshness", "beacon-too-old", text)


def _validity(case: Case, beacon: BlockRef) -> None:
    bundle, of_beacon = case.bundle, f"the beacon block of {dated(beacon.utime)}"
    if bundle.not_before < beacon.utime - MAX_CLOCK_SKEW_S:
        text = f"not_before, B[7]: expected at most {MAX_CLOCK_SKEW_S} s before {of_beacon}"
        text = f"KeyBundle {text}, got {dated(bundle.not_before)}"
        raise Refused("freshness", "dated-before-beacon", text)
    if bundle.not_after > beacon.utime + MAX_BUNDLE_LIFE_S:
        text = f"not_after, B[8]: expected at most {MAX_BUNDLE_LIFE_S} s after {of_beacon}"
        text = f"KeyBundle {text}, got {dated(bundle.not_after)}"
        raise Refused("freshness", "lives-too-long", text)
    window = bundle.not_before, bundle.not_after
    if found := lapse(window, case.now, skew=MAX_CLOCK_SKEW_S):
        word, text = found
        raise Refused("freshness", word, f"the keys of the KeyBundle are {text}")
    case.expiries += [bundle.not_after, beacon.utime + case.policy.max_beacon_age_s]


def gpu(case: Case) -> str:
    """Every GPU and switch answers this KeyBundle's nonce with firmware that NVIDIA published.

    Source: SPDM 1.1 (DMTF DSP0274) for reports; NVIDIA's RIMs for firmware; RFC 6960 (OCSP) for
    revocation. docs/spec/gpu-evidence.md has each check.
    """
    case.needs("parse")
    policy, roots = case.policy, case.policy.roots
    devices = case.evidence.devices
    count = sum(device.kind == GPU for device in devices)
    if count != case.bundle.gpu_count:
        text = f"devices: expected {case.bundle.gpu_count} GPUs (KeyBundle B[6]), got {count}"
        raise NotAuthentic("gpu", "wrong-count", text)
    if policy.gpu_count is not None and count != policy.gpu_count:
        text = f"devices: expected {policy.gpu_count} GPUs (policy [gpu] count), got {count}"
        raise Refused("gpu", "wrong-count", text)
    nonce = gpu_nonce(bundle_digest(case.evidence.bundle))
    checked: list[CheckedDevice] = []
    for number, device in enumerate(devices, 1):
        with _device(number, len(devices)):
            checked.append(nvidia.check_device(device, nonce=nonce, roots=roots, now=case.now))
    nvidia.check_set(checked)
    for number, found in enumerate(checked, 1):
        with _device(number, len(checked)):
            _gpu(case, found)
    if checked and policy.gpu_revocation != "required":
        text = "GPU revocation is not checked (policy [gpu] revocation)"
        case.findings.append(Finding("gpu", "revocation-unchecked", text))
    return f"{count} GPU(s): signed, right nonce, firmware as published"


@contextmanager
def _device(number: int, count: int) -> Iterator[None]:
    """Errors inside say which device of the Evidence they are about, counted from 1."""
    where = f"device {number} of {count}"
    try:
        yield
    except VerificationError as error:
        error.message = f"{where}: {error.message}"
        raise
    except ParseError as error:
        raise ParseError(f"{where}: {error}") from None


def _gpu(case: Case, device: CheckedDevice) -> None:
    policy, collateral, now = case.policy, case.collateral, case.now
    accept("gpu", "architecture", device.architecture, policy.gpu_architectures)
    nvidia.check_driver(device, minimum=policy.gpu_min_driver)
    firmware = nvidia.check_measurements(device, collateral, roots=policy.roots, now=now)
    case.expiries += [firmware.expires, device.certificates_expire]
    if policy.gpu_revocation == "required":
        case.expiries.append(nvidia.check_revocation(device, firmware, collateral, now=now))


def model(case: Case) -> str:
    """The model's digest is one that the policy lists, or leaves to the Registry.

    Source: docs/spec/formats.md.
    """
    case.needs("parse")
    got = case.bundle.model_digest.hex()
    for name, digest in case.policy.models:
        if digest is None or hmac.compare_digest(digest, case.bundle.model_digest):
            case.model_name = name
            case.name(model=name)
            return f"{name}, digest {got[:16]}…" + ("" if digest else ", if the Registry allows it")
    text = f"model digest, B[4]: expected one of a [[model]] of the policy, got {got}"
    raise Refused("model", "unknown-model", text)


def engine(case: Case) -> str:
    """Engine config and price table are those that the KeyBundle names, and the release of the
    measurement step lists the engine config and the host config. Source: docs/spec/formats.md."""
    case.needs("parse")
    got, expected = engine_digest(case.engine_bytes), case.bundle.engine_digest
    if got != expected:
        text = _other_digest("engine config", "B[5]", expected, got)
        raise NotAuthentic("engine", "config-mismatch", text)
    got, expected = price_digest(case.price_bytes), case.bundle.price_digest
    if got != expected:
        text = _other_digest("price table", "B[13]", expected, got)
        raise NotAuthentic("engine", "price-mismatch", text)
    case.engine_config = _json("engine config", case.engine_bytes)
    case.price_table = _json("price table", case.price_bytes)
    case.needs("measurement")
    release = case.release
    for what, accepted, digest in (
        ("engine config", release.engine_configs, case.bundle.engine_digest),
        ("host config", release.host_configs, case.bundle.host_config_digest),
    ):
        if accepted is not None and digest not in accepted:
            text = f"expected a digest that release {release.name} lists, got {digest.hex()}"
            raise Refused("engine", "unknown-config", f"{what}: {text}")
    name = str(case.engine_config.get("engine", "engine"))
    case.name(engine=name)
    return f"{name}, accepted by release {release.name}"


def validity(case: Case) -> str:
    """The result holds until the first of keys, certificates, collateral, beacon and anchor ends.

    Source: docs/spec/formats.md and the policy's ages (docs/spec/policy.md).
    """
    case.needs("log")
    case.valid_until = min(case.expiries)
    if case.valid_until <= case.now:
        text = "expected keys, certificates, collateral and anchor that are valid after now, "
        text += f"{dated(case.now)}; the first of them ended at {dated(case.valid_until)}"
        raise Refused("mint", "expired", text)
    return f"valid for {case.valid_until - case.now} s"


def _other_digest(what: str, key: str, expected: bytes, got: bytes) -> str:
    return f"{what}: expected digest {expected.hex()} (KeyBundle {key}), got {got.hex()}"


def _json(what: str, data: bytes) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise ParseError(f"{what}: expected at most {MAX_CONFIG_BYTES} bytes, got {len(data)}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ParseError(f"{what}: expected JSON, got bytes that are not JSON") from None
    return object_of(value, what=what)
