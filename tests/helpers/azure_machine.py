"""An Azure VM as its paravisor shows it: HCL report around a simulated SNP report, vTPM quote."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attestation.platforms.azure import ATTEST_QUOTE
from enclave.simulator.amd import SimulatedAmd

HCL_BYTES = 2600
"""Of the NV index: the report and zeros."""

PCRS = tuple(bytes([number]) * 32 for number in range(24))


@functools.cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def chip() -> SimulatedAmd:
    return SimulatedAmd()


def runtime(**changes: object) -> bytes:
    numbers = key().public_key().public_numbers()
    named = {"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": _base64url(numbers.n)}
    return json.dumps({"keys": [named], "user-data": "00" * 64, **changes}).encode()


def hcl(text: bytes | None = None, *, kind: int = 2, hashed: int = 1, version: int = 2) -> bytes:
    text = runtime() if text is None else text
    digest = hashlib.sha256(text).digest() + bytes(32)
    hardware = chip().report(report_data=digest)
    size = 32 + len(hardware) + 20 + len(text)
    head = struct.pack("<4s4I12x", b"HCLA", version, size, 2, 0)
    body = struct.pack("<5I", 20 + len(text), 1, kind, hashed, len(text)) + text
    return (head + hardware + body).ljust(HCL_BYTES, b"\0")


def message(data: bytes = b"nonce", *, pcrs: tuple[bytes, ...] = PCRS) -> bytes:
    digest = hashlib.sha256(b"".join(pcrs)).digest()
    selected = bytes.fromhex("00000001000b03ffffff")
    clock = bytes(17 + 8)
    return ATTEST_QUOTE + _sized(b"signer") + _sized(data) + clock + selected + _sized(digest)


def sign(text: bytes) -> bytes:
    return key().sign(text, padding.PKCS1v15(), hashes.SHA256())


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(256)).decode().rstrip("=")
