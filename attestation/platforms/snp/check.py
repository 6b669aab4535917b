"""What a genuine SNP report must say: guest policy and state, TCB floor, revocation."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats.collateral import Collateral
from attestation.formats.dates import Window, lapse
from attestation.formats.digests import sha256
from attestation.platforms.snp.chain import ChipKey, tcb_parts
from attestation.platforms.snp.report import SnpReport
from attestation.remembered import remembered
from attestation.trust.roots import Roots
from attestation.x509 import crl as crls
from attestation.x509.certificate import common_name, fingerprint
from attestation.x509.profile import AMD_CRL
from attestation.x509.walk import check_chain, load_chain

POLICY_SMT, POLICY_RESERVED_ONE, POLICY_MIGRATE_MA, POLICY_DEBUG = (1 << n for n in range(16, 20))
POLICY_KNOWN = (1 << 26) - 1
PLATFORM_ALIAS_CHECK = 1 << 5
PLATFORM_KNOWN = (1 << 8) - 1


def check_attributes(report: SnpReport, *, launch_named: bool = False) -> None:
    """The guest was launched for production: no debugging, no migration agent, VMPL 0, no unknown
    bit. Source: AMD 56860 (guest policy, platform info). Raises Refused("cpu-attributes", …).

    The ID block's fields are zero unless a release names them.
    """
    policy = report.policy
    if not policy & POLICY_RESERVED_ONE or policy & ~POLICY_KNOWN:
        raise _refused(
            "reserved-bits", f"guest policy: expected bit 17 and no unknown bit, got {policy:#x}"
        )
    if policy & POLICY_DEBUG:
        raise _refused(
            "debug",
            "guest policy: expected DEBUG (bit 19) clear, got it set: the host may read "
            "the guest's memory",
        )
    if policy & POLICY_MIGRATE_MA:
        raise _refused(
            "migratable",
            "guest policy: expected MIGRATE_MA (bit 18) clear, got it set: a migration "
            "agent is allowed",
        )
    if report.vmpl != 0:
        raise _refused("vmpl", f"SNP report: expected VMPL 0, got {report.vmpl}")
    if report.platform_info & ~PLATFORM_KNOWN:
        raise _refused(
            "reserved-bits",
            f"platform info: expected no unknown bit, got {report.platform_info:#x}",
        )
    if any(report.report_id_ma) and report.report_id_ma != b"\xff" * 32:
        raise _refused(
            "migratable",
            f"REPORT_ID_MA: expected none, got the migration agent {report.report_id_ma.hex()}",
        )
    id_block = report.family_id + report.image_id + report.id_key_digest + report.author_key_digest
    if any(id_block) and not launch_named:
        raise _refused(
            "id-block",
            "ID block: expected zero, or one that a release lists in launch_ids, got another one",
        )


def check_tcb(report: SnpReport, key: ChipKey, *, floor: Mapping[str, int] | None) -> str:
    """The committed TCB in words, once it reaches the policy's floor (AMD 56860, TCB versions).

    `floor` holds the least SVN of each part ("bootloader", "tee", "snp", "microcode"), None where
    the policy says any. AMD publishes no list of levels, so the policy itself says what is up to
    date. The committed TCB counts and not the reported one: firmware can be rolled back to what
    was committed. Raises Refused("cpu-tcb", …).
    """
    committed = tcb_parts(report.committed_tcb, key.family)
    current = tcb_parts(report.current_tcb, key.family)
    for part, value in tcb_parts(report.reported_tcb, key.family).items():
        if value > current[part]:
            raise Refused(
                "cpu-tcb",
                "tcb-inconsistent",
                f"reported TCB, {part}: expected at most the current SVN {current[part]}, "
                f"got {value}",
            )
    for part, least in (floor or {}).items():
        if committed.get(part, -1) < least:
            text = f"committed TCB, {part}: expected SVN {least} or more, got {committed.get(part)}"
            raise Refused("cpu-tcb", "out-of-date", text)
    return ", ".join(f"{part} {value}" for part, value in committed.items())


def check_revocation(key: ChipKey, collateral: Collateral, *, now: int) -> Window:
    """The ARK's CRL (AMD 57230), current at `now` (Unix seconds), does not revoke the ASK.

    Returns when it was issued and when it expires (Unix seconds). Raises NotAuthentic or
    Refused("cpu-tcb", …).
    """
    data = collateral.parts.get(f"amd/crl/{key.family}")
    if data is None:
        raise Refused(
            "cpu-tcb",
            "revocation-unknown",
            f"collateral: expected amd/crl/{key.family}, got no such part; fetch it from "
            "AMD's service",
        )
    crl, window = _current(data, key.ark, now)
    if crl.get_revoked_certificate_by_serial_number(key.ask.serial_number) is not None:
        raise NotAuthentic(
            "cpu-tcb",
            "revoked",
            f"{common_name(key.ask)!r}: expected a certificate that the ARK's CRL does not "
            "list, it is revoked",
        )
    return window


def check_crl(data: bytes, ark: bytes, *, roots: Roots, now: int) -> int:
    """A CRL by itself: of this ARK (DER), which is pinned, and current at `now`.

    Returns its next update (Unix seconds). Raises NotAuthentic or Refused("cpu-tcb", …).
    """
    chain = load_chain((ark,), AMD_CRL)
    check_chain(chain, AMD_CRL, pinned=roots.amd, now=now)
    return _current(data, chain[0], now)[1][1]


def _current(
    data: bytes, ark: x509.Certificate, now: int
) -> tuple[x509.CertificateRevocationList, Window]:
    crl = _signed(data, ark)
    window = crls.window(crl)
    if found := lapse(window, now):
        word, text = found
        raise Refused("cpu-tcb", f"crl-{word}", f"the CRL of {common_name(ark)!r}: {text}")
    return crl, window


@remembered(most=16, key=lambda data, ark: (sha256(data), fingerprint(ark)))
def _signed(data: bytes, ark: x509.Certificate) -> x509.CertificateRevocationList:
    """All of `_current` that does not depend on the time. AMD has one list per family."""
    try:
        crl = crls.load_crl(data)
    except ParseError as error:
        raise NotAuthentic("cpu-tcb", "crl-malformed", str(error)) from None
    if crls.is_signed(crl, ark, AMD_CRL):
        return crl
    raise NotAuthentic(
        "cpu-tcb",
        "crl-signature",
        f"CRL: expected the signature of {common_name(ark)!r}, got one that does not hold",
    )


def check_alias_free(report: SnpReport) -> None:
    """The firmware checked for aliased memory at boot, against BadRAM (AMD 56860, platform info,
    ALIAS_CHECK_COMPLETE). Raises Refused("cpu-tcb", "alias-check")."""
    if not report.platform_info & PLATFORM_ALIAS_CHECK:
        raise Refused(
            "cpu-tcb",
            "alias-check",
            "platform info: expected ALIAS_CHECK_COMPLETE (bit 5; policy [cpu.snp] "
            "alias_check), got it clear",
        )


def _refused(code: str, message: str) -> Refused:
    return Refused("cpu-attributes", code, message)
