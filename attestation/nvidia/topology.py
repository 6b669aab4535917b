"""A protected-PCIe set: eight GPUs and four NVSwitches that see exactly each other.

Each device's own identity (PDI, 8 bytes) stands in its certificate, made at the factory;
GPUs report the switches they are linked to, switches the GPUs. Both views must be the
very devices whose reports were checked, so that no other device is on the fabric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.nvidia.report import DEVICE_PDI, SWITCH_GPU_PDIS, SWITCH_PDIS

if TYPE_CHECKING:
    from attestation.nvidia.check import CheckedDevice

GPUS, SWITCHES = 8, 4
PDI_BYTES = 8
GPU_PLACES, LINKS = 8, 18
_NONE = (bytes(PDI_BYTES), b"\xff" * PDI_BYTES)


def check_topology(gpus: Sequence[CheckedDevice], switches: Sequence[CheckedDevice]) -> None:
    """Eight GPUs and four switches name exactly each other: no other device is on the fabric
    (docs/spec/gpu-evidence.md, "A protected-PCIe set").

    Raises ParseError, Refused("gpu", "incomplete-set") or NotAuthentic("gpu", "topology").
    """
    if (len(gpus), len(switches)) != (GPUS, SWITCHES):
        text = f"devices: expected {GPUS} GPUs and {SWITCHES} switches, "
        text += f"got {len(gpus)} and {len(switches)}"
        raise Refused("gpu", "incomplete-set", text)
    gpu_pdis = frozenset(_own(gpu) for gpu in gpus)
    switch_pdis = frozenset(_own(switch) for switch in switches)
    for gpu in gpus:
        # A GPU writes its switches' PDIs in the other byte order.
        linked = _listed(gpu, SWITCH_PDIS, LINKS, LINKS)
        _expect(frozenset(pdi[::-1] for pdi in linked) == switch_pdis, "a GPU", "switches")
    for switch in switches:
        _expect(switch.report.opaque.get(DEVICE_PDI) == _own(switch), "a switch", "itself")
        listed = _listed(switch, SWITCH_GPU_PDIS, GPU_PLACES, 2 * GPU_PLACES)
        _expect(listed == gpu_pdis, "a switch", "GPUs")


def _own(device: CheckedDevice) -> bytes:
    """From the serial-number attribute of the device's factory certificate: u8 ‖ PDI."""
    subject: x509.Name = device.certificates[1].subject
    found = subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    try:
        value = bytes.fromhex(str(found[0].value)) if len(found) == 1 else b""
    except ValueError:
        value = b""
    if len(value) != 1 + PDI_BYTES:
        raise NotAuthentic(
            "gpu",
            "topology",
            "factory certificate: expected a serial number of 9 bytes with the PDI, got another",
        )
    return value[1:]


def _listed(device: CheckedDevice, field: int, places: int, whole: int) -> frozenset[bytes]:
    """The PDIs in the first `places` of a field of `whole` entries, unused ones left out."""
    data = device.report.opaque.get(field, b"")
    if len(data) != whole * PDI_BYTES:
        text = (
            f"expected field {field} of {whole} entries of {PDI_BYTES} bytes, got {len(data)} bytes"
        )
        raise ParseError(f"{device.report.what}: {text}")
    entries = (data[at : at + PDI_BYTES] for at in range(0, places * PDI_BYTES, PDI_BYTES))
    return frozenset(entry for entry in entries if entry not in _NONE)


def _expect(good: bool, who: str, what: str) -> None:
    if not good:
        raise NotAuthentic(
            "gpu",
            "topology",
            f"fabric: expected {who} to report {what} exactly as presented, got others",
        )
