"""Texts for errors about an exchange that failed: its URL and what came, and nothing secret.

An excerpt of a body is for reads that are not sealed; an answer to a prompt is never shown.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

EXCERPT = 80
"""Characters of an unexpected answer that an error shows."""

LOOKED_AT = 4096
"""Bytes of an unexpected answer that are looked at."""

HARMLESS = frozenset(
    {"address", "ca", "encoding", "fmspc", "from", "index", "limit", "save", "seqno", "size"}
    | {"shard", "to", "workchain"}
)
"""Parameters of a URL whose values errors show. Nobody can list the names of all secrets."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9_:./+-]{0,100}")
_USER_ENDS = re.compile(r"@|%40", re.IGNORECASE)
_BEGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)?([^/?#;\\]*)")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_PAGE = re.compile(
    rb"\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,512}?-->\s*)?<(!doctype html|html|head|body|script)\b",
    re.IGNORECASE | re.DOTALL,
)


@functools.lru_cache(256)
def redacted_url(url: str) -> str:
    """The URL as errors may show it: no user, no password, and of parameters only the values
    of HARMLESS ones. Of what is no URL, or has an @ where no user ends, little more than a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError, as urlsplit does
    except ValueError:
        return _beginning(url)
    if _USER_ENDS.search(f"{parts.path}?{parts.query}"):  # a password may hold / and ?
        return _beginning(url)
    query = _redacted_parameters(parts.query, "&;")
    path, semicolon, parameters = parts.path.partition(";")
    path += semicolon + _redacted_parameters(parameters, ";")
    host = parts.netloc.rpartition("@")[2]
    return printable(urlunsplit((parts.scheme, host, path, query, "")), 300)


def _beginning(url: str) -> str:
    """Of what cannot be taken apart: what stands behind its last @, up to its path."""
    text = _USER_ENDS.split(url)[-1]
    begin = _BEGIN.match(text)
    host = begin[0] if begin else ""
    return printable(f"…@{host}" if text != url else host)


def _redacted_parameters(text: str, separators: str) -> str:
    """name=value of each parameter, a value only where its name is harmless."""
    pieces = re.split(f"([{separators}])", text)
    return "".join(piece if piece in ("&", ";", "") else _parameter(piece) for piece in pieces)


def _parameter(piece: str) -> str:
    name, equals, value = (unquote(part) for part in piece.partition("="))
    if not equals or not _NAME.fullmatch(name):
        return "…"
    shown = name.lower() in HARMLESS and _VALUE.fullmatch(value)
    return f"{name}={quote(value, safe='/:') if shown else '…'}"


def printable(text: str, most: int = EXCERPT) -> str:
    """At most `most` characters, none of which moves a terminal's cursor."""
    text = text[: 4 * most]
    clean = text if text.isprintable() else _without_signs(text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= most else f"{clean[:most]}…"


def _without_signs(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def is_page(body: bytes) -> bool:
    """Whether the body is HTML. Nothing that Umay reads is HTML."""
    return _PAGE.match(body[:LOOKED_AT]) is not None


def answer_summary(media_type: str, body: bytes) -> str:
    """An unexpected answer in a few words, such as "text/html: 'Login'"."""
    text = body[:LOOKED_AT].decode("utf-8", "replace")
    if is_page(body):
        title = _TITLE.search(text)
        text = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    elif sum(c.isprintable() or c.isspace() for c in text) < 0.9 * len(text):
        return f"{media_type or 'no media type'}, {len(body)} bytes"
    return f"{media_type or 'no media type'}: {printable(text)!r}"
