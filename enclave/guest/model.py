"""The model's files, read once.

What is hashed is what is loaded: every file is read exactly once into guest memory, hashed while it
is read, and nothing of the model is opened again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attestation.formats.model import ModelFile, model_digest
from attestation.model_folder import MAX_MODEL, open_files


@dataclass(frozen=True)
class ModelFiles:
    """A model in memory. `files` are the very bytes that `digest` is over."""

    files: dict[str, bytearray]
    manifest: tuple[ModelFile, ...]
    digest: bytes

    def __repr__(self) -> str:
        return f"ModelFiles({len(self.files)} files, digest={self.digest.hex()})"


def read_model(directory: Path | str, *, limit: int = MAX_MODEL) -> ModelFiles:
    """Reads every file of `directory` once; at most `limit` bytes together.

    Raises UsageError when the directory cannot be read and ParseError when it holds
    anything but plain data files.
    """
    files: dict[str, bytearray] = {}
    manifest = []
    for file in open_files(directory, limit=limit):
        data = files[file.name] = bytearray(file.size)
        manifest.append(file.read(data))
    return ModelFiles(files, tuple(manifest), model_digest(manifest))
