"""A GGUF file, read with the package `gguf`: its metadata, and its tensors as float32.

The file is mapped into memory; a tensor is dequantised only when its values are asked for. Whatever
the package cannot read is a ParseError, so what comes from here has the types that are stated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attestation.errors import ParseError
from attestation.files import unusable

MAGIC = b"GGUF"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """`shape` is in PyTorch's order (rows first); `values` dequantises."""

    shape: tuple[int, ...]
    kind: str
    values: Callable[[], Floats]


@dataclass(frozen=True)
class Gguf:
    """Values of `metadata` are texts, numbers, booleans and lists of them."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read(path: Path) -> Gguf:
    """Raises UsageError where there is no such file, and ParseError for a file of another kind."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise unusable(path, error) from None
    if start != MAGIC:
        raise ParseError(
            f"{path}: expected a GGUF file, which begins with the bytes {MAGIC.decode()!r}, got "
            f"{start.hex() or 'an empty file'}"
        )
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {item.name: _tensor(item) for item in reader.tensors}
    except Exception as error:  # whatever it stumbles upon in a damaged file
        raise ParseError(
            f"{path}: expected a whole GGUF file, got one that cannot be read "
            f"({type(error).__name__}); download it again"
        ) from None
    if len(tensors) != len(reader.tensors):
        raise ParseError(f"{path}: expected each tensor once, got a name twice")
    return Gguf(metadata, tensors)


def _tensor(item: Any) -> Tensor:
    shape = tuple(int(size) for size in reversed(item.shape))

    def values() -> Floats:
        from gguf import dequantize

        try:
            return np.ascontiguousarray(dequantize(item.data, item.tensor_type)).reshape(shape)
        except NotImplementedError:
            raise ParseError(
                f"GGUF: {item.name}: expected a quantisation that the package gguf knows, got "
                f"{item.tensor_type.name}"
            ) from None

    return Tensor(shape, item.tensor_type.name, values)
