"""Evidence: the proof a machine offers, and the hashes that tie its parts together.

quote ── REPORT_DATA[0:32] ──> b (the KeyBundle) and E (every device's report)
device report ── nonce ──────> b
so that no part can be swapped without breaking a hash (DESIGN §4, Binding).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest, sha256
from attestation.formats.platform import PLATFORMS

MAX_EVIDENCE_BYTES = 1024 * 1024
"""Eight GPUs and four switches with their chains are about 150 kB."""

MAX_DEVICES = 64
GPU, SWITCH = 0, 1
INIT_DONE = b"umay/init-done/v1\0"
"""Its SHA-384 closes RTMR3: nothing is extended after it."""

RTMR_BYTES = 48


@dataclass(frozen=True)
class Device:
    """A GPU (kind 0) or NVSwitch (kind 1): its report and certificates (DER, leaf first)."""

    kind: int
    report: bytes
    chain: tuple[bytes, ...]


@dataclass(frozen=True)
class Evidence:
    """DESIGN §4. `ccel` is the event log up to its end, empty on SNP; `rtmr3_events`
    are the SHA-384 digests (48 bytes) extended into RTMR3, in order."""

    platform: str
    bundle: bytes
    quote: bytes
    cpu_certificates: tuple[bytes, ...] = ()
    ccel: bytes = b""
    rtmr3_events: tuple[bytes, ...] = ()
    devices: tuple[Device, ...] = ()

    def to_bytes(self) -> bytes:
        return cbor.encode(
            {
                0: 1,
                1: self.platform,
                2: self.bundle,
                3: self.quote,
                4: list(self.cpu_certificates),
                5: {0: self.ccel, 1: list(self.rtmr3_events)},
                6: [[device.kind, device.report, list(device.chain)] for device in self.devices],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Raises ParseError for anything that is not exactly one Evidence."""
        fields = cbor.decode_map(data, required=frozenset(range(7)), limit=MAX_EVIDENCE_BYTES)
        if type(fields[0]) is not int or fields[0] != 1:
            raise ParseError("Evidence key 0: expected version 1, got another")
        if not isinstance(fields[1], str) or fields[1] not in PLATFORMS:
            raise ParseError(
                f"Evidence key 1: expected one of the platforms {', '.join(PLATFORMS)}, got another"
            )
        logs = fields[5]
        if not isinstance(logs, dict) or set(logs) != {0, 1}:
            raise ParseError(
                "Evidence key 5: expected {0: CCEL, 1: [RTMR3 events]}, got another value"
            )
        return cls(
            platform=fields[1],
            bundle=_bytes(fields[2], "KeyBundle"),
            quote=_bytes(fields[3], "quote"),
            cpu_certificates=_bytes_list(fields[4], "CPU certificates"),
            ccel=_bytes(logs[0], "CCEL"),
            rtmr3_events=_events(logs[1]),
            devices=_devices(fields[6]),
        )


def evidence_digest(data: bytes) -> bytes:
    """SHA-256 of Evidence bytes as served."""
    return sha256(data)


def statement(signed_region: bytes) -> bytes:
    """A quote's identity: signatures and PEM spacing are malleable, what is signed is not."""
    return domain_digest("umay/statement/v1", signed_region)


def gpu_nonce(b: bytes) -> bytes:
    """The 32-byte nonce every GPU and switch must have answered for KeyBundle digest `b`."""
    return domain_digest("umay/gpu-nonce/v1", b)


def gpu_evidence_digest(devices: tuple[Device, ...]) -> bytes:
    """E: digest over every device's kind, report and chain, in order."""
    parts = [struct.pack(">I", len(devices))]
    for device in devices:
        chain = b"".join(device.chain)
        parts += [struct.pack(">BI", device.kind, len(device.report)), device.report]
        parts += [struct.pack(">I", len(chain)), chain]
    return domain_digest("umay/gpu-evidence/v1", *parts)


def report_data_binding(b: bytes, e: bytes) -> bytes:
    """REPORT_DATA[0:32]."""
    return domain_digest("umay/report/v1", b, e)


def fresh_published(root_hash: bytes) -> bytes:
    """REPORT_DATA[32:64] of published evidence: the beacon block's root hash."""
    return domain_digest("umay/fresh/v1", b"\0", root_hash)


def fresh_session(root: bytes) -> bytes:
    """REPORT_DATA[32:64] of a quote over sessions: the 32-byte root of their tree."""
    return domain_digest("umay/fresh/v1", b"\2", root)


def _bytes(value: object, what: str) -> bytes:
    if type(value) is not bytes:
        raise ParseError(f"Evidence: expected {what} as bytes, got {type(value).__name__}")
    return value


def _bytes_list(value: object, what: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_DEVICES:
        raise ParseError(
            f"Evidence: expected {what} as a list of at most {MAX_DEVICES}, got another value"
        )
    return tuple(_bytes(item, what) for item in value)


def _events(value: object) -> tuple[bytes, ...]:
    events = _bytes_list(value, "RTMR3 events")
    if any(len(event) != RTMR_BYTES for event in events):
        raise ParseError(f"Evidence: expected RTMR3 events of {RTMR_BYTES} bytes, got another size")
    return events


def _devices(value: Any) -> tuple[Device, ...]:
    if not isinstance(value, list) or len(value) > MAX_DEVICES:
        raise ParseError(
            f"Evidence: expected a list of at most {MAX_DEVICES} devices, got another value"
        )
    return tuple(_device(item) for item in value)


def _device(item: Any) -> Device:
    if not isinstance(item, list) or len(item) != 3:
        raise ParseError("Evidence: expected a device as [kind, report, chain], got another value")
    if type(item[0]) is not int or item[0] not in (GPU, SWITCH):
        raise ParseError(f"Evidence: expected device kind 0 (GPU) or 1 (NVSwitch), got {item[0]!r}")
    return Device(item[0], _bytes(item[1], "report"), _bytes_list(item[2], "device chain"))
