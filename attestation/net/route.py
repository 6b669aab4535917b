"""By which way the network is reached: straight, or through a proxy that somebody named.

The environment's HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE and .netrc are not looked at: they
would tell third parties whom we ask, unasked. docs/guides/developer.md says what a proxy sees.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.formats.url import split_url
from attestation.net.error_text import redacted_url
from attestation.net.url import checked_url

PROXY = "UMAY_HTTPS_PROXY"
CA_BUNDLE = "UMAY_CA_BUNDLE"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Route:
    """https_proxy: an http(s) URL; it carries https to every host but this machine, and plain
    http never. ca_bundle: a PEM file of the only authorities believed for https.

    Raises UsageError for what is neither.
    """

    https_proxy: str | None = None
    ca_bundle: Path | None = None

    def __post_init__(self) -> None:
        if self.https_proxy is not None:
            _check_proxy(self.https_proxy)
        if self.ca_bundle is not None:
            _check_bundle(self.ca_bundle)

    def __repr__(self) -> str:
        return f"Route({self.proxy_name or None!r}, {str(self.ca_bundle or '') or None!r})"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Route:
        """What UMAY_HTTPS_PROXY and UMAY_CA_BUNDLE say; empty is unset. Raises UsageError."""
        values = os.environ if environ is None else environ
        bundle = values.get(CA_BUNDLE)
        return cls(values.get(PROXY) or None, Path(bundle) if bundle else None)

    @property
    def proxy_name(self) -> str:
        """The proxy without its password; empty where there is none."""
        return redacted_url(self.https_proxy) if self.https_proxy else ""

    def proxy_for(self, url: str) -> str | None:
        parts = checked_url(url)
        if parts.scheme != "https" or is_loopback(parts.hostname or ""):
            return None
        return self.https_proxy


def _check_proxy(url: str) -> None:
    try:
        parts = split_url(url)
        good = parts.path in ("", "/") and not parts.query and not parts.fragment
    except ParseError:
        good = False
    if not good:
        raise UsageError(
            "proxy: expected an address like http://proxy.example:3128, "
            f"got {redacted_url(url)!r}; it comes from the option or from {PROXY}"
        )


def _check_bundle(path: Path) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(
            f"CA bundle: {path}: expected a PEM file of certificates "
            f"({error.strerror or type(error).__name__}); "  # type: ignore[union-attr]
            f"it comes from the option or from {CA_BUNDLE}"
        ) from None
