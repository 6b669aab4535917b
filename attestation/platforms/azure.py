"""Evidence of Azure's confidential VMs: a paravisor's vTPM between the chip and the guest.

The chip signs a report whose REPORT_DATA is the SHA-256 of a JSON text that the paravisor
wrote (HCL report, vTPM NV index 0x01400001); that text names the vTPM's attestation key
(AK); the AK signs a TPM 2.0 quote over the PCRs and the asker's own data (TPM 2.0 Library,
part 2: TPMS_ATTEST, §10.12.8). Each link is checked here. What the chain rests on is the
paravisor, whose code is not published: no policy of ours accepts it (docs/adr/0005).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attestation.errors import NotAuthentic, ParseError
from attestation.formats.platform import SNP, TDX

HEADER_BYTES, HARDWARE_BYTES, RUNTIME_HEADER_BYTES = 32, 1184, 20
MAX_HCL_BYTES = 16 * 1024
"""An NV index is 2600 bytes today, of which some 2400 are used; tools also cut it shorter."""

TDREPORT_BYTES = 1024
PLATFORMS = {2: SNP.name, 4: TDX.name}
SHA256_RUNTIME = 1
PCR_COUNT, PCR_BYTES = 24, 32
MAX_QUALIFYING_BYTES = 64
ATTEST_QUOTE = bytes.fromhex("ff544347") + bytes.fromhex("8018")
_ALL_SHA256_PCRS = bytes.fromhex("00000001000b03ffffff")


@dataclass(frozen=True)
class HclReport:
    """`hardware`: an SNP report of 1184 bytes, or a TDREPORT of 1024 (signed by no public
    key: the TD quote repeats what matters). `runtime`: the JSON text as hashed."""

    platform: str
    hardware: bytes = field(repr=False)
    runtime: bytes = field(repr=False)
    key: rsa.RSAPublicKey = field(repr=False)
    user_data: bytes


@dataclass(frozen=True)
class VtpmQuote:
    """`qualifying_data`: what the asker chose, up to 64 bytes. `pcrs`: SHA-256 PCR 0 to 23."""

    message: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    pcrs: tuple[bytes, ...] = field(repr=False)
    qualifying_data: bytes
    pcr_digest: bytes


def parse_hcl(data: bytes) -> HclReport:
    """An HCL report, and the zeros of its NV index. Raises ParseError; no byte is left over."""
    end = hcl_length(data)
    if any(data[end:]) or any(data[20:HEADER_BYTES]):
        raise ParseError("HCL report: expected zeros in its unused bytes, got other values")
    version, size, request, status = struct.unpack_from("<4I", data, 4)
    hardware = data[HEADER_BYTES : HEADER_BYTES + HARDWARE_BYTES]
    body = data[HEADER_BYTES + HARDWARE_BYTES : end]
    length, inner_version, kind, hashed, text_length = struct.unpack_from("<5I", body)
    if version not in (1, 2) or (request, status, inner_version) != (2, 0, 1):
        raise ParseError(
            f"HCL report: expected version 1 or 2, request 2 and status 0, got {version}, "
            f"{request}, {status}"
        )
    if not length == len(body) == RUNTIME_HEADER_BYTES + text_length or size != end:
        raise ParseError(
            f"HCL report: expected lengths that agree, got {size} in all, {length} after the report"
        )
    if kind not in PLATFORMS or hashed != SHA256_RUNTIME:
        raise ParseError(
            f"HCL report: expected an SNP or TDX report over SHA-256, got kind {kind}, hash "
            f"{hashed}"
        )
    if PLATFORMS[kind] == "tdx":
        hardware, rest = hardware[:TDREPORT_BYTES], hardware[TDREPORT_BYTES:]
        if any(rest):
            raise ParseError("HCL report: expected zeros after the TDREPORT, got other values")
    runtime = body[RUNTIME_HEADER_BYTES:]
    key, user_data = _runtime(runtime)
    return HclReport(PLATFORMS[kind], hardware, runtime, key, user_data)


def hcl_length(data: bytes) -> int:
    """How many bytes of `data` are the HCL report by its own lengths: header, hardware report,
    runtime text. Raises ParseError where `data` is no HCL report, or ends before it does."""
    if data[:4] != b"HCLA":
        raise ParseError("HCL report: expected HCLA at its beginning, got other bytes")
    if len(data) > MAX_HCL_BYTES:
        raise ParseError(f"HCL report: expected at most {MAX_HCL_BYTES} bytes, got {len(data)}")
    start = HEADER_BYTES + HARDWARE_BYTES
    end = start + int.from_bytes(data[start : start + 4], "little")
    if not start + RUNTIME_HEADER_BYTES <= end <= len(data):
        raise ParseError(f"HCL report: expected {end} bytes by its own lengths, got {len(data)}")
    return end


def parse_vtpm_quote(message: bytes, signature: bytes, pcrs: tuple[bytes, ...]) -> VtpmQuote:
    """A TPM2_Quote over PCR 0 to 23 of the SHA-256 bank. Raises ParseError."""
    if len(pcrs) != PCR_COUNT or any(len(pcr) != PCR_BYTES for pcr in pcrs):
        raise ParseError(f"vTPM quote: expected {PCR_COUNT} PCRs of {PCR_BYTES} bytes, got others")
    if message[:6] != ATTEST_QUOTE:
        raise ParseError(
            "vTPM quote: expected TPM2_ST_ATTEST_QUOTE at its beginning, got other bytes"
        )
    _signer, at = _sized(message, 6)
    qualifying, at = _sized(message, at)
    at += 17 + 8  # TPMS_CLOCK_INFO, firmware version
    if message[at : at + len(_ALL_SHA256_PCRS)] != _ALL_SHA256_PCRS:
        raise ParseError(
            "vTPM quote: expected all 24 PCRs of the SHA-256 bank, got another selection"
        )
    digest, at = _sized(message, at + len(_ALL_SHA256_PCRS))
    if at != len(message) or len(digest) != 32 or len(qualifying) > MAX_QUALIFYING_BYTES:
        raise ParseError(
            "vTPM quote: expected a digest of 32 bytes and then the end, got other lengths"
        )
    return VtpmQuote(message, signature, pcrs, qualifying, digest)


def check_runtime(report: HclReport, report_data: bytes) -> None:
    """Raises NotAuthentic unless the signed 64 bytes are the runtime text's digest."""
    if report_data != hashlib.sha256(report.runtime).digest() + bytes(32):
        raise NotAuthentic(
            "binding",
            "azure-runtime",
            "REPORT_DATA: expected SHA-256 of the HCL report's runtime text, got other bytes",
        )


