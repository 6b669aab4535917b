"""Sealed bodies: one ciphertext (RFC 9458) or a sequence of chunks (chunked OHTTP).

Writers take plaintext and give wire bytes, readers the reverse; plain and chunked look
alike, so that callers need not care. A reader releases authenticated bytes only. The last
chunk reaches to the end of the stream, so it is opened by `finish`: before `finish` has
returned, the message may have been cut. After an error a reader stays broken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from attestation.channel import varint
from attestation.channel.hpke import Sequence
from attestation.channel.protocol import FINAL_AAD, MAX_CHUNK_BYTES, TAG_BYTES
from attestation.errors import ChannelError, ParseError, Truncated, UmayError, UsageError

MAX_SEALED_BYTES = MAX_CHUNK_BYTES + TAG_BYTES


class Writer(ABC):
    """`head` goes before the first sealed byte."""

    def __init__(self, sealer: Sequence, *, head: bytes) -> None:
        self._sealer = sealer
        self._head = head
        self._finished = False

    @abstractmethod
    def write(self, data: bytes) -> bytes:
        """Wire bytes that may be sent now, perhaps none."""

    @abstractmethod
    def finish(self) -> bytes:
        """The last wire bytes. Without them the reader reports a truncated message."""

    def _check_open(self) -> None:
        if self._finished:
            raise UsageError("writer: expected no write or finish after finish")


class ChunkedWriter(Writer):
    """Each write becomes one chunk, or several of 16 KiB; the final chunk is empty."""

    def write(self, data: bytes) -> bytes:
        self._check_open()
        step = MAX_CHUNK_BYTES
        return b"".join(self._chunk(data[i : i + step]) for i in range(0, len(data), step))

    def finish(self) -> bytes:
        self._check_open()
        self._finished = True
        return self._take_head() + b"\0" + self._sealer.seal(b"", FINAL_AAD)

    def _chunk(self, data: bytes) -> bytes:
        sealed = self._sealer.seal(data)
        return self._take_head() + varint.encode(len(sealed)) + sealed

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head


class PlainWriter(Writer):
    """Keeps everything until `finish`, which seals it as one."""

    def __init__(self, sealer: Sequence, *, head: bytes) -> None:
        super().__init__(sealer, head=head)
        self._data = bytearray()

    def write(self, data: bytes) -> bytes:
        self._check_open()
        self._data += data
        return b""

    def finish(self) -> bytes:
        self._check_open()
        self._finished = True
        return self._head + self._sealer.seal(bytes(self._data))


class Reader(ABC):
    """`limit`: plaintext bytes of the whole message."""

    def __init__(self, opener: Sequence, *, limit: int) -> None:
        self._opener = opener
        self._room = limit
        self._wire_room = 2 * limit + MAX_SEALED_BYTES
        self._buffer = bytearray()
        self._closed = False

    def push(self, data: bytes) -> list[bytes]:
        """Plaintext of the chunks that `data` completes. Raises ChannelError."""
        self._check_open()
        self._wire_room -= len(data)
        if self._wire_room < 0:
            self._closed = True
            raise ChannelError("sealed message: expected one within the limit, got a longer one")
        self._buffer += data
        try:
            return self._take()
        except UmayError:
            self._closed = True
            raise

    def finish(self) -> bytes:
        """Plaintext of the final chunk. Raises Truncated when it is missing, ChannelError."""
        self._check_open()
        self._closed = True
        return self._last()

    @abstractmethod
    def _take(self) -> list[bytes]: ...

    @abstractmethod
    def _last(self) -> bytes: ...

    def _open(self, sealed: bytes, aad: bytes = b"") -> bytes:
        if len(sealed) < TAG_BYTES:
            raise Truncated("sealed message: expected at least 16 more bytes, it ends too early")
        plaintext = self._opener.open(sealed, aad)
        self._room -= len(plaintext)
        if self._room < 0:
            raise ChannelError("sealed message: expected one within the limit, got a longer one")
        return plaintext

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("reader: expected no push or finish after finish or after an error")


class ChunkedReader(Reader):
    def __init__(self, opener: Sequence, *, limit: int) -> None:
        super().__init__(opener, limit=limit)
        self._final = False

    def _take(self) -> list[bytes]:
        plain = []
        while (sealed := self._next()) is not None:
            plain.append(self._open(sealed))
        return plain

    def _next(self) -> bytes | None:
        """The next sealed chunk that is whole; None while there is none."""
        buffer = self._buffer
        if not self._final and buffer:
            start = varint.size(buffer[0])
            if len(buffer) < start:
                return None
            length = _length(buffer[:start])
            if length:
                if len(buffer) < start + length:
                    return None
                sealed = bytes(buffer[start : start + length])
                del buffer[: start + length]
                return sealed
            self._final = True
            del buffer[:start]
        if self._final and len(buffer) > MAX_SEALED_BYTES:
            raise ChannelError(f"final chunk: expected at most {MAX_SEALED_BYTES} bytes, got more")
        return None

    def _last(self) -> bytes:
        if not self._final:
            raise Truncated("sealed message: expected a final chunk, it ends without one")
        return self._open(bytes(self._buffer), FINAL_AAD)


class PlainReader(Reader):
    def _take(self) -> list[bytes]:
        if len(self._buffer) > self._room + TAG_BYTES:
            raise ChannelError("sealed message: expected one within the limit, got a longer one")
        return []

    def _last(self) -> bytes:
        return self._open(bytes(self._buffer))


def writer(sealer: Sequence, *, head: bytes, chunked: bool) -> Writer:
    return (ChunkedWriter if chunked else PlainWriter)(sealer, head=head)


def reader(opener: Sequence, *, limit: int, chunked: bool) -> Reader:
    return (ChunkedReader if chunked else PlainReader)(opener, limit=limit)


def _length(prefix: bytearray) -> int:
    try:
        length = varint.decode(prefix)
    except ParseError as error:
        raise ChannelError(f"chunk length: {error}") from None
    if length and not TAG_BYTES <= length <= MAX_SEALED_BYTES:
        raise ChannelError(f"chunk: expected 16 to {MAX_SEALED_BYTES} bytes, got another length")
    return length
