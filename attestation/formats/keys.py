"""KeyBundle: what an enclave claims, hashed exactly as served.

Everything a client relies on depends on `b = SHA-256(bundle bytes)`, which is bound
into the hardware's REPORT_DATA. The bytes are never re-serialised to be hashed, and
only one byte string decodes to a given bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestation.errors import ParseError
from attestation.formats import cbor
from attestation.formats.address import canonical
from attestation.formats.digests import DIGEST_BYTES, sha256

MAX_BUNDLE_BYTES = 16 * 1024
"""A bundle with an X-Wing and an X25519 key is about 1.7 kB."""

MAX_KEY_CONFIGS = 8
BOOT_ID_BYTES = 16
MAX_GPUS = 64
_REQUIRED = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14})


@dataclass(frozen=True)
class KeyBundle:
    """B of DESIGN §4. Digests and keys are 32 bytes, times Unix seconds.

    `beacon` is (masterchain seqno, root hash); `key_configs` are RFC 9458 key
    configurations without the two length bytes. `payee` is an address as it was spelled:
    compare it with formats.address.same_account.
    """

    boot_id: bytes
    key_configs: tuple[bytes, ...]
    receipt_key: bytes
    model_digest: bytes
    engine_digest: bytes
    gpu_count: int
    not_before: int
    not_after: int
    network: str
    beacon: tuple[int, bytes]
    price_digest: bytes
    host_config_digest: bytes
    payee: str | None = None
    tls_spki: bytes | None = None

    def __post_init__(self) -> None:
        _check(len(self.boot_id) == BOOT_ID_BYTES, f"boot id is {BOOT_ID_BYTES} bytes")
        _check(0 < len(self.key_configs) <= MAX_KEY_CONFIGS, f"1 to {MAX_KEY_CONFIGS} key configs")
        for name in ("receipt_key", "model_digest", "engine_digest", "price_digest"):
            _check(len(getattr(self, name)) == DIGEST_BYTES, f"{name} is {DIGEST_BYTES} bytes")
        _check(len(self.host_config_digest) == DIGEST_BYTES, "host_config_digest is 32 bytes")
        _check(0 <= self.gpu_count <= MAX_GPUS, f"0 to {MAX_GPUS} GPUs")
        _check(0 <= self.not_before < self.not_after < 2**63, "not_before before not_after")
        _check(0 <= self.beacon[0] < 2**32, "beacon seqno is 32 bits")
        _check(len(self.beacon[1]) == DIGEST_BYTES, "beacon root hash is 32 bytes")
        _check(self.tls_spki is None or len(self.tls_spki) == DIGEST_BYTES, "tls_spki is 32 bytes")
        _check(0 < len(self.network) <= 64, "network id is 1 to 64 characters")
        if self.payee is not None:
            _address(self.payee)

    def to_bytes(self) -> bytes:
        fields: dict[int, object] = {
            0: 1,
            1: self.boot_id,
            2: list(self.key_configs),
            3: self.receipt_key,
            4: self.model_digest,
            5: self.engine_digest,
            6: self.gpu_count,
            7: self.not_before,
            8: self.not_after,
            9: self.network,
            10: list(self.beacon),
            11: self.payee,
            12: self.tls_spki,
            13: self.price_digest,
            14: self.host_config_digest,
        }
        return cbor.encode({key: value for key, value in fields.items() if value is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyBundle:
        """Raises ParseError for anything that is not exactly one bundle."""
        fields = cbor.decode_map(data, required=_REQUIRED, limit=MAX_BUNDLE_BYTES)
        _check(type(fields[0]) is int and fields[0] == 1, "version 1")
        return cls(
            boot_id=_typed(fields, 1, bytes),
            key_configs=tuple(_items(fields, 2, bytes)),
            receipt_key=_typed(fields, 3, bytes),
            model_digest=_typed(fields, 4, bytes),
            engine_digest=_typed(fields, 5, bytes),
            gpu_count=_typed(fields, 6, int),
            not_before=_typed(fields, 7, int),
            not_after=_typed(fields, 8, int),
            network=_typed(fields, 9, str),
            beacon=_beacon(fields[10]),
            payee=_typed(fields, 11, str) if 11 in fields else None,
            tls_spki=_typed(fields, 12, bytes) if 12 in fields else None,
            price_digest=_typed(fields, 13, bytes),
            host_config_digest=_typed(fields, 14, bytes),
        )


def bundle_digest(data: bytes) -> bytes:
    """b: SHA-256 of a bundle's bytes as served."""
    return sha256(data)


def _check(good: bool, expected: str) -> None:
    if not good:
        raise ParseError(f"KeyBundle: expected {expected}, got another value")


def _address(payee: str) -> None:
    try:
        canonical(payee)
    except ParseError as error:
        raise ParseError(f"KeyBundle key 11, payee: {error}") from None


def _typed(fields: dict[int, Any], key: int, kind: type) -> Any:
    _check(type(fields[key]) is kind, f"key {key} of type {kind.__name__}")
    return fields[key]


def _items(fields: dict[int, Any], key: int, kind: type) -> list[Any]:
    items = _typed(fields, key, list)
    _check(all(type(item) is kind for item in items), f"key {key} holding {kind.__name__}")
    return list(items)


def _beacon(value: object) -> tuple[int, bytes]:
    if isinstance(value, list) and [type(item) for item in value] == [int, bytes]:
        return value[0], value[1]
    raise ParseError("KeyBundle: expected key 10 as [seqno, root hash], got another value")
