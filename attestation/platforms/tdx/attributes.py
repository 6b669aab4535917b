"""How the TD was started: production settings only. Step "cpu-attributes" of the plan.

A short list of attribute bits may be set and every other must be zero, so that a bit
Intel defines later is refused until somebody has thought about it.
"""

from __future__ import annotations

from attestation.errors import Refused
from attestation.platforms.tdx.quote import TdQuote

STEP = "cpu-attributes"
ZERO = bytes(48)

SEPT_VE_DISABLE = 28
ALLOWED_BITS = frozenset({27, SEPT_VE_DISABLE, 30, 31})
"""LASS, SEPT_VE_DISABLE, PKS, Key Locker: protections the guest turns on for itself."""

NAMED_BITS = {
    0: ("debug", "DEBUG: the host can read and write the TD's memory"),
    4: ("profiling", "profiling by the host"),
    5: ("profiling", "profiling by the host"),
    6: ("profiling", "profiling by the host"),
    29: ("migratable", "MIGRATABLE: a migration TD could move the TD's memory"),
    62: ("tpa", "TPA: the TD is a provisioning agent, not a guest"),
    63: ("perfmon", "PERFMON: performance counters widen side channels"),
}


def check_attributes(quote: TdQuote, *, launch_named: bool = False) -> None:
    """TD and SEAM attributes are those of a production TD, and the fields that the host sets at
    launch are zero (Intel TDX DCAP quote: TD report body).

    `launch_named`: a release names the launch fields, so they may be set.
    Raises Refused("cpu-attributes", ...).
    """
    _check_bits(int.from_bytes(quote.td_attributes, "little"))
    _check_register("seam_attributes", bytes(8), quote.seam_attributes, "seam-attributes")
    _check_register("mrsigner_seam", ZERO, quote.mrsigner_seam, "seam-signer")
    if any(quote.vm_id):
        raise Refused(
            STEP,
            "partitioned",
            f"vm_id: expected 0 (the TD itself), got {quote.vm_id.hex()}, a VM inside the TD",
        )
    if any(quote.mr_servicetd + quote.init_servtd_hash + quote.curr_servtd_hash):
        text = (
            "mr_servicetd and service TD hashes: expected zero, got a service TD bound to the guest"
        )
        raise Refused(STEP, "service-td", text)
    if not launch_named:
        _check_register("mr_config_id", ZERO, quote.mr_config_id, "mr-config-id")
        _check_register("mr_owner", ZERO, quote.mr_owner, "mr-owner")
        _check_register("mr_owner_config", ZERO, quote.mr_owner_config, "mr-owner-config")


def _check_bits(attributes: int) -> None:
    for bit in range(64):
        if attributes >> bit & 1 and bit not in ALLOWED_BITS:
            code, text = NAMED_BITS.get(bit, ("reserved-bit", "reserved"))
            raise Refused(
                STEP, code, f"td_attributes: expected bit {bit} clear, got it set ({text})"
            )
    if not attributes >> SEPT_VE_DISABLE & 1:
        text = "td_attributes: expected SEPT_VE_DISABLE (bit 28) set, got it clear: the host could "
        text += "remove pages of the TD without its notice"
        raise Refused(STEP, "sept-ve-disable", text)


def _check_register(name: str, expected: bytes, got: bytes, code: str) -> None:
    if got != expected:
        raise Refused(STEP, code, f"{name}: expected {expected.hex()}, got {got.hex()}")
