"""The simulator's operations: simulated VMs, their quotes and GPU reports, and forgeries.

Requests and answers are maps as in docs/spec/simulator.md. RTMR3 only ever grows, as in
hardware: a launch under the same id is a reboot and starts a new VM.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestation.errors import UmayError, UsageError
from attestation.platforms.tdx.eventlog import DIGEST_BYTES, extend
from attestation.platforms.tdx.quote import BODY_FIELDS, parse_quote
from enclave.simulator.ccel import SOURCE_ROOT, Launch, launch
from enclave.simulator.hopper import OPAQUE, newer_opaque
from enclave.simulator.intel import SimulatedIntel
from enclave.simulator.nvidia import FLEET, SimulatedNvidia
from enclave.simulator.rough import Roughness, of_boot

MAX_VMS = 64
MAX_GPUS = 8
MAX_RTMR3_EVENTS = 64
REPORT_DATA_BYTES = 64
NONCE_BYTES = 32


@dataclass
class Vm:
    """A running TD: what it was launched as, and what it has extended since."""

    launch: Launch
    rough: Roughness
    first_gpu: int
    gpus: int
    rtmr3: bytes = bytes(DIGEST_BYTES)
    events: list[bytes] = field(default_factory=list)

    def body(self) -> dict[str, bytes]:
        """The quote's body fields that this VM determines."""
        registers = (*self.launch.rtmrs, self.rtmr3)
        named = {f"rt_mr{number}": value for number, value in enumerate(registers)}
        return {"mr_td": self.launch.mr_td, **named}


