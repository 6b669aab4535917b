"""The client's way to the network: bounded in bytes and time, never following redirects.

Plain http is spoken with loopback only. What comes back is unverified. Whatever goes
wrong before an answer began raises Unavailable; a stream that breaks raises Truncated.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from attestation.errors import NotThere, Truncated, Unavailable, UsageError

CONNECT_SECONDS = 5.0
READ_SECONDS = 120.0
"""Between two pieces of a stream: the first token of a long prompt may take this long."""

ANSWER_SECONDS = 30.0
"""For one small answer as a whole."""

MAX_ANSWER = 8 << 20
"""Bytes; collateral of eight GPUs is about 2 MB."""


def check_url(url: str) -> str:
    """The URL without its last slash. Raises UsageError unless https or loopback http."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"expected an http(s) URL, got {url!r}")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UsageError(f"expected https beyond this machine, got {url!r}")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class Stream:
    """An HTTP answer that is still arriving."""

    status: int
    media_type: str
    _response: requests.Response

    def __iter__(self) -> Iterator[bytes]:
        """Bytes as they arrive. Raises Truncated where the connection breaks."""
        try:
            yield from self._response.iter_content(chunk_size=None)
        except (requests.RequestException, OSError, AttributeError, ValueError) as error:
            # The last two are what urllib3 raises where another thread closes it.
            raise Truncated(
                f"answer truncated: the connection broke ({type(error).__name__})"
            ) from None

    def close(self) -> None:
        self._response.close()


class Transport:
    """HTTP with `requests`; one per client, safe for many threads.

    The environment's proxies and .netrc are not used: they would see whom we ask.
    """

    def __init__(self, *, read_seconds: float = READ_SECONDS) -> None:
        self._timeout = (CONNECT_SECONDS, read_seconds)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def get(self, url: str, *, limit: int = MAX_ANSWER) -> bytes:
        """A 200's body of at most `limit` bytes. Raises NotThere for a 404, Unavailable."""
        return self._small("GET", url, None, limit)

    def post(self, url: str, body: bytes, *, limit: int = MAX_ANSWER) -> bytes:
        """The same for a POST of octets."""
        return self._small("POST", url, body, limit)

    def notify(self, url: str, body: bytes) -> None:
        """POST of JSON, for any 2xx. Raises Unavailable, which names the host alone: such
        URLs hold secrets."""
        host = urlsplit(url).hostname
        try:
            with self._request("POST", url, body, {"content-type": "application/json"}) as answer:
                status = answer.status_code
        except Unavailable:
            raise Unavailable(f"webhook at {host}: no answer") from None
        if not 200 <= status < 300:
            raise Unavailable(f"webhook at {host}: expected HTTP 2xx, got {status}")

    def stream(self, url: str, body: bytes, headers: Mapping[str, str]) -> Stream:
        """POST and return as soon as the answer's head is there. Raises Unavailable."""
        response = self._request("POST", url, body, headers)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        return Stream(response.status_code, media_type, response)

    def close(self) -> None:
        self._session.close()

    def _small(self, method: str, url: str, body: bytes | None, limit: int) -> bytes:
        headers = {"content-type": "application/octet-stream"} if body is not None else {}
        with self._request(method, url, body, headers) as response:
            if response.status_code == 404:
                raise NotThere(f"{url}: there is no such thing (HTTP 404)")
            if response.status_code != 200:
                raise Unavailable(f"{url}: expected HTTP 200, got {response.status_code}")
            return _bounded(response, limit)

    def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> requests.Response:
        check_url(url)
        try:
            return self._session.request(
                method,
                url,
                data=body,
                headers=dict(headers),
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Unavailable(f"{url}: no answer ({type(error).__name__})") from None


def _bounded(response: requests.Response, limit: int) -> bytes:
    body = bytearray()
    until = time.monotonic() + ANSWER_SECONDS
    try:
        for part in response.iter_content(1 << 16):
            body += part
            if len(body) > limit:
                raise Unavailable(f"{response.url}: expected at most {limit} bytes, got more")
            if time.monotonic() > until:
                raise Unavailable(f"{response.url}: no whole answer in {ANSWER_SECONDS:.0f} s")
    except (requests.RequestException, OSError) as error:
        raise Unavailable(f"{response.url}: {type(error).__name__}") from None
    return bytes(body)
