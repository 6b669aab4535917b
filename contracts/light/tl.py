"""A strict reader of TL: a cursor over one serialized object, and the inverse for `bytes`.

Integers are little-endian; `bytes` has a length of 1 or 4 bytes, the data, then zeros up to a
multiple of 4; Bool is one of two constructors. Nothing may follow the object.
Source: TON tl/generate/scheme/{ton_api,lite_api}.tl; constructor = CRC-32 of the schema line.
"""

from __future__ import annotations

from attestation.errors import ParseError

BOOLS = {0x997275B5: True, 0xBC799737: False}
LONG = 254


class TlReader:
    """Every method raises ParseError past the end of the object."""

    def __init__(self, data: bytes, what: str) -> None:
        self.what = what
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            text = f"{self.what}: expected {size} bytes at {self._at}, got {len(part)}"
            raise ParseError(text)
        self._at += size
        return part

    def uint(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "little")

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def flag(self) -> bool:
        tag = self.uint()
        if tag not in BOOLS:
            raise ParseError(f"{self.what}: expected a Bool constructor, got {tag:#010x}")
        return BOOLS[tag]

    def expect(self, *tags: int) -> int:
        """The next constructor, which must be one of `tags`."""
        got = self.uint()
        if got not in tags:
            wanted = " or ".join(f"{tag:#010x}" for tag in tags)
            raise ParseError(f"{self.what}: expected the constructor {wanted}, got {got:#010x}")
        return got

    def blob(self) -> bytes:
        size, head = self.uint(1), 1
        if size == LONG:
            size, head = self.uint(3), 4
        if (size < LONG) != (
            head == 1
        ):  # 255 is not a length, and the long form is only for long values
            raise ParseError(
                f"{self.what}: expected the shortest encoding of a length, got another for {size}"
            )
        value = self.take(size)
        if any(self.take(-(head + size) % 4)):
            raise ParseError(
                f"{self.what}: expected zeros as padding after {size} bytes, got others"
            )
        return value

    def count(self, limit: int) -> int:
        """The length of a vector, at most `limit`."""
        size = self.uint()
        if size > limit:
            raise ParseError(f"{self.what}: expected at most {limit} entries, got {size}")
        return size

    def ended(self) -> bool:
        return self._at == len(self._data)

    def end(self) -> None:
        if self._at != len(self._data):
            raise ParseError(
                f"{self.what}: expected {self._at} bytes in all, got {len(self._data)}"
            )


def tl_bytes(data: bytes) -> bytes:
    """A `bytes` field."""
    short = len(data) < LONG
    head = bytes((len(data),)) if short else bytes((LONG,)) + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def tl_id(constructor: int) -> bytes:
    """The bytes of a constructor's number (4, little-endian)."""
    return constructor.to_bytes(4, "little")