def check_quote(report: HclReport, quote: VtpmQuote) -> None:
    """Raises NotAuthentic unless the report's AK signed the quote, and it is of these PCRs."""
    try:
        report.key.verify(quote.signature, quote.message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise NotAuthentic(
            "binding",
            "azure-vtpm",
            "vTPM quote: expected a signature by the AK of the HCL report, got one that "
            "does not hold",
        ) from None
    if quote.pcr_digest != hashlib.sha256(b"".join(quote.pcrs)).digest():
        raise NotAuthentic(
            "measurement",
            "azure-pcrs",
            "vTPM quote: expected the digest of the PCR values beside it, got another",
        )


def _runtime(text: bytes) -> tuple[rsa.RSAPublicKey, bytes]:
    try:
        claims = json.loads(text)
        keys = [key for key in claims["keys"] if key["kid"] == "HCLAkPub"]
        if len(keys) != 1 or keys[0]["kty"] != "RSA":
            raise ParseError(
                "HCL report: expected one RSA key HCLAkPub in its runtime text, got others"
            )
        numbers = rsa.RSAPublicNumbers(_integer(keys[0]["e"]), _integer(keys[0]["n"]))
        user_data = bytes.fromhex(claims.get("user-data", ""))
        return numbers.public_key(), user_data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise ParseError(
            "HCL report: expected the runtime text as JSON of Azure's form, got another"
        ) from None


def _integer(text: Any) -> int:
    if len(text) > 700:  # RSA of 4096 bits
        raise ParseError("HCL report: expected an RSA key of at most 4096 bits, got a longer one")
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """A TPM2B: u16 length, content."""
    end = at + 2 + int.from_bytes(data[at : at + 2])
    if end > len(data):
        raise ParseError(f"vTPM quote: expected {end} bytes by its own lengths, got {len(data)}")
    return data[at + 2 : end], end
