"""The engines that a guest can run, by the name in its measured host config.

To add an engine, add a module to this package and a row here. The libraries of an engine are
imported when it is chosen, so a guest loads only those of the engine that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attestation.errors import ParseError
from enclave.guest.engines.base import Engine, EngineSettings
from enclave.guest.engines.embedding import Embedder
from enclave.guest.model import ModelFiles

MakeEngine = Callable[[ModelFiles, EngineSettings], Engine | Embedder]
DEFAULT, EMBEDDING = "torch", "embedding"


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

    def embedding(files: ModelFiles, chosen: EngineSettings) -> Embedder:
        from enclave.guest.engines.embedding_engine import EmbeddingEngine, EmbeddingSettings

        for key, only in (("slots", None), ("dtype", "float32")):
            if getattr(chosen, key) not in (None, only):
                raise ParseError(
                    f"host config: [engine] {key}: expected {only or 'no such key'} for the engine "
                    f"{EMBEDDING}, got another value"
                )
        settings = EmbeddingSettings(max_len=chosen.max_len, threads=chosen.threads or threads)
        return EmbeddingEngine(files, settings=settings)

    return MappingProxyType({DEFAULT: torch, EMBEDDING: embedding})


def choose(found: Mapping[str, MakeEngine], name: str) -> MakeEngine:
    """The engine that the host config names. Raises ParseError if there is no such engine."""
    if name not in found:
        known = ", ".join(sorted(found))
        raise ParseError(f"host config: [engine] name: expected one of {known}, got {name}")
    return found[name]
