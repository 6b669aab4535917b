"""The engines that a guest can run, by the name in its measured host config.

To add an engine, add a module to this package and a row here. The libraries of an engine are
imported when it is chosen, so a guest loads only those of the engine that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attestation.errors import ParseError
from enclave.guest.engines.base import Engine, EngineSettings
from enclave.guest.model import ModelFiles

MakeEngine = Callable[[ModelFiles, EngineSettings], Engine]
DEFAULT = "torch"


def engines(*, threads: int | None = None) -> Mapping[str, MakeEngine]:
    """Every engine that this guest has. `threads` limits those that compute in this process,
    where the host config does not."""

    def torch(files: ModelFiles, chosen: EngineSettings) -> Engine:
        from enclave.guest.engines.torch_engine import TorchEngine
        from enclave.guest.engines.torch_settings import TorchSettings

        settings = TorchSettings(
            slots=chosen.slots or TorchSettings.slots,
            max_len=chosen.max_len,
            dtype=chosen.dtype,
            threads=chosen.threads or threads,
        )
        return TorchEngine(files, settings=settings)

    return MappingProxyType({DEFAULT: torch})


def choose(found: Mapping[str, MakeEngine], name: str) -> MakeEngine:
    """The engine that the host config names. Raises ParseError if there is no such engine."""
    if name not in found:
        known = ", ".join(sorted(found))
        raise ParseError(f"host config: [engine] name: expected one of {known}, got {name}")
    return found[name]
