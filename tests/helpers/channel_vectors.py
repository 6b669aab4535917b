"""Reads tests/vectors: every hexadecimal string as bytes."""

from __future__ import annotations

import json
from typing import Any

from tests.helpers.places import VECTORS


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def unhex(values: dict[str, Any], *names: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(values[name]) for name in names)
