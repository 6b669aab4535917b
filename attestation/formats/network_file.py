"""Network file: the places of one network, signed by k of its operators (docs/spec/network.md).

It has places and nothing else: relays, mirrors, witnesses and lite servers. What decides about
trust (a contract, a log key, a release) is in the policy, so a file with any other key is refused.
A file is hashed and signed as it was served, and only one byte string encodes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats import cbor
from attestation.formats.digests import domain_digest, sha256
from attestation.formats.url import split_url

STEP = "network"
MAX_FILE_BYTES = 64 * 1024
MAX_KEYS, MAX_PLACES, MAX_TEXT = 16, 64, 256
"""Signers, places of one kind, and characters of one place."""

MAX_LIFE_S = 30 * 86_400
"""A file counts for so long at most: after that only URLs that the user typed are asked."""

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_BODY_KEYS = frozenset(range(11))
_HOST = re.compile(r"[0-9A-Za-z.-]+|[0-9A-Fa-f:.]+")
T = TypeVar("T")


@dataclass(frozen=True)
class LiteServer:
    """Host, port, and the server's Ed25519 key of 32 bytes."""

    host: str
    port: int
    key: bytes


@dataclass(frozen=True)
class NetworkFile:
    """`body` as it was signed, and Ed25519 signatures by SHA-256 of the key. Times are Unix
    seconds; `required` of `keys` have to sign; places are URLs without a slash at their end."""

    body: bytes
    signatures: tuple[tuple[bytes, bytes], ...]
    network: str
    version: int
    issued: int
    expires: int
    required: int
    keys: tuple[bytes, ...]
    relays: tuple[str, ...]
    mirrors: tuple[str, ...]
    witnesses: tuple[str, ...]
    lite_servers: tuple[LiteServer, ...]

    def to_bytes(self) -> bytes:
        return cbor.encode([self.body, [list(pair) for pair in self.signatures]])

    @classmethod
    def from_bytes(cls, data: bytes) -> NetworkFile:
        """Raises ParseError for anything that is not exactly one file, Refused("network",
        "pin-conflict") for one that says more than places. Checks no signature."""
        value = cbor.decode(data, limit=MAX_FILE_BYTES)
        _check(isinstance(value, list) and len(value) == 2, "a body and its signatures")
        body, signatures = value
        _check(type(body) is bytes, "the body as bytes")
        return cls(body, _signatures(signatures), **_fields(body))

    def check_signed(self, keys: tuple[bytes, ...], required: int, whose: str) -> None:
        """Raises NotAuthentic("network", "bad-signature") unless `required` of `keys` signed."""
        found = dict(self.signatures)
        message = _message(self.body)
        good = sum(_verifies(key, found.get(sha256(key)), message) for key in keys)
        if good < required:
            text = f"network file {self.version}: expected signatures of {required} of {whose}, "
            raise NotAuthentic(STEP, "bad-signature", f"{text}got {good}")


def sign(fields: dict[int, Any], keys: list[Ed25519PrivateKey]) -> NetworkFile:
    """A file with this body, signed with these keys. Raises like `from_bytes`."""
    body = cbor.encode(fields)
    signed = {sha256(key.public_key().public_bytes_raw()): key.sign(_message(body)) for key in keys}
    value = [body, [[identity, signed[identity]] for identity in sorted(signed)]]
    return NetworkFile.from_bytes(cbor.encode(value))


def _message(body: bytes) -> bytes:
    return domain_digest("umay/network/v1", body)


def _verifies(key: bytes, signature: bytes | None, message: bytes) -> bool:
    if signature is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signatures(value: object) -> tuple[tuple[bytes, bytes], ...]:
    _check(isinstance(value, list), "a list of signatures")
    found = []
    for pair in value if isinstance(value, list) else ():
        good = isinstance(pair, list) and [type(item) for item in pair] == [bytes, bytes]
        _check(good and (len(pair[0]), len(pair[1])) == (32, 64), "signatures of 32 and 64 bytes")
        found.append((pair[0], pair[1]))
    identities = [identity for identity, _ in found]
    _check(len(found) <= 2 * MAX_KEYS, f"at most {2 * MAX_KEYS} signatures")
    _check(identities == sorted(set(identities)), "one signature of each key, in their order")
    return tuple(found)


def _fields(body: bytes) -> dict[str, Any]:
    value = cbor.decode_map(body, required=_BODY_KEYS, limit=MAX_FILE_BYTES)
    if more := sorted(value.keys() - _BODY_KEYS):
        text = f"network file: expected places alone (keys 0 to 10), got key {more[0]}; what a "
        raise Refused(STEP, "pin-conflict", f"{text}network pins stands in the policy")
    numbers = [value[key] for key in (0, 2, 3, 4, 5)]
    _check(all(type(n) is int and 0 <= n < 2**53 for n in numbers), "numbers in keys 0 and 2 to 5")
    _check(value[0] == 1 and value[2] > 0, "version 1 of the format, and a file's version from 1")
    _check(0 < value[4] - value[3] <= MAX_LIFE_S, "a life of at most 30 days")
    keys = _listed(value[6], _key, "keys of 32 bytes")
    _check(0 < len(set(keys)) == len(keys) <= MAX_KEYS, f"1 to {MAX_KEYS} keys, each once")
    _check(0 < value[5] <= len(keys), "as many signers as there are keys, or fewer")
    return {
        "network": _text(value[1]),
        "version": value[2],
        "issued": value[3],
        "expires": value[4],
        "required": value[5],
        "keys": keys,
        "relays": _listed(value[7], _url, "relays"),
        "mirrors": _listed(value[8], _url, "mirrors"),
        "witnesses": _listed(value[9], _url, "witnesses"),
        "lite_servers": _listed(value[10], _lite, "lite servers"),
    }


def _listed(value: object, read: Callable[[object], T], what: str) -> tuple[T, ...]:
    if not isinstance(value, list) or len(value) > MAX_PLACES:
        raise ParseError(f"network file: expected a list of at most {MAX_PLACES} {what}")
    return tuple(read(item) for item in value)


def _key(value: object) -> bytes:
    if type(value) is not bytes or len(value) != KEY_BYTES:
        raise ParseError("network file: expected keys of 32 bytes, got another value")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise ParseError(f"network file: expected a text of 1 to {MAX_TEXT} printable characters")
    return value


def _url(value: object) -> str:
    url = _text(value)
    parts = split_url(url)
    # Also an empty query or fragment would swallow the path that is put behind it.
    plain = url.isascii() and not set(url) & set("?#\\") and url == url.rstrip("/")
    _check(plain, "URLs in ASCII without query, fragment and slash at the end")
    _check("@" not in parts.netloc, "URLs without a name and password")
    return url


def _lite(value: object) -> LiteServer:
    good = isinstance(value, list) and [type(item) for item in value] == [str, int, bytes]
    if not good or not isinstance(value, list) or not 0 < value[1] < 65536:
        raise ParseError("network file: expected lite servers as [host, port, key]")
    _check(_HOST.fullmatch(value[0]) is not None, "lite servers by a host's name or address")
    return LiteServer(_text(value[0]), value[1], _key(value[2]))


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"network file: expected {expected}, got another form")
