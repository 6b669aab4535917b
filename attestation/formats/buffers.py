"""Buffers of a fixed size, as kernels, drivers and firmware fill them.

What a host hands over is often longer than what stands in it. Evidence carries no byte
of that rest: whoever takes a quote or a report cuts it off at the length the content
itself states, and only where it is zero, so that nothing unknown is thrown away.
"""

from __future__ import annotations

from attestation.errors import ParseError


def cut_zeros(buffer: bytes, length: int, what: str) -> bytes:
    """The first `length` bytes of `buffer`. Raises ParseError where the rest is not zero."""
    rest = buffer[length:]
    if any(rest):
        at = length + len(rest) - len(rest.lstrip(b"\0"))
        text = f"expected zero padding after its {length} bytes, got {buffer[at]:#04x} at byte {at}"
        raise ParseError(f"{what}: {text}")
    return buffer[:length]
