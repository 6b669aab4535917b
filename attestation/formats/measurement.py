"""What was measured into the hardware's registers, and the digest releases name."""

from __future__ import annotations

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest
from attestation.formats.platform import PLATFORMS, PlatformFormat

REGISTER_BYTES = 48


def launch_id(platform: str, fields: tuple[bytes, ...]) -> bytes | None:
    """32-byte digest of what the host set at launch; None where all of it is zero.

    Raises ParseError where the fields are not the platform's own.
    """
    expected = tuple(size for _, size in _row(platform).launch_fields)
    if tuple(len(field) for field in fields) != expected:
        raise ParseError(f"{platform}: expected launch fields of {expected} bytes, got others")
    if not any(map(any, fields)):
        return None
    return domain_digest("umay/launch/v1", cbor.encode([platform, *fields]))


def measurement_digest(platform: str, registers: tuple[bytes, ...]) -> bytes:
    """32-byte digest of a platform's registers (DESIGN §4).

    Raises ParseError where the platform is unknown or the registers are not its own.
    """
    expected = _row(platform).registers
    if len(registers) != len(expected):
        text = f"{platform}: expected the registers {', '.join(expected)}, got {len(registers)}"
        raise ParseError(text)
    if any(len(register) != REGISTER_BYTES for register in registers):
        raise ParseError(
            f"{platform}: expected registers of {REGISTER_BYTES} bytes, got another size"
        )
    return domain_digest("umay/measurement/v1", cbor.encode([platform, *registers]))


def _row(platform: str) -> PlatformFormat:
    if platform not in PLATFORMS:
        raise ParseError(f"expected a platform of {', '.join(PLATFORMS)}, got {platform}")
    return PLATFORMS[platform]
