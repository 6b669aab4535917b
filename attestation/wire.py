"""What parties write to each other over HTTP: routes, media types, field names, limits.

A guest serves one boot, an agent stands before one guest, a relay before many agents; all
three answer below /umay/<boot id>/ (docs/spec/api.md). Targets are compared as they stand on
the wire, so that an encoded slash or dot is never one of ours. Which web pages may ask is
decided here too: `shared_method` and `shared_log_method`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from attestation.errors import ParseError

# Boot ids

BOOT_BYTES = 16
_BOOT = "[0-9a-f]{32}"


def read_boot_id(text: object, *, where: str) -> str:
    """`text`, where it is a boot id in its one spelling: 32 lower-case hex digits.

    Raises ParseError that begins with `where`.
    """
    if not isinstance(text, str) or not re.fullmatch(_BOOT, text):
        raise ParseError(f"{where}: expected a boot id of 32 lower-case hex digits")
    return text


# Media types and names of fields

CBOR, JSON, TOML = "application/cbor", "application/json", "application/toml"
TEXT, EVENTS, OCTETS = "text/plain", "text/event-stream", "application/octet-stream"
PROBLEM = "application/problem+json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus."""
OHTTP_KEYS = "application/ohttp-keys"
OHTTP_REQUEST, OHTTP_RESPONSE = "message/ohttp-req", "message/ohttp-res"
CHUNKED_REQUEST, CHUNKED_RESPONSE = "message/ohttp-chunked-req", "message/ohttp-chunked-res"
SESSION_REQUEST = "message/umay-session-req"
"""Sealed to a session; answered as CHUNKED_RESPONSE."""

SESSION_GONE = "message/umay-session-gone"
"""An enclave's signed word (HTTP 400) that it holds the session no more and ran nothing."""

CONTENT_TYPE, CACHE_CONTROL = "content-type", "cache-control"
RETRY_AFTER = "retry-after"
"""In whole seconds, inside the seal and outside."""

INCREMENTAL, INCREMENTAL_YES = "incremental", "?1"
"""Tells relays and proxies not to wait for the whole message (RFC 9457's structured true)."""

PACING_FIELD, RECEIPT_TRAILER = b"umay-pacing", b"umay-receipt"
"""Inside the sealed exchange."""

RECEIPT_COSE_TRAILER = b"umay-receipt-cose"
"""Base64 of the receipt's second signature, which makes it a COSE_Sign1."""

IDEMPOTENCY_FIELD, RECEIPT_SALTS_FIELD = b"idempotency-key", b"umay-receipt-salts"
"""Inside too: a retry repeats the whole inner request with its key. It is given the first answer
with its receipt, and before it that one's salts: base64 of 32 bytes for the request, 32 for the
response."""

PACINGS, DEFAULT_PACING = ("none", "clock", "strict"), "clock"
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
EMBEDDINGS = "/v1/embeddings"

_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{16,64}")


def new_idempotency_key() -> bytes:
    """A key for one request and all its retries: random, because whoever knows key and request is
    given the answer."""
    return secrets.token_hex(16).encode()


