"""Texts that may be written nowhere, and a search for them in everything that was written.

A marker is a random text that occurs nowhere else, so one hit is a leak. The search knows the
encodings in which a text gets into logs, files and pages by accident.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

MARKER_CHARS = 24
"""Long enough that no other text holds it by chance, in none of its forms."""

FEWEST_IDS = 6
"""Token ids in a row that say which text they are of."""


def marker(name: str) -> str:
    """A text of letters and digits, the same in every run."""
    draw = random.Random(name)
    return "".join(draw.choices(string.ascii_lowercase + string.digits, k=MARKER_CHARS))


@dataclass(frozen=True)
class Leak:
    """Where a text stands that should stand nowhere, and how it is written there."""

    place: str
    name: str
    form: str


def forms(text: str) -> Iterator[tuple[str, bytes]]:
    """The text in every encoding that is searched, with the name of each."""
    raw = text.encode()
    yield "raw", raw
    yield "lower", text.lower().encode()
    yield "upper", text.upper().encode()
    yield "reversed", text[::-1].encode()
    yield "json", json.dumps(text)[1:-1].encode()
    yield "unicode escapes", "".join(f"\\u{ord(char):04x}" for char in text).encode()
    yield "hex", raw.hex().encode()
    yield "url", quote(text, safe="").encode()
    yield "url, every byte", "".join(f"%{byte:02x}" for byte in raw).encode()
    yield "utf-16-le", text.encode("utf-16-le")
    yield "utf-16-be", text.encode("utf-16-be")
    yield "utf-32-le", text.encode("utf-32-le")
    yield from _base64(raw)
    digest = hashlib.sha256(raw).digest()
    yield "sha256", digest
    yield "sha256 in hex", digest.hex().encode()
    yield "sha256 in base64", base64.b64encode(digest)[:-1]
    for name, ids in (("bytes", list(raw)), ("characters", [ord(char) for char in text])):
        yield f"list of {name}", ", ".join(map(str, ids)).encode()


def of_ids(ids: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """The token ids of a text, as lists and as machine words."""
    assert len(ids) >= FEWEST_IDS
    for separator in (", ", ",", " ", "\n"):
        yield "token ids", separator.join(map(str, ids)).encode()
    for width in (2, 4, 8):
        for order in ("little", "big"):
            yield f"token ids, u{8 * width}", b"".join(i.to_bytes(width, order) for i in ids)  # type: ignore[arg-type]


def _base64(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """At each of the three places in a group; the first and last group depend on neighbours."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        inner = encoded[4 if offset else 0 : len(encoded) // 4 * 4 - 4]
        yield f"base64 at {offset}", inner
        yield f"base64url at {offset}", inner.translate(bytes.maketrans(b"+/", b"-_"))


def leaks(
    places: Mapping[str, bytes],
    markers: Mapping[str, str],
    ids: Mapping[str, Sequence[int]] | None = None,
) -> list[Leak]:
    """What of the markers stands in which place, in any case of its letters; the first form of
    each that was found."""
    wanted = [(name, *form) for name, text in markers.items() for form in forms(text)]
    wanted += [(name, *form) for name, of in (ids or {}).items() for form in of_ids(of)]
    found: dict[tuple[str, str], Leak] = {}
    for place, content in places.items():
        lowered = content.lower()
        for name, form, seen in wanted:
            if seen in content or seen.lower() in lowered:
                found.setdefault((place, name), Leak(place, name, form))
    return list(found.values())


def windows(text: str, length: int = MARKER_CHARS) -> Iterator[str]:
    """Parts of a longer text that no other text holds by chance, for example of an answer."""
    for start in range(0, len(text) - length + 1, length // 2):
        yield text[start : start + length]


def files_below(*directories: Path) -> dict[str, bytes]:
    """The content and the name of every file below the directories."""
    found = {}
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file():
                found[str(path)] = str(path).encode() + b"\n" + path.read_bytes()
    return found


MOST_BYTES = 64 << 20
"""Of one file in a directory that everybody shares."""


class SharedPlaces:
    """Directories in which every program of this machine may leave files; `new` are those that
    were not there before."""

    DIRECTORIES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))

    def __init__(self) -> None:
        self._before = self._listed()

    def new(self) -> dict[str, bytes]:
        found = {}
        for path in self._listed() - self._before:
            with suppress(OSError):  # it is somebody's, and may be gone
                if path.is_file() and path.stat().st_size <= MOST_BYTES:
                    found[str(path)] = str(path).encode() + path.read_bytes()
        return found

    def _listed(self) -> set[Path]:
        return {path for place in self.DIRECTORIES if place.is_dir() for path in place.iterdir()}


def joined(lines: Iterable[object]) -> bytes:
    return "\n".join(map(str, lines)).encode(errors="backslashreplace")
