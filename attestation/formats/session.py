"""A session: a key that a guest makes for one client, and the quote that proves it.

nonce ‖ H(key configuration) ── leaf ──> root ── REPORT_DATA[32:64] ──> quote
One quote serves as many as 256 clients, each with a path of its own (docs/spec/formats.md). All
of it is bounded, and parses in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError
from attestation.formats import cbor
from attestation.formats.digests import DIGEST_BYTES, domain_digest, sha256
from attestation.wire import MAX_SESSION_BYTES, NONCE_BYTES, SESSION_REQUEST_BYTES

MAX_SESSIONS_PER_QUOTE = 256
MAX_PATH = 8
"""Hashes from a leaf to the root of a tree of 256."""

SIGNATURE_BYTES = 64
_DOMAIN = b"umay/session/v1\0"


@dataclass(frozen=True)
class SessionRequest:
    """A client's nonce of 32 bytes, and the number of the KEM that its key shall be of."""

    nonce: bytes
    kem_id: int

    def to_bytes(self) -> bytes:
        """34 bytes: nonce ‖ u16."""
        return self.nonce + self.kem_id.to_bytes(2, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> SessionRequest:
        """Raises ParseError for another length than 34 bytes."""
        if len(data) != SESSION_REQUEST_BYTES:
            raise ParseError(
                f"session request: expected {SESSION_REQUEST_BYTES} bytes, got {len(data)}"
            )
        return cls(data[:NONCE_BYTES], int.from_bytes(data[NONCE_BYTES:], "big"))


@dataclass(frozen=True)
class SessionAnswer:
    """A quote, the key configuration of one session, and where its leaf stands in the quoted
    tree: `path` has hashes of 32 bytes, from the leaf's sibling to the root's child."""

    quote: bytes
    config: bytes
    path: tuple[bytes, ...]
    index: int
    size: int

    def to_bytes(self) -> bytes:
        return cbor.encode(
            {0: self.quote, 1: self.config, 2: list(self.path), 3: self.index, 4: self.size}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> SessionAnswer:
        """Raises ParseError for anything that is not exactly one answer."""
        fields = cbor.decode_map(data, required=frozenset(range(5)), limit=MAX_SESSION_BYTES)
        quote, config, path, index, size = (fields[key] for key in range(5))
        if type(quote) is not bytes or type(config) is not bytes:
            raise ParseError("session: expected quote and key configuration as bytes")
        if type(index) is not int or type(size) is not int:
            raise ParseError("session: expected index and size as whole numbers")
        if not 0 <= index < size <= MAX_SESSIONS_PER_QUOTE:
            text = f"an index below a size of at most {MAX_SESSIONS_PER_QUOTE}"
            raise ParseError(f"session: expected {text}, got index {index} and size {size}")
        return cls(quote, config, _path(path), index, size)


def session_leaf(nonce: bytes, config: bytes) -> bytes:
    """The entry of the quoted tree (RFC 6962 hashes it): 80 bytes. Raises ParseError."""
    if len(nonce) != NONCE_BYTES:
        raise ParseError(f"session nonce: expected {NONCE_BYTES} bytes, got {len(nonce)}")
    return _DOMAIN + nonce + sha256(config)


def sign_gone(key: Ed25519PrivateKey, evidence: bytes, clear: bytes) -> bytes:
    """A guest's word of 64 bytes that it did not execute a request, and never will: it holds the
    session no more. `clear` is the request before its first chunk, `evidence` the digest of the
    Evidence whose key it names."""
    return key.sign(_gone(evidence, clear))


def check_gone(receipt_key: bytes, signature: bytes, *, evidence: bytes, clear: bytes) -> None:
    """`receipt_key` is B[3]. Raises NotAuthentic("freshness", "bad-session-gone")."""
    try:
        public = Ed25519PublicKey.from_public_bytes(receipt_key)
        public.verify(signature, _gone(evidence, clear))
    except (InvalidSignature, ValueError):
        raise NotAuthentic(
            "freshness",
            "bad-session-gone",
            "session: expected the end of it signed by the receipt key B[3], got a signature "
            "that does not hold",
        ) from None


def _gone(evidence: bytes, clear: bytes) -> bytes:
    return domain_digest("umay/session-gone/v1", evidence, clear)


def _path(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_PATH:
        raise ParseError(f"session: expected a path as a list of at most {MAX_PATH} hashes")
    if not all(type(item) is bytes and len(item) == DIGEST_BYTES for item in value):
        raise ParseError(f"session: expected a path of hashes of {DIGEST_BYTES} bytes")
    return tuple(value)