def read_idempotency_key(fields: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key among an inner request's header fields; None where there is none.

    Raises ParseError unless it stands there once, as 16 to 64 visible ASCII characters.
    """
    values = [value for name, value in fields if name == IDEMPOTENCY_FIELD]
    if not values:
        return None
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise ParseError(
            "idempotency-key: expected one field of 16 to 64 visible ASCII characters, as a UUID is"
        )
    return values[0]


# Outside the sealed exchange

REFUSED = b'{"title":"not a request to this enclave"}'
"""The one answer (HTTP 400) to whatever fails before a request is open and authentic."""

REPLAYED = b'{"title":"replay"}'
"""The answer (HTTP 400) to an authentic request that was seen before."""


SESSION_BUSY = b'{"title":"no new session now"}'
"""The one answer (HTTP 429) where too many clients ask for a session."""


def sealed_headers(media_type: str) -> dict[str, str]:
    """The outer header fields of a sealed request."""
    return {CONTENT_TYPE: media_type, INCREMENTAL: INCREMENTAL_YES}


# Limits that both sides keep to, in bytes

NONCE_BYTES = 32
"""A client's own, which the quote of its session names."""

SESSION_REQUEST_BYTES = NONCE_BYTES + 2
"""Nonce and number of a KEM."""

MAX_SESSION_BYTES = 64 << 10
"""Of the answer: a quote of 5 to 16 kB, a key of 1.2 kB and a path."""

MAX_REQUEST_BYTES = 16 << 20
"""Inner request, padding included: long prompts and a few images."""

MAX_RESPONSE_BYTES = 64 << 20
"""Inner response: 100,000 tokens as padded SSE events stay below it."""

MAX_SEALED_BYTES = 33 << 20
"""The longest sealed request: MAX_REQUEST_BYTES of plaintext, sealed in small chunks."""

MAX_CONFIG_BYTES = 64 << 10
"""Of an engine config, a price table or a host config."""

MAX_PROOF_BYTES = 64 << 10
MAX_LISTING_BYTES = 1 << 20
MAX_LISTED = 256
"""Boots of one listing that are looked at."""

# Routes

LISTING = "/umay/"


@dataclass(frozen=True)
class Route:
    """One method at one `path` below a boot's base, with a query where it has one.

    `path` and `query` are patterns for the whole text; `limit` bounds the body in bytes.
    """

    method: str
    path: str
    query: str = ""
    limit: int = 0


ROUTES = (
    Route("GET", "evidence(/[0-9a-f]{64})?"),
    Route("GET", "epochs"),
    Route("GET", "ohttp-keys"),
    Route("GET", "config/(engine|price|host)"),
    Route("GET", "healthz"),
    Route("GET", "collateral"),
    Route("GET", "proof", query="size=(0|[1-9][0-9]{0,18})"),
    Route("POST", "session", limit=SESSION_REQUEST_BYTES),
    Route("POST", "ohttp", limit=MAX_SEALED_BYTES),
)
"""All that clients may ask of a boot. A guest has `retire` and `metrics` besides, for its host."""


def base(boot: str) -> str:
    """The path that all routes of a boot stand below."""
    return f"{LISTING}{boot}/"


@dataclass(frozen=True)
class Target:
    """What a client asks of one boot: `path` stands below its base, `limit` bounds the body."""

    boot: str
    path: str
    query: str
    limit: int

    def at(self, server: str) -> str:
        """The same as a URL at another `server` (scheme and authority)."""
        return f"{server}{base(self.boot)}{self.path}{'?' if self.query else ''}{self.query}"


_BELOW = re.compile(rf"/umay/({_BOOT})/([a-z0-9/-]{{1,80}})".encode())


def read_target(method: str, raw_path: bytes, query: bytes) -> Target | None:
    """None for anything but one of ROUTES, spelt exactly so."""
    below = _BELOW.fullmatch(raw_path)
    if below is None:
        return None
    boot, path, asked = below[1].decode(), below[2].decode(), query.decode("latin-1")
    for route in ROUTES:
        if route.method == method and _is(route.path, path):
            return Target(boot, path, asked, route.limit) if _is(route.query, asked) else None
    return None


def _is(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


# Web pages of any origin (CORS), always without credentials

SHARED_HEADERS = f"{CONTENT_TYPE}, {INCREMENTAL}"
"""Header fields that a page may send."""

PREFLIGHT_SECONDS = 7200
"""For how long a browser may keep the answer to a preflight; Chromium keeps none longer."""

_LOG_READS = re.compile(
    rb"checkpoint(/[0-9]+)?|cosigned|tile/[0-9a-zA-Z./]+|evidence/sha256/[0-9a-f]{64}"
    rb"|submission/[0-9]+|proof|consistency"
)


def shared_method(raw_path: bytes) -> str | None:
    """The method by which any web page may ask this path of a guest, an agent or a relay.

    Public reads, sessions and sealed requests; None for `retire`, `metrics` and the rest.
    """
    if raw_path == LISTING.encode():
        return "GET"
    below = _BELOW.fullmatch(raw_path)
    path = below[2].decode() if below else ""
    return next((route.method for route in ROUTES if _is(route.path, path)), None)


def shared_log_method(below_origin: bytes) -> str | None:
    """The same of a log, for a path below its origin; nobody's page submits to it."""
    return "GET" if _LOG_READS.fullmatch(below_origin) else None
