"""A log's origin: its name in every checkpoint, and its address behind `https://`.

Apart from checkpoints, because a policy names a log without opening its notes.
"""

from __future__ import annotations

from attestation.errors import ParseError
from attestation.formats.url import split_url

MAX_ORIGIN_BYTES = 60
"""So that a note's body fits one cell of the contract."""


def check_origin(origin: str) -> None:
    """Printable ASCII, at most 60 bytes, no space, no plus. Raises ParseError."""
    if not 0 < len(origin) <= MAX_ORIGIN_BYTES:
        raise ParseError(
            f"checkpoint: expected an origin of 1 to {MAX_ORIGIN_BYTES} bytes, got {len(origin)}"
        )
    if not all("!" <= character <= "~" and character != "+" for character in origin):
        raise ParseError(
            "checkpoint: expected an origin of printable ASCII without plus, got other characters"
        )


def check_log_name(origin: str) -> None:
    """An origin that makes an address behind `https://`, in the one spelling that a log has:
    no scheme, no slash at its end, the host in lower case. Raises ParseError."""
    check_origin(origin)
    host = origin.partition("/")[0]
    if "://" in origin or origin.endswith("/") or host != host.lower() or not _is_address(origin):
        raise ParseError(
            "origin: expected a log's address without scheme and without a slash at its end, the "
            f"host in lower case, such as log.example/umay; got {origin}"
        )


def _is_address(origin: str) -> bool:
    """Whether https:// and the origin is a URL with a host, and neither user nor query."""
    try:
        split_url(f"https://{origin}")
    except ParseError:
        return False
    return not set(origin) & set("@?#\\")


def origin_of(url: str) -> str:
    """The name of the log at this URL: host names are the same in either case."""
    host, slash, path = url.partition("://")[2].rstrip("/").partition("/")
    return f"{host.lower()}{slash}{path}"
