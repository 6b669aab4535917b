"""Makes an audit request from a command's options: endpoint, policy, today's collateral."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, UsageError
from attestation.formats.collateral import Collateral
from attestation.trust.policy import Policy
from attestation.vendors.archive import Archive
from attestation.wire import read_boot_id
from client_sdk import config
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.progress import ProgressDisplay
from client_sdk.auditing.state import AuditState, audit_digest
from client_sdk.auditing.tree import silent
from client_sdk.inspection.files import offered
from client_sdk.inspection.result import CheckInputs
from contracts.chain import raw_address
from contracts.endpoint import reading

DAY_S = 86_400


@dataclass(frozen=True)
class AuditRequest:
    """An auditor, and what it is asked to audit."""

    auditor: Auditor
    policy: Policy
    scope: AuditScope
    contract: str


def audit_request(
    contract: str,
    *,
    mirror: str | None = None,
    sample: int | None = None,
    state: Path | None = None,
    collateral: tuple[Path, ...] = (),
    archive: Path | None = None,
    registry: str | None = None,
    renewals_kept: int | None = None,
    progress: ProgressDisplay | None = None,
    **where: Any,
) -> AuditRequest:
    """`where` are the arguments of `config.load`. Raises UsageError for unusable options."""
    contract = raw_address(contract, "--contract")
    if registry is not None:
        registry = raw_address(registry, "--registry")
    found = config.load(url="-", **where)
    policy, now = config.read_policy(found.policy), int(time.time())
    current = _current(collateral, archive, policy, now)
    scope = AuditScope(
        sample=sample,
        now=now,
        current=current,
        progress=progress or silent,
        renewals_kept_s=None if renewals_kept is None else renewals_kept * DAY_S,
    )
    if state is not None:
        under = audit_digest(
            contract=contract,
            policy=found.policy.read_bytes(),
            collateral=current.manifest_digest() if current else None,
            now=now,
        )
        scope = dataclasses.replace(scope, state=AuditState(state, under))
    chain = reading(found.chain)
    auditor = Auditor(
        policy=policy, chain=chain, mirror=mirror, registry=registry, network=found.network
    )
    return AuditRequest(auditor, policy, scope, contract)


def _current(
    files: tuple[Path, ...], archive: Path | None, policy: Policy, now: int
) -> Collateral | None:
    """Parts from files replace those from the archive."""
    kept = Archive(_existing(archive)).current(now).parts if archive else {}
    given = offered(files, CheckInputs(now, policy.roots)).collateral if files else None
    if files and given is None:
        raise UsageError(f"{files[0]}: expected a file of vendor collateral")
    parts = {**kept, **(given.parts if given else {})}
    return Collateral(parts) if parts else None


def _existing(archive: Path) -> Path:
    if not archive.is_dir():
        raise UsageError(
            f"{archive}: expected an archive's directory; `umay audit fetch --archive` makes one"
        )
    return archive


def evidence_id(text: str) -> bytes:
    """The 32 bytes of an evidence digest from 64 hex digits. Raises UsageError."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise UsageError(f"--evidence: expected 64 lower-case hex digits, got {text!r}")
    return bytes.fromhex(text)


def boot_id(text: str) -> bytes:
    """The 16 bytes of a boot id from 32 hex digits. Raises UsageError."""
    try:
        return bytes.fromhex(read_boot_id(text, where="--boot"))
    except ParseError as error:
        raise UsageError(str(error)) from None
