"""URLs as they enter: from options, files, the environment and callers."""

from __future__ import annotations

from urllib.parse import SplitResult

from attestation.errors import ParseError, UsageError
from attestation.formats.url import split_url
from attestation.net.error_text import redacted_url


def checked_url(url: str, *, name: str = "", show: bool = True) -> SplitResult:
    """The parts of an http(s) URL.

    Raises UsageError, which begins with `name`: the option or the field that it comes from.
    Without `show` nothing of the URL is repeated, for those whose path is a secret too.
    """
    try:
        return split_url(url)
    except ParseError:
        begin = f"{name}: " if name else ""
        got = repr(redacted_url(url)) if show else "another text, which may be a secret"
        raise UsageError(f"{begin}expected an http(s) URL, got {got}") from None


def base_url(url: str, *, name: str = "") -> str:
    """The URL of a service without its last slashes. Raises UsageError as `checked_url`."""
    checked_url(url, name=name)
    return url.rstrip("/")
