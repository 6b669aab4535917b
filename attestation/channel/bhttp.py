"""Binary HTTP (RFC 9292): messages to bytes and back, whole or as they stream.

What `decode_*` accepts is exactly one message and its zero padding. Encoders refuse what
decoders would refuse.
"""

from __future__ import annotations

from attestation.channel import varint
from attestation.channel.bhttp_decoder import (
    INDETERMINATE_REQUEST,
    INDETERMINATE_RESPONSE,
    KNOWN_REQUEST,
    KNOWN_RESPONSE,
    Decoder,
)
from attestation.channel.messages import (
    Content,
    Event,
    Fields,
    Informational,
    Request,
    RequestHead,
    Response,
    ResponseHead,
    Trailers,
    check_control,
    check_fields,
    check_final,
    check_informational,
)
from attestation.errors import UsageError
from attestation.wire import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

__all__ = [
    "Content",
    "Decoder",
    "Event",
    "Fields",
    "Informational",
    "Request",
    "RequestHead",
    "Response",
    "ResponseEncoder",
    "ResponseHead",
    "Trailers",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "request_decoder",
    "response_decoder",
]


def encode_request(request: Request, *, indeterminate: bool = False) -> bytes:
    """The message, unpadded. Raises ParseError for parts that may not stand in one."""
    control = tuple(
        part.encode("utf-8")
        for part in (request.method, request.scheme, request.authority, request.path)
    )
    check_control(*control)
    head = b"".join(_string(part) for part in control)
    body = _body(request.headers, request.content, request.trailers, indeterminate)
    framing = INDETERMINATE_REQUEST if indeterminate else KNOWN_REQUEST
    return varint.encode(framing) + head + body


def encode_response(response: Response, *, indeterminate: bool = False) -> bytes:
    """The message, unpadded. Raises ParseError for parts that may not stand in one."""
    check_final(response.status)
    head = b"".join(_informational(part, indeterminate) for part in response.informational)
    body = _body(response.headers, response.content, response.trailers, indeterminate)
    framing = INDETERMINATE_RESPONSE if indeterminate else KNOWN_RESPONSE
    return varint.encode(framing) + head + varint.encode(response.status) + body


def request_decoder(*, limit: int = MAX_REQUEST_BYTES) -> Decoder:
    return Decoder(request=True, limit=limit)


def response_decoder(*, limit: int = MAX_RESPONSE_BYTES) -> Decoder:
    return Decoder(request=False, limit=limit)


def decode_request(data: bytes, *, limit: int = MAX_REQUEST_BYTES) -> Request:
    """Raises ParseError for anything but one request and padding, Truncated for a part of one."""
    events = _all_events(request_decoder(limit=limit), data)
    head = next(event for event in events if isinstance(event, RequestHead))
    content, trailers = _content(events)
    return Request(
        method=head.method,
        path=head.path,
        headers=head.headers,
        content=content,
        trailers=trailers,
        scheme=head.scheme,
        authority=head.authority,
    )


def decode_response(data: bytes, *, limit: int = MAX_RESPONSE_BYTES) -> Response:
    """Raises ParseError for anything but one response and padding, Truncated for a part of one."""
    events = _all_events(response_decoder(limit=limit), data)
    head = next(event for event in events if isinstance(event, ResponseHead))
    content, trailers = _content(events)
    informational = tuple(event for event in events if isinstance(event, Informational))
    return Response(head.status, head.headers, content, trailers, informational)


class ResponseEncoder:
    """An indeterminate-length response, written as it comes: head, content, finish.

    Whoever reads it without the bytes of `finish` has a truncated message and knows it.
    """

    def __init__(self) -> None:
        self._state = "head"

    def informational(self, status: int, headers: Fields = ()) -> bytes:
        """Raises UsageError after `head`."""
        framing = self._framing() if self._state == "head" else b""
        self._expect("head", "informational")
        self._state = "informational"
        return framing + _informational(Informational(status, headers), True)

    def head(self, status: int, headers: Fields = ()) -> bytes:
        """Raises UsageError when called twice."""
        framing = self._framing() if self._state == "head" else b""
        self._expect("head", "informational")
        check_final(status)
        self._state = "content"
        return framing + varint.encode(status) + _section(headers, True)

    def content(self, data: bytes) -> bytes:
        """One content chunk; nothing for no data, since an empty chunk would end the content."""
        self._expect("content")
        return varint.encode(len(data)) + data if data else b""

    def finish(self, trailers: Fields = ()) -> bytes:
        """The end of the content, and the trailers."""
        self._expect("content")
        self._state = "finished"
        return b"\0" + _section(trailers, True)

    def _framing(self) -> bytes:
        return varint.encode(INDETERMINATE_RESPONSE)

    def _expect(self, *states: str) -> None:
        if self._state not in states:
            raise UsageError(f"response: expected to be at {' or '.join(states)}, is {self._state}")


def _all_events(decoder: Decoder, data: bytes) -> list[Event]:
    return decoder.push(data) + decoder.finish()


def _content(events: list[Event]) -> tuple[bytes, Fields]:
    content = b"".join(event.data for event in events if isinstance(event, Content))
    return content, next(event.fields for event in events if isinstance(event, Trailers))


def _body(headers: Fields, content: bytes, trailers: Fields, indeterminate: bool) -> bytes:
    middle = _string(content)
    if indeterminate and content:
        middle += b"\0"
    return _section(headers, indeterminate) + middle + _section(trailers, indeterminate)


def _section(fields: Fields, indeterminate: bool) -> bytes:
    check_fields(fields)
    lines = b"".join(_string(name) + _string(value) for name, value in fields)
    return lines + b"\0" if indeterminate else _string(lines)


def _informational(part: Informational, indeterminate: bool) -> bytes:
    check_informational(part.status)
    return varint.encode(part.status) + _section(part.headers, indeterminate)


def _string(data: bytes) -> bytes:
    return varint.encode(len(data)) + data
