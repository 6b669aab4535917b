"""How rough one simulated boot's evidence is: all that real hosts and firmware vary.

A host hands content over in longer buffers, firmware writes notes between its events, a
quoting enclave fills fields that mean nothing to a verifier. Each boot has one `Roughness`,
chosen by a hash of the VM's id and the number of its boot: two boots are rough in two
ways, and the same run makes the same bytes again. Nothing of it changes a measurement.
Forms and sizes are those of real captures: docs/spec/simulator.md says of which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from attestation.platforms.tdx.quote import (
    BODY_TD10,
    BODY_TD15,
    BODY_TD15EX,
    VERSION_4,
    VERSION_5,
)

T = TypeVar("T")
COUNTING = bytes(range(32))
"""What Intel's quoting enclave puts into its authentication data; Google's puts zeros."""
QUOTE_FORMS = (
    (VERSION_4, BODY_TD10),
    (VERSION_4, BODY_TD10),
    (VERSION_5, BODY_TD10),
    (VERSION_5, BODY_TD15),
    (VERSION_5, BODY_TD15EX),
)
"""Version and body; most hosts still give version 4."""


@dataclass(frozen=True)
class Roughness:
    """One boot's. The defaults are smooth: exact buffers, no optional part."""

    padding: int = 0
    """Zero bytes behind a quote."""

    quote_version: int = VERSION_4
    body: int = BODY_TD10
    """Of version 5, which has three."""

    td_id: bytes = bytes(32)
    """Names this TD in the extended body."""

    platform_id: bytes = bytes(16)
    """Begins the header's user data: which platform's quoting enclave, or zero."""

    auth_data: bytes = COUNTING
    chain_ends_in_nul: bool = False
    log_header: int = 1
    """The register index of the log's first record."""

    log_vendor: bytes = b""
    notes: int = 0
    """SP 800-155 events under register 0, which extend nothing."""

    fill: bytes = b""
    """One byte, repeated behind the log; none where the area ends with the log."""

    area: int = 0
    """Bytes of the ACPI area; at least 8 bytes of fill stand behind a longer log."""

    gpu_padding: int = 0
    newer_gpu_fields: bool = False
    """The opaque fields that drivers from 590 on add."""


SMOOTH = Roughness()


def of_boot(vm: str, boot: int) -> Roughness:
    """What boot number `boot` (from 0) of the VM is like."""
    seed = iter(hashlib.sha256(f"umay/rough/v1\0{vm}\0{boot}".encode()).digest())

    def pick(options: Sequence[T]) -> T:
        return options[next(seed) % len(options)]

    version, body = pick(QUOTE_FORMS)
    platform = hashlib.sha256(f"SIMULATED quoting platform {vm}".encode()).digest()[:16]
    return Roughness(
        padding=pick((70, 307, 3061)),
        quote_version=version,
        body=body,
        td_id=hashlib.sha256(f"SIMULATED TD {vm} {boot}".encode()).digest(),
        platform_id=pick((platform, platform, bytes(16))),
        auth_data=pick((COUNTING, COUNTING, bytes(32))),
        chain_ends_in_nul=pick((True, True, False)),
        log_header=pick((1, 1, 0)),
        log_vendor=pick((b"", b"", b"td-shim")),
        notes=pick((1, 2, 3)),
        fill=pick((b"\xff", b"\xff", b"\0")),
        area=pick((65_536, 65_536, 262_144, 0)),
        gpu_padding=pick((1, 99, 4096)),
        newer_gpu_fields=pick((False, True)),
    )
