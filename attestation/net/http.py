"""The one way to ask over HTTP, built on `urllib3`.

Invariants:
- An answer is bounded in bytes as they come, and never decompressed: only `identity` is asked
  for, and what comes otherwise encoded is refused.
- It is bounded in time on the monotonic clock: to connect, to its head, and as a whole.
- No redirect is followed, no cookie kept; every request has the same User-Agent.
- The environment's proxies, CA bundles and .netrc are not used (attestation/net/route.py).
- What comes back is unverified. What fails raises Unavailable with the URL, without secrets.

`urllib3` is loaded at the first request, not with this module.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attestation.errors import NotThere, ParseError, Unavailable
from attestation.formats.json import decode
from attestation.net.error_text import LOOKED_AT, answer_summary, is_page, redacted_url
from attestation.net.leaving import Leaving
from attestation.net.retry import MAY_CHANGE, retry_after
from attestation.net.route import Route
from attestation.net.timing import Clock, Deadlines
from attestation.net.url import checked_url

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from attestation.net.connections import Pools

AGENT = "umay"
"""Says nothing of version, language or library."""

PIECE = 64 * 1024

_HttpRequest = tuple[str, str, bytes | None, Mapping[str, str]]
"""Method, URL, body, headers."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. `url` is without secrets; header names are in lower case."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return _media_type(self.headers)

    def good(self) -> bytes:
        """The body of a 200 that is no web page. Raises NotThere for 404 and 410, Unavailable."""
        if self.status != 200:
            raise self.refusal()
        if is_page(self.body):
            what = answer_summary(self.media_type, self.body)
            raise Unavailable(f"{self.url}: expected data, got a web page, {what}")
        return self.body

    def json(self) -> Any:
        """The value in the body. Raises as `good`, and Unavailable for what is no JSON."""
        body = self.good()
        try:
            return decode(body, what=self.url)
        except ParseError:
            what = answer_summary(self.media_type, body)
            raise Unavailable(f"expected JSON from {self.url}, got {what}") from None

    def refusal(self) -> Unavailable:
        """What a status other than 200 means."""
        if self.status in (404, 410):
            return NotThere(f"{self.url}: there is no such thing (HTTP {self.status})")
        text = f"{self.url}: expected HTTP 200, got {self.status}"
        if 300 <= self.status < 400:
            text += f", a redirect to {_target(self.headers)}; redirects are not followed"
        elif is_page(self.body):
            text += f" with a web page, {answer_summary(self.media_type, self.body)}"
        after = retry_after(self.headers.get("retry-after"))
        if self.status in MAY_CHANGE and after:
            text += f"; it asks to wait for {after:.0f} s"
        error = Unavailable(text, again=self.status in MAY_CHANGE, retry_after=after)
        error.status = self.status
        return error


class IncomingAnswer:
    """An answer whose head is there. Use it in a `with`, or `close` it; any thread may."""

    def __init__(self, url: str, response: BaseHTTPResponse, clock: Clock) -> None:
        self.url, self.status = url, response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._response, self._clock = response, clock
        self._closed = False

    @property
    def media_type(self) -> str:
        return _media_type(self.headers)

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of at most 64 KiB as they arrive. Raises Unavailable where it breaks."""
        while piece := self.piece():
            yield piece

    def whole(self, limit: int) -> Answer:
        """All of it. Raises Unavailable over `limit` bytes, as soon as that is known."""
        too_long = Unavailable(f"{self.url}: expected at most {limit} bytes, got more")
        length = self.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
            raise too_long
        body = bytearray()
        for piece in self:
            body += piece
            if len(body) > limit:
                raise too_long
        return Answer(self.url, self.status, self.headers, bytes(body))

    def beginning(self) -> Answer:
        """With so much of the body as serves to say what it is; the rest is not read."""
        body = bytearray()
        with contextlib.suppress(Unavailable):
            for piece in self:
                body += piece
                if len(body) >= LOOKED_AT:
                    break
        return Answer(self.url, self.status, self.headers, bytes(body[:LOOKED_AT]))

    def end_by(self, until: float, told: str) -> None:
        """Pieces come not later than at `until` by the monotonic clock; `told` says so."""
        self._clock.end_by(until, told)

    def close(self) -> None:
        """Another thread's read ends at once."""
        self._closed = True
        with contextlib.suppress(ValueError, RuntimeError, OSError, AttributeError):
            self._response.shutdown()  # fails where all was read, and the connection is kept
        self._response.close()
        self._response.release_conn()

    def __enter__(self) -> IncomingAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def piece(self) -> bytes:
        """The next bytes, at most 64 KiB; b"" at the end. Raises Unavailable."""
        try:
            piece: bytes = self._response.read1(PIECE, decode_content=False)
        except Exception as error:  # where another thread closes it, whatever comes
            self._clock.leaving.check()
            from attestation.net.causes import cause, is_late

            reason, again = cause(error)
            late = is_late(error)
            raise Unavailable(f"{self.url}: {reason}", again=again, late=late, sent=True) from None
        if self._closed:
            raise Unavailable(f"{self.url}: closed here before its end", sent=True)
        return piece


