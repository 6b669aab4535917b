"""The guest's GPUs: their reports over one nonce, checked here before anyone else does.

A GPU in confidential mode takes no work until it is set ready, and it is set ready only
after its report was checked. `NvmlGpus` speaks to NVIDIA's driver. It has not run on
confidential hardware yet.
"""

from __future__ import annotations

from typing import Any, Protocol

from attestation.errors import NotAuthentic, ParseError, Unavailable
from attestation.formats.evidence import GPU, Device
from attestation.nvidia.check import check_device, check_set
from attestation.nvidia.report import cut_padding
from attestation.trust.roots import Roots


class Gpus(Protocol):
    def reports(self, nonce: bytes) -> tuple[Device, ...]:
        """Every GPU's report over the 32-byte nonce. Raises Unavailable."""

    def set_ready(self) -> None:
        """Let the GPUs accept work; only after their reports were checked."""


def attest(gpus: Gpus, *, nonce: bytes, count: int, roots: Roots, now: int) -> tuple[Device, ...]:
    """`count` devices whose reports hold at `now` (Unix seconds), in the driver's order.

    A guest of no GPUs needs no driver. Raises NotAuthentic("gpu", …), Refused or
    Unavailable.
    """
    if not count:
        return ()
    devices = gpus.reports(nonce)
    if len(devices) != count:
        raise NotAuthentic("gpu", "wrong-count", f"expected {count} GPUs, got {len(devices)}")
    checked = [check_device(item, nonce=nonce, roots=roots, now=now) for item in devices]
    check_set(checked)
    return devices


class NvmlGpus:
    """All GPUs of this machine, through NVML in confidential mode."""

    def __init__(self, nvml: Any = None) -> None:
        """`nvml` is the module pynvml, or what stands in for it."""
        if nvml is None:
            import pynvml  # type: ignore[import-untyped]

            nvml = pynvml
        self._nvml = nvml

    def reports(self, nonce: bytes) -> tuple[Device, ...]:
        try:
            self._nvml.nvmlInit()
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
        try:
            return Device(GPU, cut_padding(report), _chain(pem))
        except ParseError as error:
            raise Unavailable(f"NVML: {error}") from None


def _chain(pem: bytes) -> tuple[bytes, ...]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unavailable("NVML: expected a PEM certificate chain") from None
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)
