"""What was measured into the hardware's registers, and the digest releases name."""

from __future__ import annotations

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest

REGISTERS = {"tdx": 4, "snp": 1}
"""TDX: MRTD, RTMR0, RTMR1, RTMR2 (RTMR3 is checked by replay). SNP: MEASUREMENT."""

REGISTER_BYTES = 48


LAUNCH_FIELDS = {"tdx": (48, 48, 48), "snp": (16, 16, 48, 48)}
"""Bytes of what the host set at launch. TDX: MRCONFIGID, MROWNER, MROWNERCONFIG. SNP, by its
ID block: FAMILY_ID, IMAGE_ID, ID_KEY_DIGEST, AUTHOR_KEY_DIGEST."""


def launch_id(platform: str, fields: tuple[bytes, ...]) -> bytes | None:
    """32-byte digest of what the host set at launch; None where all of it is zero.

    Raises ParseError where the fields are not the platform's own.
    """
    if tuple(len(field) for field in fields) != LAUNCH_FIELDS.get(platform):
        raise ParseError(f"{platform}: expected fields of {LAUNCH_FIELDS.get(platform)} bytes")
    if not any(map(any, fields)):
        return None
    return domain_digest("umay/launch/v1", cbor.encode([platform, *fields]))


def measurement_digest(platform: str, registers: tuple[bytes, ...]) -> bytes:
    """32-byte digest of a platform's registers (DESIGN §4).

    Raises ParseError where the platform is unknown or the registers are not its own.
    """
    if len(registers) != REGISTERS.get(platform):
        raise ParseError(f"{platform}: expected {REGISTERS.get(platform)} registers")
    if any(len(register) != REGISTER_BYTES for register in registers):
        raise ParseError(f"{platform}: every register is {REGISTER_BYTES} bytes")
    return domain_digest("umay/measurement/v1", cbor.encode([platform, *registers]))
