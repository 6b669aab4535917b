"""Which model the files of a directory are: the manifest and the digest that a guest would claim.

A policy names the digest. Nothing here needs PyTorch, and no file is held in memory.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attestation.errors import UmayError, UsageError
from attestation.formats.digests import DIGEST_BYTES
from attestation.formats.model import ModelFile, model_digest
from attestation.model_folder import read_manifest


class OtherModel(UmayError):
    """The directory holds a whole model, and not the one that was expected."""

    exit_code = 4
    code = "other-model"


def check(directory: Path, *, expected: bytes) -> bytes:
    """The model's digest. Raises OtherModel, which says it, unless it is `expected`; and what
    `read_manifest` raises."""
    digest = model_digest(read_manifest(directory))
    if not hmac.compare_digest(digest, expected):
        raise OtherModel(
            f"model: {directory}: expected the digest {expected.hex()}, got {digest.hex()}: it is "
            "another model, or one of its files was changed; `umay host model manifest` lists them"
        )
    return digest


def read_digest(text: str) -> bytes:
    """A digest as `manifest` prints it: 64 hex digits in lower case. Raises UsageError."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES or digest.hex() != text:
        raise UsageError(
            f"--expect: expected {2 * DIGEST_BYTES} hex digits in lower case, got "
            f"{len(text)} characters"
        )
    return digest


def to_json(manifest: Sequence[ModelFile]) -> dict[str, Any]:
    """Digests in hex, sizes in bytes."""
    files = [
        {"name": file.name, "size": file.size, "sha256": file.sha256.hex()} for file in manifest
    ]
    return {"model_digest": model_digest(manifest).hex(), "files": files}


def lines(manifest: Sequence[ModelFile]) -> list[str]:
    """The manifest as a table: SHA-256, size in bytes, name; then the model's digest."""
    width = max(len(f"{file.size}") for file in manifest)
    rows = [f"{file.sha256.hex()}  {file.size:>{width}}  {file.name}" for file in manifest]
    head = f"{'SHA-256':<64}  {'bytes':>{width}}  file"
    return [head, *rows, "", f"model digest: {model_digest(manifest).hex()}"]
