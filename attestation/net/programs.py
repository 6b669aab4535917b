"""Who asks: a program of this machine or network, or a web page by way of its visitor's browser.

A page can have a browser send requests to this machine, and under a name that it points here
(DNS rebinding) it reads the answers too. Its browser tells: by an Origin or Sec-Fetch-Site field,
and by a Host that is the page's name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
"""Nothing that could be read as a path, a user or a second host."""

_BROWSER = ("origin", "sec-fetch-site")


def named_host(headers: Mapping[str, str]) -> str | None:
    """The name or address in the Host field, in lower case and without port or brackets; None
    where there is none or it is malformed."""
    found = _HOST.fullmatch(headers.get("host", ""))
    return found[1].strip("[]").lower() if found else None


def is_address(host: str) -> bool:
    """Whether this is an IP address: no page's name can be."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def names_us(headers: Mapping[str, str], listen: str) -> bool:
    """Whether Host is an IP address, localhost or the name in `listen` (HOST:PORT): under any
    other name a web page may be asking (DNS rebinding)."""
    host = named_host(headers)
    own = ("localhost", listen.rpartition(":")[0].lower())
    return host is not None and (host in own or is_address(host))


def from_browser(headers: Mapping[str, str]) -> bool:
    return any(name in headers for name in _BROWSER)
