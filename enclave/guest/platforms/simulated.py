"""A simulated machine: the simulator's socket in place of kernel and driver.

Opening it powers the VM on. The same boot code runs on it; only its roots differ, and
those no shipped policy accepts.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from attestation.errors import ParseError, Unavailable
from attestation.formats import cbor
from attestation.formats.evidence import GPU, Device
from attestation.nvidia.report import cut_padding
from attestation.trust.roots import Roots
from enclave.guest.platforms.tsm import QuoteWithLogs

TIMEOUT_S = 30.0
MAX_ANSWER = 8 << 20


class SimulatedMachine:
    """Platform and Gpus in one, as VM `vm` with `gpus` GPUs."""

    def __init__(self, path: Path, vm: str, gpus: int = 1) -> None:
        self._path, self._vm, self._gpus = path, vm, gpus
        roots = self._ask("roots")[1]
        self._ask("launch", vm, gpus)
        self.roots = Roots(
            intel=frozenset({roots["intel"]}),
            amd=frozenset(),
            nvidia_device=frozenset({roots["nvidia_device"]}),
            nvidia_rim=frozenset({roots["nvidia_rim"]}),
            simulated=True,
        )

    def extend(self, digest: bytes) -> None:
        self._ask("tdx.extend", self._vm, digest)

    def quote(self, report_data: bytes) -> QuoteWithLogs:
        answer = self._ask("tdx.quote", self._vm, report_data)
        return QuoteWithLogs.from_buffers(answer[1], answer[2], tuple(answer[3]))

    def reports(self, nonce: bytes) -> tuple[Device, ...]:
        answers = [self._ask("gpu.report", self._vm, index, nonce) for index in range(self._gpus)]
        try:
            reports = [cut_padding(answer[1]) for answer in answers]
        except ParseError as error:
            raise Unavailable(f"simulator: {error}") from None
        chains = (tuple(answer[2]) for answer in answers)
        return tuple(Device(GPU, *pair) for pair in zip(reports, chains, strict=True))

    def set_ready(self) -> None:
        """A simulated GPU is always ready."""

    def _ask(self, operation: str, *arguments: Any) -> dict[int, Any]:
        request = cbor.encode({0: operation, **dict(enumerate(arguments, 1))})
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(self._path))
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                data = bytearray()
                while len(data) <= MAX_ANSWER and (part := connection.recv(1 << 16)):
                    data += part
        except OSError as error:
            raise Unavailable(f"simulator: {error.strerror or error}") from None
        answer = cbor.decode_map(bytes(data), required=frozenset({0}), limit=MAX_ANSWER)
        if answer[0] != "ok":
            raise Unavailable(f"simulator: {answer.get(1)}")
        return answer
