"""The client's way to the network: attestation.net.http, with plain http for loopback only.

What comes back is unverified. Whatever goes wrong before an answer began raises Unavailable;
a stream that breaks raises Truncated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attestation.errors import Truncated, Unavailable, UsageError
from attestation.net.error_text import redacted_url
from attestation.net.http import Http, IncomingAnswer
from attestation.net.leaving import LEAVING
from attestation.net.retry import retry_after
from attestation.net.route import Route, is_loopback
from attestation.net.timing import Deadlines
from attestation.net.url import checked_url

READ_SECONDS = 120.0
"""Until a sealed answer begins, and between two pieces of it: the first token of a long prompt
may take this long."""

ANSWER_SECONDS = 30.0
"""For one small answer as a whole."""

MAX_ANSWER = 8 << 20
"""Bytes; collateral of eight GPUs is about 2 MB."""


def check_url(url: str, *, name: str = "", show: bool = True) -> str:
    """The URL without its last slash. Raises UsageError unless https or loopback http.

    `name` and `show` as for attestation.net.url.checked_url.
    """
    parts = checked_url(url, name=name, show=show)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        begin = f"{name}: " if name else ""
        got = repr(redacted_url(url)) if show else f"http to {parts.hostname}"
        raise UsageError(f"{begin}expected https beyond this machine, got {got}")
    return url.rstrip("/")


@dataclass
class Stream:
    """A sealed answer that is still arriving."""

    status: int
    media_type: str
    _incoming: IncomingAnswer

    @property
    def retry_after(self) -> float | None:
        """Seconds that whoever answered asks to wait."""
        return retry_after(self._incoming.headers.get("retry-after"))

    def __iter__(self) -> Iterator[bytes]:
        """Bytes as they arrive. Raises Truncated where the connection breaks."""
        while piece := self.piece():
            yield piece

    def piece(self, until: float = float("inf"), told: str = "") -> bytes:
        """The next bytes, b"" at the end. Raises Truncated where the connection breaks, and
        with `told` where they are not there at `until` (monotonic clock)."""
        self._incoming.end_by(until, told)
        try:
            return self._incoming.piece()
        except Unavailable as error:
            cut = Truncated(f"answer truncated: {error}")
            cut.late = error.late
            raise cut from None

    def close(self) -> None:
        self._incoming.close()


class Transport:
    """One per client, safe for many threads. `read_seconds` is for sealed answers; `route` says
    which proxy and which authorities, where the environment does not. `within` is in seconds."""

    def __init__(self, *, read_seconds: float = READ_SECONDS, route: Route | None = None) -> None:
        self._sealed = Deadlines(head=read_seconds, whole=None, idle=read_seconds)
        self._http = Http(Deadlines(whole=ANSWER_SECONDS), route=route)

    def get(self, url: str, *, limit: int = MAX_ANSWER, within: float | None = None) -> bytes:
        """A 200's body of at most `limit` bytes. Raises NotThere for a 404, Unavailable."""
        check_url(url)
        return self._http.get(url, limit=limit, deadlines=_small(within)).body

    def post(
        self, url: str, body: bytes, *, limit: int = MAX_ANSWER, within: float | None = None
    ) -> bytes:
        """The same for a POST of octets."""
        check_url(url)
        return self._http.post(url, body, limit=limit, deadlines=_small(within)).body

    def notify(self, url: str, body: bytes) -> None:
        """POST of JSON, for any 2xx. Raises Unavailable, which names the host alone: such
        URLs hold secrets."""
        check_url(url, name="webhook", show=False)
        name = f"webhook at {checked_url(url).hostname}"
        headers = {"content-type": "application/json"}
        with self._http.open("POST", url, body, headers=headers, name=name) as answer:
            if not 200 <= answer.status < 300:
                raise Unavailable(f"{name}: expected HTTP 2xx, got {answer.status}")

    def stream(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        within: float | None = None,
        connect: float | None = None,
    ) -> Stream:
        """POST and return as soon as the answer's head is there. Raises Unavailable, and Left as
        the reading does, where whoever asks here may leave (attestation.net.leaving)."""
        check_url(url)
        times, leaving = until_head(self._sealed, within, connect), LEAVING.get()
        answer = self._http.open(
            "POST", url, body, headers=headers, deadlines=times, leaving=leaving
        )
        return Stream(answer.status, answer.media_type, answer)

    def close(self) -> None:
        self._http.close()


def _small(within: float | None) -> Deadlines:
    return Deadlines(whole=ANSWER_SECONDS if within is None else min(within, ANSWER_SECONDS))


def until_head(usual: Deadlines, within: float | None, connect: float | None) -> Deadlines:
    """For a sealed answer that begins `within` seconds; who reads it has limits of its own."""
    if within is None:
        return usual
    connecting = min(usual.connect if connect is None else connect, within)
    idle = max(usual.idle, within)
    return Deadlines(connect=connecting, head=within, whole=None, idle=idle)


def log_url(origin: str) -> str:
    """https:// and the origin; plain http for loopback only."""
    host = origin.partition("/")[0].rpartition(":")[0] or origin.partition("/")[0]
    scheme = "http" if is_loopback(host.strip("[]")) else "https"
    return f"{scheme}://{origin}"
