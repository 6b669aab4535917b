"""A model's directory that is made whole or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attestation.errors import Unavailable
from attestation.files import replace, unusable

ROOM = 64 * 1024 * 1024
"""Bytes that must be free beside the weights: tokenizers have up to 35 MB."""


@contextmanager
def made(out: Path) -> Iterator[Path]:
    """A fresh directory, which becomes `out` at the end, or is removed. Raises Unavailable or
    UsageError where the disk does not allow it."""
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        fresh.rename(out)
    except OSError as error:
        raise unusable(out, error) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Raises Unavailable unless `needed` bytes of weights, and ROOM, are free beside `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + ROOM:
        raise Unavailable(
            f"{folder.parent}: expected {(needed + ROOM) >> 20} MiB of free disk, got "
            f"{free >> 20} MiB"
        )


def write_json(path: Path, value: dict[str, Any]) -> None:
    write(path, f"{json.dumps(value, indent=1, sort_keys=True)}\n")


def write(path: Path, text: str) -> None:
    replace(path, text.encode(), mode=0o644)
