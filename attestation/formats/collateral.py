"""Dated vendor material (TCB info, CRLs, RIMs, OCSP), named and content-addressed.

Collateral proves nothing by itself: each part is signed by its vendor and checked by
the verifier. It is kept apart from Evidence because it is renewed without a new quote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.digests import domain_digest, sha256

MAX_PARTS = 256
MAX_PART_BYTES = 2 * 1024 * 1024
_NAME = re.compile(r"[a-z]+(/[A-Za-z0-9._-]{1,160}){1,3}")


@dataclass(frozen=True)
class FetchedAnswer:
    """A vendor's answer. Header names are in lower case."""

    body: bytes
    headers: Mapping[str, str]


class Fetcher(Protocol):
    """The one way to the network: an answer of at most `limit` bytes, or Unavailable."""

    def get(self, url: str, *, limit: int) -> FetchedAnswer: ...

    def post(self, url: str, body: bytes, *, media_type: str, limit: int) -> FetchedAnswer: ...


def manifest_digest(manifest: bytes) -> bytes:
    """Of a manifest's deterministic CBOR: 32 bytes, leaf field 7."""
    return domain_digest("umay/collateral/v1", manifest)


@dataclass(frozen=True)
class Collateral:
    """Named parts, e.g. "intel/tcb_info" or "nvidia/rim/<id>"; vendors/fetch.py names them all."""

    parts: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if len(self.parts) > MAX_PARTS:
            raise ParseError(
                f"collateral: expected at most {MAX_PARTS} parts, got {len(self.parts)}"
            )
        object.__setattr__(self, "parts", MappingProxyType(dict(self.parts)))
        for name, part in self.parts.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ParseError(
                    "collateral: expected part names such as intel/tcb_info, got one of "
                    "another form"
                )
            if not isinstance(part, bytes) or len(part) > MAX_PART_BYTES:
                raise ParseError(
                    f"collateral: {name}: expected at most {MAX_PART_BYTES} bytes, got more "
                    "or another type"
                )

    def manifest(self) -> dict[str, bytes]:
        """SHA-256 (32 bytes) of every part, by name."""
        return {name: sha256(part) for name, part in self.parts.items()}

    def manifest_digest(self) -> bytes:
        """32-byte digest of the manifest: leaf field 7."""
        return self._manifest_digest

    @cached_property
    def _manifest_digest(self) -> bytes:
        return manifest_digest(self.manifest_bytes())

    def manifest_bytes(self) -> bytes:
        """What the log keeps of the set beside its parts."""
        return cbor.encode(self.manifest())

    def to_bytes(self) -> bytes:
        return cbor.encode({0: 1, 1: dict(self.parts)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Collateral:
        """Raises ParseError for anything that is not exactly one collateral set."""
        fields = cbor.decode_map(data, required=frozenset({0, 1}))
        if type(fields[0]) is not int or fields[0] != 1 or not isinstance(fields[1], dict):
            raise ParseError("collateral: expected version 1 with a map of parts, got another form")
        return cls(fields[1])
