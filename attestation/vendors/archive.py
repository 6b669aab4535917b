"""Collateral on disk, each part once, under its own digest.

    parts/<sha256 hex>      the bytes
    sets/<manifest digest>  CBOR {name: sha256}: what was collected together
    names/<name>/<sha256>   empty; "/" in a name is written "~"

What is read back is compared with its name, so a damaged file is an error and never another
part. Nothing is deleted: what a machine was judged by stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import own_directory, replace, unusable
from attestation.formats import cbor
from attestation.formats.collateral import MAX_PART_BYTES, Collateral
from attestation.formats.dates import Window
from attestation.formats.digests import sha256
from attestation.vendors.validity import window

_DIGEST = re.compile("[0-9a-f]{64}")


class Archive:
    """One directory of this user's own, made with mode 0700. Methods raise UsageError where it
    cannot be used, Unavailable as for a full disk."""

    def __init__(self, directory: Path) -> None:
        self._parts, self._sets, self._names = (
            directory / name for name in ("parts", "sets", "names")
        )
        for path in (directory, self._parts, self._sets, self._names):
            own_directory(path)

    def add(self, collateral: Collateral) -> bytes:
        """Keeps every part and the set. Returns the manifest's digest (32 bytes)."""
        manifest, digest = collateral.manifest(), collateral.manifest_digest()
        for name, part in collateral.parts.items():
            _write(self._parts / manifest[name].hex(), part)
            _mark(self._names / name.replace("/", "~"), manifest[name].hex())
        _write(self._sets / digest.hex(), cbor.encode(manifest))
        return digest

    def collected(self, manifest_digest: bytes) -> Collateral:
        """The set of this digest. Raises Unavailable where it was never kept, ParseError where
        the directory holds other bytes."""
        manifest = cbor.decode(_read(self._sets / manifest_digest.hex()))
        digests = manifest.values() if isinstance(manifest, dict) else (None,)
        if not all(isinstance(digest, bytes) for digest in digests):
            raise ParseError(
                f"{self._sets / manifest_digest.hex()}: expected a manifest, got another value"
            )
        found = Collateral({name: self._part(digest) for name, digest in manifest.items()})
        if found.manifest_digest() != manifest_digest:
            raise ParseError(
                f"{self._sets / manifest_digest.hex()}: expected the manifest of this "
                "digest, got another"
            )
        return found

    def versions(self) -> Iterator[tuple[str, bytes, Window | None]]:
        """(name, sha256, window) of everything kept; no window where a part has no dates."""
        for place in _inside(self._names):
            name = place.name.replace("~", "/")
            for path in _inside(place) if place.is_dir() else ():
                if _DIGEST.fullmatch(path.name):  # else another program's
                    digest = bytes.fromhex(path.name)
                    yield name, digest, _window(name, self._part(digest))

    def current(self, now: int) -> Collateral:
        """Of each name the part that counts at `now` (Unix seconds) and was issued last."""
        best: dict[str, tuple[int, bytes]] = {}
        for name, digest, dates in self.versions():
            if dates is not None and dates[0] <= now <= dates[1]:
                best[name] = max(best.get(name, (0, b"")), (dates[0], digest))
        return Collateral({name: self._part(digest) for name, (_, digest) in best.items()})

    def _part(self, digest: bytes) -> bytes:
        data = _read(self._parts / digest.hex())
        if sha256(data) != digest:
            raise ParseError(
                f"{self._parts / digest.hex()}: expected bytes of this SHA-256, got others"
            )
        return data


def _window(name: str, data: bytes) -> Window | None:
    try:
        return window(name, data)
    except ParseError:
        return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PART_BYTES + 1)
    except FileNotFoundError:
        raise Unavailable(f"{path}: expected a file of the archive, it was never kept") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_PART_BYTES:
        raise ParseError(f"{path}: expected at most {MAX_PART_BYTES} bytes, got more")
    return data


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from None


def _mark(place: Path, digest: str) -> None:
    """An empty file, made in one step: a reader beside sees it or not."""
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        (place / digest).touch(mode=0o600)
    except OSError as error:
        raise unusable(place, error) from None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; what lies there already is replaced where it is damaged."""
    try:
        if path.exists() and path.read_bytes() == data:
            return
    except OSError as error:
        raise unusable(path, error) from None
    replace(path, data)
