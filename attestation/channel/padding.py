"""How lengths are hidden: requests by trailing zeros, responses by SSE comments.

A padded length depends on the bucket alone. Padding stands inside the ciphertext.
"""

from __future__ import annotations

from attestation.errors import ParseError

MIN_REQUEST_BYTES = 1024
PADME_FROM_BYTES = 64 * 1024
RESPONSE_BUCKET_BYTES = 512
SHORTEST_COMMENT = b":\n\n"


def request_bucket(length: int) -> int:
    """The padded length: 1, 2, 4 … 64 KiB, then Padmé (at most 12 % more)."""
    if length <= PADME_FROM_BYTES:
        return max(MIN_REQUEST_BYTES, 1 << (length - 1).bit_length())
    return _padme(length)


def pad_request(message: bytes, *, limit: int) -> bytes:
    """A binary HTTP request with zeros up to its bucket, or to `limit` where that is less.

    Raises ParseError when the message alone is longer than `limit` bytes.
    """
    if len(message) > limit:
        raise ParseError(f"request: expected at most {limit} bytes, got more")
    return message.ljust(min(request_bucket(len(message)), limit), b"\0")


def sse_comment(length: int) -> bytes:
    """An SSE comment event that, after `length` bytes of whole events, fills the bucket."""
    missing = -length % RESPONSE_BUCKET_BYTES
    if missing == 0:
        return b""
    if missing < len(SHORTEST_COMMENT):
        missing += RESPONSE_BUCKET_BYTES
    return b":" + b" " * (missing - len(SHORTEST_COMMENT)) + b"\n\n"


def _padme(length: int) -> int:
    """Reducing Metadata Leakage from Encrypted Files (PURBs), §4: keep the top bits only."""
    exponent = length.bit_length() - 1
    free = exponent - exponent.bit_length()
    mask = (1 << free) - 1
    return (length + mask) & ~mask
