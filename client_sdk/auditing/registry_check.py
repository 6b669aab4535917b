"""Checks every machine's release and model against a Registry, as of its own time and now.

A release that was not listed, or was revoked, at the machine's own time is a violation. One that
was revoked later is a finding. The judgement is that of the verification plan's step "registry".
"""

from __future__ import annotations

from attestation.errors import Refused, UmayError, Unavailable
from attestation.trust.registry import GUEST, KIND_NAMES, MODEL, RegistrySnapshot
from client_sdk.auditing.results import MACHINES, Audit
from contracts.chain import ReadOnlyChain
from contracts.registry import read_registry


def read_named(audit: Audit, chain: ReadOnlyChain, address: str) -> RegistrySnapshot | None:
    """The Registry at `address`; None where it cannot be read, which the audit then says."""
    try:
        return read_registry(chain, address=address)
    except Unavailable as error:
        audit.incomplete("registry-unavailable", str(error))
    except UmayError as error:
        audit.violation("registry", str(error))
    return None


def check_registry(audit: Audit, registry: RegistrySnapshot, *, releases: str, models: str) -> None:
    """Every verified machine of `audit`; `releases` and `models` say who has to allow them, as in
    the policy."""
    for entry in audit.entries:
        if entry.kind not in MACHINES or entry.since is None:
            continue
        for kind, text, source in (
            (GUEST, entry.measurement, releases),
            (MODEL, entry.model, models),
        ):
            digest = bytes.fromhex(text)
            then = _refusal(registry.as_of(entry.since), kind, digest, source)
            now = _refusal(registry.as_of(audit.at), kind, digest, source)
            _tell(audit, entry.index, KIND_NAMES[kind], then, now)


def _tell(audit: Audit, index: int, what: str, then: Refused | None, now: Refused | None) -> None:
    if then is not None:
        text = f"entry {index}: its {what} was not allowed at its time: {then.message}"
        audit.violation(f"{then.code}-{what}", text, index)
    elif now is not None:
        text = f"entry {index}: its {what} was allowed then, but not later: {now.message}"
        audit.finding(f"{now.code}-{what}", text, index)


def _refusal(registry: RegistrySnapshot, kind: int, digest: bytes, source: str) -> Refused | None:
    try:
        registry.check(kind, digest, source=source)
    except Refused as refusal:
        return refusal
    return None