class Http:
    """Asks over HTTP; safe for many threads, which share its idle connections.

    route: what the environment says in UMAY_HTTPS_PROXY and UMAY_CA_BUNDLE unless given.
    """

    def __init__(self, deadlines: Deadlines | None = None, *, route: Route | None = None) -> None:
        self._deadlines = deadlines or Deadlines()
        self._route = Route.from_environment() if route is None else route
        self._lock = threading.Lock()
        self._made: Pools | None = None
        self._process = os.getpid()

    def get(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        deadlines: Deadlines | None = None,
    ) -> Answer:
        """A 200 of at most `limit` bytes. Raises NotThere for a 404, Unavailable, UsageError."""
        return self._good("GET", url, None, headers or {}, limit, deadlines)

    def post(
        self,
        url: str,
        body: bytes,
        *,
        limit: int,
        media_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        deadlines: Deadlines | None = None,
    ) -> Answer:
        """The same for a POST."""
        sent = {**(headers or {}), "content-type": media_type}
        return self._good("POST", url, body, sent, limit, deadlines)

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        name: str = "",
    ) -> Answer:
        """An answer of any status, of at most `limit` bytes. Raises Unavailable, UsageError."""
        with self.open(method, url, body, headers=headers, name=name) as incoming:
            return incoming.whole(limit)

    def open(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        deadlines: Deadlines | None = None,
        leaving: Leaving | None = None,
        name: str = "",
    ) -> IncomingAnswer:
        """Returns as soon as the answer's head is there. Raises Unavailable, UsageError.

        `name` stands for the URL in errors, where its path is a secret too. Where `leaving` is
        told to leave, this and the reading of the answer raise Left.
        """
        checked_url(url, name=name, show=not name)
        where = name or redacted_url(url)
        clock = Clock(deadlines or self._deadlines, upload=len(body or b""), leaving=leaving)
        response = self._send(where, (method, url, body, headers or {}), clock)
        incoming = IncomingAnswer(where, response, clock)
        encoding = incoming.headers.get("content-encoding", "identity")
        if encoding.strip().lower() not in ("identity", ""):
            incoming.close()
            text = f"{where}: expected no content encoding, got {encoding[:40]!r}"
            raise Unavailable(text, sent=True)
        return incoming

    def close(self) -> None:
        """Idle connections end; a later request makes new ones."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _good(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        limit: int,
        deadlines: Deadlines | None,
    ) -> Answer:
        with self.open(method, url, body, headers=headers, deadlines=deadlines) as incoming:
            if incoming.status != 200:
                raise incoming.beginning().refusal()
            answer = incoming.whole(limit)
        answer.good()
        return answer

    def _send(self, where: str, request: _HttpRequest, clock: Clock) -> BaseHTTPResponse:
        from attestation.net.causes import FAILURES, cause, is_late
        from attestation.net.connections import timed

        method, url, body, headers = request
        sent = {"user-agent": AGENT, "accept-encoding": "identity", "accept": "*/*", **headers}
        proxy = self._route.proxy_for(url)
        try:
            with timed(clock):
                return self._pools().send(method, url, body, sent, proxy=proxy)
        except FAILURES as error:
            clock.leaving.check()
            reason, again = cause(error)
            through = f" through the proxy {self._route.proxy_name}" if proxy else ""
            raise Unavailable(
                f"{where}{through}: {reason}", again=again, late=is_late(error), sent=clock.sent
            ) from None

    def _pools(self) -> Pools:
        from attestation.net.connections import Pools

        with self._lock:
            if self._made is None or self._process != os.getpid():
                # A process that was forked must not speak on its parent's connections.
                self._made, self._process = Pools(self._route.ca_bundle), os.getpid()
            return self._made


def _target(headers: Mapping[str, str]) -> str:
    """The host of a redirect: its path may repeat a secret of ours."""
    try:
        parts = urlsplit(headers.get("location", ""))
    except ValueError:
        return "no URL"
    return redacted_url(f"{parts.scheme}://{parts.netloc}") if parts.netloc else "itself"


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()[:100]
