"""A strict reader of safetensors files. The tensors must cover everything after the header, without
a gap and without an overlap.

Tensors are views of the file's bytes in memory. They are never copies, and never read from disk.
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
"""The most bytes of a header, as in the library safetensors."""

MAX_DIMENSIONS = 8

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
          "U8": 1, "BOOL": 1}  # fmt: skip
"""The number of bytes of an element."""


@dataclass(frozen=True)
class TensorSpan:
    """Where a tensor is in its file: `start` and `end` are offsets in bytes."""

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
        raise ParseError(
            f"safetensors: expected a header within the file and of at most {MAX_HEADER} bytes, "
            f"got {length}"
        )
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
        raise ParseError("safetensors: expected a header in JSON, got other bytes") from None
    if not isinstance(value, dict):
        raise ParseError("safetensors: expected a JSON object as header, got another value")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ParseError("safetensors: header: expected each key once, got one twice")
    return value


def _span(name: str, entry: Any, base: int) -> TensorSpan:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ParseError(
            f"safetensors: {name!r}: expected dtype, shape and data_offsets, got other fields"
        )
    dtype, shape = entry["dtype"], _integers(name, entry["shape"], MAX_DIMENSIONS)
    offsets = _integers(name, entry["data_offsets"], 2)
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ParseError(
            f"safetensors: {name!r}: dtype: expected one of {', '.join(WIDTHS)}, got another"
        )
    size = math.prod(shape) * WIDTHS[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ParseError(
            f"safetensors: {name!r}: expected data_offsets of {size} bytes, as dtype and shape "
            "say, got others"
        )
    if (base + offsets[0]) % WIDTHS[dtype]:
        raise ParseError(
            f"safetensors: {name!r}: expected data that begins at a multiple of {WIDTHS[dtype]} "
            "bytes, got another place"
        )
    return TensorSpan(name, dtype, shape, base + offsets[0], base + offsets[1])


def _integers(name: str, value: Any, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ParseError(
            f"safetensors: {name!r}: expected a list of at most {most} numbers, got another value"
        )
    if not all(type(item) is int and 0 <= item < 2**48 for item in value):
        raise ParseError(
            f"safetensors: {name!r}: expected numbers from 0 to 2^48, got another value"
        )
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
                raise ParseError(
                    f"safetensors: expected each tensor in one file, got {span.name!r} in two files"
                )
            views[span.name] = _view(files[name], span)
    if not views:
        raise ParseError("model: expected at least one tensor in *.safetensors files, got none")
    return views


def check_shapes(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ParseError unless `found` has exactly the names and shapes in `expected`."""
    got = {name: tuple(value.shape) for name, value in found.items()}
    if differing := sorted(name for name, _ in expected.items() ^ got.items()):
        raise ParseError(
            "weights: expected exactly the names and shapes of config.json, got a difference at "
            f"{differing[0]!r}"
        )


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