class Simulator:
    """All of it in one object; `handle` is safe to call from many threads.

    `clock` gives Unix seconds; `source_root` holds the guest's packages to measure.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        clock: Callable[[], int] = lambda: int(time.time()),
        source_root: Path = SOURCE_ROOT,
    ) -> None:
        self._clock = clock
        self._source_root = source_root
        self._state_dir = state_dir
        self.intel = SimulatedIntel(state_dir, clock())
        self.nvidia = SimulatedNvidia(state_dir, clock())
        self._vms: dict[str, Vm] = {}
        self._boots: dict[str, int] = {}
        self._next_gpu = 0
        self._lock = threading.Lock()
        self._operations: dict[str, Callable[[dict[int, Any]], dict[int, Any]]] = {
            "roots": self._roots,
            "measurement": self._measurement,
            "collateral": self._collateral,
            "launch": self._launch,
            "tdx.extend": self._extend,
            "tdx.quote": self._quote,
            "gpu.report": self._gpu_report,
            "forge.quote": self._forge_quote,
            "forge.gpu": self._forge_gpu,
        }

    def handle(self, request: dict[int, Any]) -> dict[int, Any]:
        """The answer to one request: {0: "ok", ...} or {0: "error", 1: text}."""
        operation = request.get(0)
        try:
            if not isinstance(operation, str) or operation not in self._operations:
                raise UsageError(
                    f"operation: expected one of {', '.join(self._operations)}, got another"
                )
            with self._lock:
                return {0: "ok", **self._operations[operation](request)}
        except UmayError as error:
            return {0: "error", 1: str(error)}

    def _roots(self, _request: dict[int, Any]) -> dict[int, Any]:
        return {
            1: {
                "intel": self.intel.root_spki,
                "nvidia_device": self.nvidia.root_spki,
                "nvidia_rim": self.nvidia.rim_root_spki,
            }
        }

    def _measurement(self, _request: dict[int, Any]) -> dict[int, Any]:
        return {1: list(launch(self._source_root).registers)}

    def _collateral(self, _request: dict[int, Any]) -> dict[int, Any]:
        now = self._clock()
        return {1: {**self.intel.collateral(now), **self.nvidia.collateral(now, self._next_gpu)}}

    def _launch(self, request: dict[int, Any]) -> dict[int, Any]:
        name, gpus = _text(request, 1), request.get(2, 1)
        if type(gpus) is not int or not 0 <= gpus <= MAX_GPUS:
            raise UsageError(f"launch: expected 0 to {MAX_GPUS} GPUs, got another value")
        if name not in self._vms and len(self._vms) == MAX_VMS:
            raise UsageError(f"launch: expected at most {MAX_VMS} VMs, got more")
        boot = self._boots[name] = self._boots.get(name, -1) + 1
        first = self._first_gpu(name, gpus)
        self._vms[name] = Vm(launch(self._source_root), of_boot(name, boot), first, gpus)
        return {}

    def _first_gpu(self, name: str, gpus: int) -> int:
        """The GPUs it had before its reboot, new ones where it now has another number."""
        before = self._vms.get(name)
        if before is not None and before.gpus == gpus:
            return before.first_gpu
        first, self._next_gpu = self._next_gpu, self._next_gpu + gpus
        return first

    def _extend(self, request: dict[int, Any]) -> dict[int, Any]:
        vm, digest = self._vm(request), _sized(request, 2, DIGEST_BYTES)
        if len(vm.events) == MAX_RTMR3_EVENTS:
            raise UsageError(f"tdx.extend: expected at most {MAX_RTMR3_EVENTS} events, got more")
        vm.rtmr3 = extend(vm.rtmr3, digest)
        vm.events.append(digest)
        return {}

    def _quote(self, request: dict[int, Any]) -> dict[int, Any]:
        vm, report_data = self._vm(request), _sized(request, 2, REPORT_DATA_BYTES)
        quote = self.intel.quote(vm.rough, **vm.body(), report_data=report_data)
        return {1: quote, 2: vm.launch.area(vm.rough), 3: list(vm.events)}

    def _gpu_report(self, request: dict[int, Any]) -> dict[int, Any]:
        vm, index = self._vm(request), request.get(2)
        if type(index) is not int or not 0 <= index < vm.gpus:
            raise UsageError(f"gpu.report: expected a GPU index below {vm.gpus}, got another value")
        nonce = _sized(request, 3, NONCE_BYTES)
        fields = newer_opaque() if vm.rough.newer_gpu_fields else OPAQUE
        report, chain = self.nvidia.report(vm.first_gpu + index, nonce, opaque=fields)
        return {1: report + bytes(vm.rough.gpu_padding), 2: list(chain)}

    def _forge_quote(self, request: dict[int, Any]) -> dict[int, Any]:
        quote = parse_quote(_bytes(request, 1))
        overrides, other_root = request.get(2, {}), request.get(3, False)
        if not isinstance(overrides, dict) or not overrides.keys() <= BODY_FIELDS.keys():
            raise UsageError(
                "forge.quote: expected a map of body fields to bytes, got another value"
            )
        if not all(type(value) is bytes for value in overrides.values()):
            raise UsageError("forge.quote: expected bytes for every field, got another type")
        signer = self._stranger() if other_root is True else self.intel
        return {1: signer.forge(quote, **overrides)}

    def _forge_gpu(self, request: dict[int, Any]) -> dict[int, Any]:
        index = request.get(1)
        if type(index) is not int or not 0 <= index < max(self._next_gpu, FLEET):
            raise UsageError("forge.gpu: expected the index of a GPU, got another value")
        report, chain = self.nvidia.report(index, _sized(request, 2, NONCE_BYTES))
        return {1: report, 2: list(chain)}

    def _stranger(self) -> SimulatedIntel:
        """A root that neither the vendor nor the simulator owns."""
        return SimulatedIntel(self._state_dir / "stranger", self._clock(), label="Stranger")

    def _vm(self, request: dict[int, Any]) -> Vm:
        name = _text(request, 1)
        if name not in self._vms:
            raise UsageError(f"VM: expected one that was launched, got {name!r}; launch it first")
        return self._vms[name]


def _text(request: dict[int, Any], key: int) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise UsageError(f"key {key}: expected a VM id of 1 to 64 characters, got another value")
    return value


def _bytes(request: dict[int, Any], key: int) -> bytes:
    value = request.get(key)
    if type(value) is not bytes:
        raise UsageError(f"key {key}: expected bytes, got another type")
    return value


def _sized(request: dict[int, Any], key: int, size: int) -> bytes:
    value = _bytes(request, key)
    if len(value) != size:
        raise UsageError(f"key {key}: expected {size} bytes, got {len(value)}")
    return value
