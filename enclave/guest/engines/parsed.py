"""How the process that reads bodies passes on what it has read: a head in JSON, then texts.

u32 length of the head ‖ head ‖ texts in UTF-8
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_HEAD_BYTES = 4


def packed(head: Mapping[str, Any], texts: Iterable[bytes]) -> bytes:
    shown = json.dumps(head).encode()
    return b"".join((len(shown).to_bytes(_HEAD_BYTES, "big"), shown, *texts))


def unpacked(data: memoryview) -> tuple[bytes, memoryview]:
    """The head, and the bytes of the texts."""
    end = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "big")
    return bytes(data[_HEAD_BYTES:end]), data[end:]
