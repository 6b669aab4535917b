"""Texts for errors about an exchange that failed: its URL and what came, and nothing secret.

An excerpt of a body is for reads that are not sealed; an answer to a prompt is never shown.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

EXCERPT = 80
"""Characters of an unexpected answer that an error shows."""

LOOKED_AT = 4096
"""Bytes of an unexpected answer that are looked at."""

_SECRET = re.compile(r"key|token|secret|passw|auth|sig|cred", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_PAGE = re.compile(
    rb"\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,512}?-->\s*)?<(!doctype html|html|head|body|script)\b",
    re.IGNORECASE | re.DOTALL,
)


def redacted_url(url: str) -> str:
    """The URL as errors may show it: no user, no password, no value of a secret parameter."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return printable(url)
    query = "&".join(
        f"{quote(name)}={'…' if _SECRET.search(name) else quote(value, safe='/:')}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    host = parts.netloc.rpartition("@")[2]
    return printable(urlunsplit((parts.scheme, host, parts.path, query, "")), 300)


def printable(text: str, most: int = EXCERPT) -> str:
    """At most `most` characters, none of which moves a terminal's cursor."""
    clean = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    clean = " ".join(clean.split())
    return clean if len(clean) <= most else f"{clean[:most]}…"


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
