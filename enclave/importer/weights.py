"""Writes tensors in bfloat16 or float32 as one safetensors file, one tensor after the other.

Never more than one tensor is in memory. Values are rounded to the nearest bfloat16, ties to even,
as PyTorch rounds them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attestation.errors import ParseError
from enclave.importer.gguf_file import Floats

WIDTHS = {"BF16": 2, "F32": 4}
"""Bytes of a number, by safetensors' name of its type."""

ALIGNMENT = 8
"""Of the first tensor in the file, as the library safetensors writes it."""


def size_of(shapes: Iterable[tuple[int, ...]], kind: str = "BF16") -> int:
    """Bytes of these tensors in numbers of this kind."""
    return sum(WIDTHS[kind] * math.prod(shape) for shape in shapes)


def write(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Callable[[str], Floats],
    *,
    kind: str = "BF16",
) -> None:
    """A new file. `values` is called once for each name, in the order of `shapes`. Raises
    ParseError for a tensor that has another shape, or a value that is not finite in this kind."""
    table, at = {}, 0
    for name, shape in shapes.items():
        end = at + size_of([shape], kind)
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps({"__metadata__": {"format": "pt"}} | table).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            found = values(name)
            if found.shape != shape:
                raise ParseError(f"{name}: expected the shape {shape}, got {found.shape}")
            file.write((rounded if kind == "BF16" else whole)(name, found).tobytes())
        file.flush()
        os.fsync(file.fileno())


def whole(name: str, values: Floats) -> Floats:
    """The same, little-endian. Raises ParseError for what is not finite."""
    if not np.isfinite(values).all():
        raise _infinite(name)
    return np.ascontiguousarray(values, dtype="<f4")


def rounded(name: str, values: Floats) -> npt.NDArray[np.uint16]:
    """float32 as the bits of bfloat16. Raises ParseError for what is not finite then."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    found = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    if not np.isfinite(values).all() or ((found & 0x7F80) == 0x7F80).any():
        raise _infinite(name)
    return found


def _infinite(name: str) -> ParseError:
    return ParseError(f"{name}: expected finite weights, got an infinite one or NaN")
