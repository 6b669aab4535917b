"""safetensors, read strictly: header, then tensors that cover the rest without gap or overlap.

Tensors are views of the file's bytes in memory, never copies and never read from disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attestation.errors import ParseError

if TYPE_CHECKING:
    import torch

MAX_HEADER = 100 * 1024 * 1024
"""Bytes; the limit of the safetensors library."""

MAX_DIMENSIONS = 8

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
          "U8": 1, "BOOL": 1}  # fmt: skip
"""Bytes per element."""


@dataclass(frozen=True)
class TensorSpan:
    """Where a tensor lies: `start` and `end` are offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_header(data: bytes | bytearray) -> tuple[TensorSpan, ...]:
    """Every tensor of a safetensors file, in the order of its bytes. Raises ParseError."""
    if len(data) < 8:
        raise ParseError(f"safetensors: expected at least 8 bytes, got {len(data)}")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise ParseError(f"safetensors: header of {length} bytes does not fit")
    table = _header_object(bytes(data[8 : 8 + length]))
    table.pop("__metadata__", None)
    spans = sorted(
        (_span(name, entry, 8 + length) for name, entry in table.items()),
        key=lambda span: (span.start, span.end),
    )
    at = 8 + length
    for span in spans:
        if span.start != at:
            raise ParseError(f"safetensors: {span.name}: expected offset {at}, got {span.start}")
        at = span.end
    if at != len(data):
        raise ParseError(f"safetensors: expected {at} bytes, got {len(data)}")
    return tuple(spans)


def _header_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ParseError("safetensors: malformed header") from None
    if not isinstance(value, dict):
        raise ParseError("safetensors: expected a header object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ParseError("safetensors: the header names a key twice")
    return value


def _span(name: str, entry: Any, base: int) -> TensorSpan:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ParseError(f"safetensors: {name!r}: expected dtype, shape and data_offsets")
    dtype, shape = entry["dtype"], _integers(name, entry["shape"], MAX_DIMENSIONS)
    offsets = _integers(name, entry["data_offsets"], 2)
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ParseError(f"safetensors: {name!r}: unsupported dtype")
    size = math.prod(shape) * WIDTHS[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ParseError(f"safetensors: {name!r}: expected {size} bytes of data")
    if (base + offsets[0]) % WIDTHS[dtype]:
        raise ParseError(f"safetensors: {name!r}: its data is not aligned")
    return TensorSpan(name, dtype, shape, base + offsets[0], base + offsets[1])


def _integers(name: str, value: Any, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ParseError(f"safetensors: {name!r}: expected a list of at most {most} numbers")
    if not all(type(item) is int and 0 <= item < 2**48 for item in value):
        raise ParseError(f"safetensors: {name!r}: expected numbers from 0 to 2^48")
    return tuple(value)


def tensors(files: Mapping[str, bytearray]) -> dict[str, torch.Tensor]:
    """Every tensor of every *.safetensors file, as views of those bytes.

    Raises ParseError, also when two files hold a tensor of the same name.
    """
    views: dict[str, torch.Tensor] = {}
    for name in sorted(files):
        if not name.endswith(".safetensors"):
            continue
        for span in parse_header(files[name]):
            if span.name in views:
                raise ParseError(f"safetensors: {span.name!r} is in two files")
            views[span.name] = _view(files[name], span)
    if not views:
        raise ParseError("model: expected at least one tensor")
    return views


def _view(data: bytearray, span: TensorSpan) -> torch.Tensor:
    import torch

    kinds = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
        "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
        "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    count = math.prod(span.shape)
    if count == 0:
        return torch.empty(span.shape, dtype=kinds[span.dtype])
    flat = torch.frombuffer(data, dtype=kinds[span.dtype], count=count, offset=span.start)
    return flat.view(span.shape)
