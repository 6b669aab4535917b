"""The guest's GPUs: their reports over one nonce, checked here before anyone else does.

`NvmlGpus` speaks to NVIDIA's driver. It has not run on confidential hardware yet.
"""

from __future__ import annotations

from typing import Any, Protocol

from attestation import nvidia
from attestation.errors import NotAuthentic, Unavailable
from attestation.evidence import GPU, Device
from attestation.roots import Roots


class Gpus(Protocol):
    def reports(self, nonce: bytes) -> tuple[Device, ...]:
        """Every GPU's report over the 32-byte nonce. Raises Unavailable."""

    def set_ready(self) -> None:
        """Let the GPUs accept work; only after their reports were checked."""


def attest(gpus: Gpus, *, nonce: bytes, count: int, roots: Roots, now: int) -> tuple[Device, ...]:
    """`count` devices whose reports hold at `now` (Unix seconds), in the driver's order.

    Raises NotAuthentic("gpu", …), Refused or Unavailable.
    """
    devices = gpus.reports(nonce)
    if len(devices) != count:
        raise NotAuthentic("gpu", "wrong-count", f"expected {count} GPUs, got {len(devices)}")
    checked = [nvidia.check_device(item, nonce=nonce, roots=roots, now=now) for item in devices]
    nvidia.check_set(checked)
    return devices


class NvmlGpus:
    """All GPUs of this machine, through NVML in confidential mode."""

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None

    def reports(self, nonce: bytes) -> tuple[Device, ...]:
        try:
            count = self._nvml.nvmlDeviceGetCount()
            return tuple(self._report(index, nonce) for index in range(count))
        except self._nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None

    def set_ready(self) -> None:
        try:
            self._nvml.nvmlSystemSetConfComputeGpusReadyState(
                self._nvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
            )
        except self._nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None

    def _report(self, index: int, nonce: bytes) -> Device:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        answer = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        certificates = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        report = bytes(answer.attestationReport[: answer.attestationReportSize])
        pem = bytes(certificates.attestationCertChain[: certificates.attestationCertChainSize])
        return Device(GPU, report, _chain(pem))


def _chain(pem: bytes) -> tuple[bytes, ...]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unavailable("NVML: expected a PEM certificate chain") from None
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)
