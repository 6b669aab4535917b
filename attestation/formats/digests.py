"""SHA-256 under a domain string that ends in a zero byte (DESIGN §4)."""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 32


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def domain_digest(domain: str, *parts: bytes) -> bytes:
    """H(domain ‖ 0 ‖ parts): 32 bytes."""
    return domain_hash(domain, *parts).digest()


def domain_hash(domain: str, *parts: bytes) -> hashlib._Hash:
    """The same before its end: `update` it with what comes later."""
    state = hashlib.sha256(domain.encode() + b"\0")
    for part in parts:
        state.update(part)
    return state


def engine_digest(config: bytes) -> bytes:
    """Digest of an engine config's JSON bytes."""
    return domain_digest("umay/engine/v1", config)


def price_digest(table: bytes) -> bytes:
    """Digest of a price table's JSON bytes."""
    return domain_digest("umay/price/v1", table)


def host_config_digest(config: bytes) -> bytes:
    """Digest of a host config's TOML bytes."""
    return domain_digest("umay/host-config/v1", config)
