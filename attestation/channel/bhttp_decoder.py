"""A push decoder of binary HTTP messages (RFC 9292), both framings, both kinds.

`push` returns the events that the bytes complete, `finish` the last ones; only after
`finish` has returned is a message whole. Every byte is accounted for: what follows the
trailers is zero padding or the message is refused. After an error the decoder stays
broken.
"""

from __future__ import annotations

from collections.abc import Generator

from attestation.channel import varint
from attestation.channel.messages import (
    MAX_CONTROL_BYTES,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    Content,
    Event,
    Fields,
    Informational,
    RequestHead,
    ResponseHead,
    Trailers,
    check_control,
    check_field,
    check_fields,
    check_final,
    check_informational,
)
from attestation.errors import ParseError, Truncated, UsageError

KNOWN_REQUEST, KNOWN_RESPONSE, INDETERMINATE_REQUEST, INDETERMINATE_RESPONSE = range(4)
MAX_INFORMATIONAL = 8
MAX_SECTION_BYTES = MAX_FIELD_BYTES + 8 * MAX_FIELDS
"""A known-length section: its fields, and at most four bytes before each name and value."""

Steps = Generator[None, None, None]
Reads = Generator[None, None, bytes]
Numbers = Generator[None, None, int]
Sections = Generator[None, None, Fields]


class Decoder:
    """One message of one kind. `limit`: bytes of the whole message, padding included."""

    def __init__(self, *, request: bool, limit: int) -> None:
        self._request = request
        self._room = limit
        self._buffer = bytearray()
        self._ended = False
        self._done = False
        self._events: list[Event] = []
        self._steps = self._message()
        next(self._steps)

    def push(self, data: bytes) -> list[Event]:
        """Raises ParseError for bytes that are not such a message, or that exceed the limit."""
        if self._ended:
            raise UsageError("decoder: expected no push after finish or after an error")
        self._room -= len(data)
        if self._room < 0:
            self._ended = True
            raise ParseError("binary HTTP: expected a message within the limit, got a longer one")
        self._buffer += data
        return self._advance()

    def finish(self) -> list[Event]:
        """Raises Truncated when the message is not complete."""
        if self._ended:
            raise UsageError("decoder: expected no finish after finish or after an error")
        self._ended = True
        events = self._advance()
        if not self._done:
            raise Truncated("binary HTTP: expected a whole message, it ends too early")
        return events

    def _advance(self) -> list[Event]:
        try:
            next(self._steps)
        except StopIteration:
            self._done = True
        except ParseError:
            self._ended = True
            raise
        events, self._events = self._events, []
        return events

    # The grammar, RFC 9292 §3. Each step yields when it needs bytes.

    def _message(self) -> Steps:
        yield
        framing = yield from self._varint()
        expected = (0, 2) if self._request else (1, 3)
        if framing not in expected:
            raise ParseError(f"framing indicator: expected one of {expected}, got {framing}")
        known = framing < INDETERMINATE_REQUEST
        yield from self._request_head(known) if self._request else self._response_head(known)
        yield from self._known_content() if known else self._chunks()
        trailers = yield from self._section(known)
        self._events.append(Trailers(trailers))
        yield from self._padding()

    def _request_head(self, known: bool) -> Steps:
        parts = []
        for _ in range(4):
            length = yield from self._varint()
            parts.append((yield from self._read(length, MAX_CONTROL_BYTES, "control data")))
        check_control(*parts)
        method, scheme, authority, path = (part.decode("ascii") for part in parts)
        headers = yield from self._section(known)
        self._events.append(RequestHead(method, scheme, authority, path, headers))

    def _response_head(self, known: bool) -> Steps:
        for _ in range(MAX_INFORMATIONAL + 1):
            status = yield from self._varint()
            if not 100 <= status <= 199:
                break
            check_informational(status)
            # §3.8 omits empty sections at the end of a message; here the final response follows.
            headers = yield from self._section(known, last=False)
            self._events.append(Informational(status, headers))
        check_final(status)
        headers = yield from self._section(known)
        self._events.append(ResponseHead(status, headers))

    def _section(self, known: bool, *, last: bool = True) -> Sections:
        if (yield from self._at_end()) and last:
            return ()
        return (yield from self._known_section() if known else self._open_section())

    def _known_section(self) -> Sections:
        length = yield from self._varint()
        section = yield from self._read(length, MAX_SECTION_BYTES, "field section")
        return _fields(section)

    def _open_section(self) -> Sections:
        """Field lines until a zero length stands where a name's length would."""
        fields: list[tuple[bytes, bytes]] = []
        room = MAX_FIELD_BYTES
        while length := (yield from self._varint()):
            name = yield from self._read(length, room, "field section")
            length = yield from self._varint()
            value = yield from self._read(length, room - len(name), "field section")
            room -= len(name) + len(value)
            check_field(name, value)
            fields.append((name, value))
            if len(fields) > MAX_FIELDS:
                raise ParseError(f"field section: expected at most {MAX_FIELDS} fields, got more")
        return tuple(fields)

    def _known_content(self) -> Steps:
        if not (yield from self._at_end()):
            yield from self._content((yield from self._varint()))

    def _chunks(self) -> Steps:
        if (yield from self._at_end()):
            return
        while length := (yield from self._varint()):
            yield from self._content(length)

    def _content(self, length: int) -> Steps:
        if length > self._room + len(self._buffer):
            raise ParseError("content: expected no more bytes than the limit, got more")
        while length:
            yield from self._need(1)
            piece = bytes(self._buffer[:length])
            del self._buffer[: len(piece)]
            length -= len(piece)
            self._events.append(Content(piece))

    def _padding(self) -> Steps:
        while True:
            if self._buffer.count(0) != len(self._buffer):
                raise ParseError("padding: expected zero bytes only, got other values")
            self._buffer.clear()
            if self._ended:
                return
            yield

    def _need(self, count: int) -> Steps:
        while len(self._buffer) < count:
            yield

    def _at_end(self) -> Generator[None, None, bool]:
        """Whether the message ends here: §3.8 lets empty sections at the end be left out."""
        while not self._buffer and not self._ended:
            yield
        return not self._buffer

    def _read(self, length: int, limit: int, what: str) -> Reads:
        if length > limit:
            raise ParseError(f"{what}: expected at most {limit} bytes, got {length}")
        yield from self._need(length)
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _varint(self) -> Numbers:
        yield from self._need(1)
        size = varint.size(self._buffer[0])
        yield from self._need(size)
        value = varint.decode(self._buffer[:size])
        del self._buffer[:size]
        return value


def _fields(section: bytes) -> Fields:
    fields: list[tuple[bytes, bytes]] = []
    offset = 0
    while offset < len(section):
        name, offset = _string(section, offset)
        value, offset = _string(section, offset)
        fields.append((name, value))
    check_fields(tuple(fields))
    return tuple(fields)


def _string(section: bytes, offset: int) -> tuple[bytes, int]:
    if offset >= len(section):
        raise ParseError("field section: expected whole field lines, it ends within one")
    start = offset + varint.size(section[offset])
    end = start + varint.decode(section[offset:start])
    if end > len(section):
        raise ParseError("field section: expected field lines within the section, got a longer one")
    return section[start:end], end
