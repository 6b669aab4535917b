"""What the agent tells the guest: a fresh beacon, which evidence is anchored, and its end.

Believed for nothing: the beacon is written into the KeyBundle, where clients compare it
with the chain; "anchored" only decides when an epoch begins, and clients check that too.
"""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.url import split_url
from attestation.wire import BOOT_BYTES

TIMEOUT_S = 10.0
MAX_ANSWER = 64 * 1024
_PIECE = 4096
_U32 = 1 << 32
"""The chain writes a block's seqno and time in 32 bits."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The agent answers itself or not at all."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


@dataclass(frozen=True)
class Beacon:
    """A masterchain block as the agent named it. `read` is monotonic seconds."""

    seqno: int
    root_hash: bytes
    utime: int
    read: float

    def utime_at(self, now: float) -> int:
        """Unix seconds at the monotonic time `now`, if the agent named the newest block."""
        return self.utime + round(now - self.read)


class Feed:
    """The agent's feed at `url` (plain http: nothing in it is secret or trusted)."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            scheme = split_url(url).scheme
        except ParseError:
            scheme = ""
        if scheme != "http":
            raise UsageError("agent: expected an http URL of a host agent's feed; see --agent")
        self._url, self._clock = url.rstrip("/"), clock

    def beacon(self) -> Beacon:
        """Raises Unavailable or ParseError."""
        data = self._get("beacon")
        value = cbor.decode_map(data, required=frozenset({0, 1, 2}), limit=MAX_ANSWER)
        if [type(value[key]) for key in (0, 1, 2)] != [int, bytes, int] or len(value[1]) != 32:
            raise ParseError("beacon: expected {0: seqno, 1: root hash, 2: utime}")
        if not (0 <= value[0] < _U32 and 0 <= value[2] < _U32):
            raise ParseError("beacon: expected seqno and utime in 32 bits")
        return Beacon(value[0], value[1], value[2], self._clock())

    def anchored(self) -> frozenset[bytes]:
        """Evidence digests. Raises Unavailable or ParseError."""
        value = cbor.decode(self._get("anchored"), limit=MAX_ANSWER)
        if not isinstance(value, list) or not all(_is_bytes(item, 32) for item in value):
            raise ParseError("anchored: expected a list of digests of 32 bytes")
        return frozenset(value)

    def ending(self) -> frozenset[bytes]:
        """Ids of the boots that the host is ending now. Raises Unavailable or ParseError."""
        value = cbor.decode(self._get("ending"), limit=MAX_ANSWER)
        if not isinstance(value, list) or not all(_is_bytes(item, BOOT_BYTES) for item in value):
            raise ParseError(f"ending: expected a list of boot ids of {BOOT_BYTES} bytes")
        return frozenset(value)

    def _get(self, name: str) -> bytes:
        try:
            with _OPENER.open(f"{self._url}/{name}", timeout=TIMEOUT_S) as answer:
                return _read(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"agent: expected an answer, got {type(error).__name__}") from None


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The body, within TIMEOUT_S and MAX_ANSWER however slowly it drips."""
    until, data = time.monotonic() + TIMEOUT_S, bytearray()
    while piece := answer.read1(_PIECE):
        data += piece
        if len(data) > MAX_ANSWER:
            raise Unavailable(f"agent: expected at most {MAX_ANSWER} bytes")
        if time.monotonic() > until:
            raise Unavailable(f"agent: expected an answer within {TIMEOUT_S:.0f} s")
    if answer.length:
        raise Unavailable(f"agent: expected {answer.length} bytes more")
    return bytes(data)


def _is_bytes(value: object, length: int) -> bool:
    return type(value) is bytes and len(value) == length
