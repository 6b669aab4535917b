"""Searches everything that a relay handled for secret text.

The record holds bodies, headers and paths of both directions. The search looks for parts of the
secret text, plain and in the encodings in which it might have passed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

WINDOW = 18
"""Bytes; long enough that ciphertext matches by chance in one of 2^100 records."""


def contains_secret(record: bytes, secrets: tuple[str, ...]) -> bool:
    """Whether the record holds any window of any secret, in any of the forms."""
    lowered = record.lower()
    return any(
        form in record or form.lower() in lowered
        for secret in secrets
        for window in _windows(secret)
        for form in forms(window)
    )


def forms(text: str) -> Iterator[bytes]:
    """The text plain, JSON-escaped, in hex and in base64 at each of its three offsets."""
    raw = text.encode()
    yield raw
    yield json.dumps(text)[1:-1].encode()
    yield raw.hex().encode()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        # The first and last group depend on neighbours; what lies between does not.
        start = 4 if offset else 0
        yield encoded[start : len(encoded) // 4 * 4 - 4]
        yield encoded[start : len(encoded) // 4 * 4 - 4].translate(bytes.maketrans(b"+/", b"-_"))


def _windows(secret: str) -> Iterator[str]:
    yield secret
    for start in range(0, max(0, len(secret) - WINDOW) + 1, WINDOW // 2):
        window = secret[start : start + WINDOW]
        if len(window) == WINDOW:
            yield window
