"""The identity of a model: a manifest of every file that changes its output, and its digest
(DESIGN §4).

A model is a directory of plain files, of kinds that carry data and no code. Names are hashed with
sizes and contents, so two models with equal weights and different templates differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest

MODEL_DOMAIN = "umay/model/v1"

WEIGHTS = ".safetensors"

DATA_SUFFIXES = (WEIGHTS, ".json", ".jinja", ".txt")
"""Formats that hold data only. Pickles (.bin, .pt, .ckpt) and code (.py) run when loaded."""


@dataclass(frozen=True)
class ModelFile:
    """One line of the model's manifest: size in bytes, SHA-256 of the content."""

    name: str
    size: int
    sha256: bytes


def model_digest(manifest: Iterable[ModelFile]) -> bytes:
    """H("umay/model/v1" ‖ 0 ‖ CBOR [[name, size, sha256], …]), by UTF-8 name: 32 bytes."""
    lines = sorted(manifest, key=lambda line: line.name.encode())
    table = [[line.name, line.size, line.sha256] for line in lines]
    return domain_digest(MODEL_DOMAIN, cbor.encode(table))


def check_name(name: str) -> None:
    """Raises ParseError for the name of a file that is hidden or no data file."""
    if name.startswith(".") or not name.endswith(DATA_SUFFIXES) or not name.isprintable():
        kinds = ", ".join(DATA_SUFFIXES)
        raise ParseError(f"model: expected only data files ({kinds}), got {name!r}")
