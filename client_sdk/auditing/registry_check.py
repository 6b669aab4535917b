"""Checks every machine's release and model against a Registry, as of its own time and now.

A release that was not listed, or was revoked, at the machine's own time is a violation. One that
was revoked later is a finding.
"""

from __future__ import annotations

from attestation.errors import UmayError, Unavailable
from attestation.formats.dates import dated
from client_sdk.auditing.results import MACHINES, Audit
from contracts.chain import ReadOnlyChain
from contracts.registry import GUEST, MODEL, Entry, RegistryState, read_registry


def check_registry(audit: Audit, chain: ReadOnlyChain, address: str) -> None:
    """Every verified machine of `audit`, against the Registry at `address`."""
    try:
        state, _ = read_registry(chain, address=address)
    except Unavailable as error:
        audit.incomplete("registry-unavailable", str(error))
        return
    except UmayError as error:
        audit.violation("registry", str(error))
        return
    for entry in audit.entries:
        if entry.kind not in MACHINES or entry.since is None:
            continue
        listed = ((GUEST, "release", entry.measurement), (MODEL, "model", entry.model))
        for kind, what, digest in listed:
            found = _listed(state, kind, digest)
            _then(audit, entry.index, what, found, entry.since)


def _listed(state: RegistryState, kind: int, digest: str) -> list[Entry]:
    wanted = bytes.fromhex(digest)
    return [e for e in state.entries.values() if e.kind == kind and wanted in e.digests]


def _then(audit: Audit, index: int, what: str, listed: list[Entry], since: int) -> None:
    if not any(entry.allowed_at(since) for entry in listed):
        code, text = _why(listed, since)
        audit.violation(f"{code}-{what}", f"entry {index}: its {what} {text}", index)
    elif not any(entry.allowed_at(audit.at) for entry in listed):
        _, text = _why(listed, audit.at)
        audit.finding(
            f"revoked-{what}",
            f"entry {index}: its {what} was allowed then, but {text} later",
            index,
        )


def _why(listed: list[Entry], moment: int) -> tuple[str, str]:
    """Why none of these allowed it at `moment`."""
    if not listed:
        return "unlisted", "is in no entry of the Registry"
    revoked = [entry for entry in listed if 0 < entry.revoked_at <= moment]
    if revoked:
        last = max(revoked, key=lambda entry: entry.revoked_at)
        return "revoked", f"was revoked at {dated(last.revoked_at)}, reason {last.reason}"
    first = min(entry.active_from for entry in listed)
    return "early", f"is allowed only from {dated(first)}"
