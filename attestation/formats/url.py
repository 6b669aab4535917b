"""One reading of URLs that people and files name: http or https, a host, a port that exists."""

from __future__ import annotations

import functools
from urllib.parse import SplitResult, urlsplit

from attestation.errors import ParseError

SCHEMES = ("http", "https")


@functools.lru_cache(256)
def split_url(url: str) -> SplitResult:
    """The parts of an http(s) URL. Raises ParseError, which does not repeat it: it may hold a
    secret."""
    wanted = f"expected {' or '.join(f'{scheme}://' for scheme in SCHEMES)} and a host"
    if not url.isprintable() or " " in url:  # urlsplit removes line ends without a word
        raise ParseError(f"{wanted}, got a space or a control character in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ParseError(f"{wanted}, with a port from 1 to 65535 if there is one") from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ParseError(wanted)
    if port == 0:
        raise ParseError(f"{wanted}, with a port from 1 to 65535 if there is one")
    return parts
