"""HTTP messages as the channel carries them, and what makes their parts acceptable.

Field names are lower-case tokens, never pseudo-fields; values hold no NUL, CR or LF and
no space at their ends; control data is visible ASCII. Encoder and decoder both check, so
nothing can be smuggled into an HTTP/1.1 message built from these parts.

No `repr` of them shows what a caller wrote, not even a path: prompts, answers, keys and salts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from attestation.errors import ParseError

Fields = tuple[tuple[bytes, bytes], ...]

MAX_FIELDS = 128
MAX_FIELD_BYTES = 64 * 1024
"""Names and values of one section together; a receipt trailer needs about 6 kB."""

MAX_CONTROL_BYTES = 8 * 1024
"""Each of method, scheme, authority and path."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")
_SCHEME = re.compile(rb"[a-z][a-z0-9+\-.]*\Z")
_AUTHORITY = re.compile(rb"[\x21-\x7e]*\Z")
_PATH = re.compile(rb"(?:/[\x21-\x7e]*|\*)\Z")


@dataclass(frozen=True)
class Request:
    method: str = field(repr=False)
    path: str = field(repr=False)
    headers: Fields = field(default=(), repr=False)
    content: bytes = field(default=b"", repr=False)
    trailers: Fields = field(default=(), repr=False)
    scheme: str = field(default="https", repr=False)
    authority: str = field(default="", repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, None where there is none."""
        return first(self.headers, name)


@dataclass(frozen=True)
class Informational:
    """A 1xx response; an event of the decoder too."""

    status: int
    headers: Fields = field(default=(), repr=False)


@dataclass(frozen=True)
class Response:
    status: int
    headers: Fields = field(default=(), repr=False)
    content: bytes = field(default=b"", repr=False)
    trailers: Fields = field(default=(), repr=False)
    informational: tuple[Informational, ...] = ()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field, None where there is none."""
        return first(self.headers, name)


@dataclass(frozen=True)
class RequestHead:
    """Event: control data and header section of a request."""

    method: str = field(repr=False)
    scheme: str = field(repr=False)
    authority: str = field(repr=False)
    path: str = field(repr=False)
    headers: Fields = field(repr=False)


@dataclass(frozen=True)
class ResponseHead:
    """Event: final status and header section of a response."""

    status: int
    headers: Fields = field(repr=False)


@dataclass(frozen=True)
class Content:
    """Event: some content, as it arrived; its pieces carry no meaning."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Trailers:
    """Event: the message is complete but for padding; sent also where it has none."""

    fields: Fields = field(repr=False)


Event = RequestHead | Informational | ResponseHead | Content | Trailers


def first(fields: Fields, name: bytes) -> bytes | None:
    return next((value for key, value in fields if key == name), None)


def check_field(name: bytes, value: bytes) -> None:
    """Raises ParseError unless the field may stand in a message."""
    if not _NAME.match(name):
        raise ParseError("field name: expected a lower-case token, got other characters")
    if not _VALUE.match(value):
        raise ParseError(
            "field value: expected no control character and no space at the ends, got one"
        )


def check_fields(fields: Fields) -> None:
    if len(fields) > MAX_FIELDS:
        raise ParseError(f"field section: expected at most {MAX_FIELDS} fields, got {len(fields)}")
    for name, value in fields:
        check_field(name, value)
    size = sum(len(name) + len(value) for name, value in fields)
    if size > MAX_FIELD_BYTES:
        raise ParseError(f"field section: expected at most {MAX_FIELD_BYTES} bytes, got {size}")


def check_control(method: bytes, scheme: bytes, authority: bytes, path: bytes) -> None:
    """Raises ParseError unless these four may begin a request (RFC 9292 §3.4)."""
    longest = max(len(part) for part in (method, scheme, authority, path))
    if longest > MAX_CONTROL_BYTES:
        raise ParseError(f"control data: expected at most {MAX_CONTROL_BYTES} bytes, got {longest}")
    if not _TOKEN.match(method):
        raise ParseError("method: expected a token, got other characters")
    if not _SCHEME.match(scheme):
        raise ParseError("scheme: expected a lower-case scheme, got other characters")
    if not _AUTHORITY.match(authority):
        raise ParseError("authority: expected visible ASCII, got other characters")
    if not _PATH.match(path):
        raise ParseError(
            "path: expected visible ASCII that begins with a slash, got other characters"
        )


def check_informational(status: int) -> None:
    """Raises ParseError unless 1xx; 101 would leave HTTP (RFC 9292 §3.5.1)."""
    if not 100 <= status <= 199 or status == 101:
        raise ParseError(f"informational status: expected 100 or 102 to 199, got {status}")


def check_final(status: int) -> None:
    if not 200 <= status <= 599:
        raise ParseError(f"final status: expected 200 to 599, got {status}")
