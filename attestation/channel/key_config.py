"""RFC 9458 §3: key configurations, lists of them, and which one a client takes.

A key configuration is one key of one KEM and the algorithms it may be used with; its
bytes parse in one way only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attestation.channel import kem
from attestation.channel.hpke import HKDF_SHA256_ID
from attestation.channel.protocol import MAX_KEY_CONFIGS
from attestation.channel.suite import AEADS, KEMS, PREFERENCES, Suite
from attestation.errors import ParseError, Refused, UsageError

ALGORITHMS = tuple((HKDF_SHA256_ID, aead_id) for aead_id in AEADS)
"""(KDF, AEAD) pairs that a server of ours offers with each key."""

MAX_ALGORITHMS = 32
PQ_FLOORS = ("required", "preferred")


@dataclass(frozen=True)
class KeyConfig:
    """`algorithms` are (KDF, AEAD) numbers; those we do not know are kept and not used."""

    key_id: int
    kem_id: int
    public: bytes
    algorithms: tuple[tuple[int, int], ...] = ALGORITHMS

    def __post_init__(self) -> None:
        if not 0 <= self.key_id <= 255:
            raise ParseError(f"key id: expected 0 to 255, got {self.key_id}")
        if self.kem_id not in KEMS:
            raise ParseError(f"KEM: expected 0x0020 or 0x647a, got {self.kem_id:#06x}")
        if len(self.public) != kem.public_bytes(self.kem_id):
            raise ParseError(
                f"public key: expected {kem.public_bytes(self.kem_id)} bytes, "
                f"got {len(self.public)}"
            )
        if not 0 < len(self.algorithms) <= MAX_ALGORITHMS:
            raise ParseError(f"algorithms: expected 1 to 32, got {len(self.algorithms)}")

    def to_bytes(self) -> bytes:
        """Without the two length bytes that precede it in a list."""
        pairs = b"".join(_u16(kdf_id) + _u16(aead_id) for kdf_id, aead_id in self.algorithms)
        return bytes([self.key_id]) + _u16(self.kem_id) + self.public + _u16(len(pairs)) + pairs

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyConfig:
        """Raises ParseError unless `data` is one key configuration of a KEM of ours."""
        if len(data) < 3:
            raise ParseError(f"key configuration: expected at least 3 bytes, got {len(data)}")
        kem_id = int.from_bytes(data[1:3], "big")
        if kem_id not in KEMS:
            raise ParseError(f"KEM: expected 0x0020 or 0x647a, got {kem_id:#06x}")
        end = 3 + kem.public_bytes(kem_id)
        pairs = data[end + 2 :]
        if len(data) < end + 2 or int.from_bytes(data[end : end + 2], "big") != len(pairs):
            raise ParseError(
                "key configuration: expected algorithms up to its end, got another length"
            )
        if len(pairs) % 4:
            raise ParseError(f"algorithms: expected a multiple of 4 bytes, got {len(pairs)}")
        numbers = [int.from_bytes(pairs[i : i + 2], "big") for i in range(0, len(pairs), 2)]
        algorithms = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return cls(data[0], kem_id, data[3:end], algorithms)

    def one_per_algorithm(self) -> tuple[KeyConfig, ...]:
        """The same key in as many configurations, for clients that read one algorithm only."""
        return tuple(
            KeyConfig(self.key_id, self.kem_id, self.public, (pair,)) for pair in self.algorithms
        )


def encode_key_list(configs: Iterable[KeyConfig]) -> bytes:
    """A body of application/ohttp-keys: each configuration after its length."""
    encoded = [config.to_bytes() for config in configs]
    return b"".join(_u16(len(config)) + config for config in encoded)


def parse_key_list(data: bytes) -> tuple[KeyConfig, ...]:
    """The configurations of KEMs we know; others are skipped, as RFC 9458 §3.2 asks.

    Raises ParseError for a malformed list and for more than 64 configurations.
    """
    configs = []
    parts = _split(data)
    for part in parts:
        if len(part) >= 3 and int.from_bytes(part[1:3], "big") not in KEMS:
            continue
        configs.append(KeyConfig.from_bytes(part))
    return tuple(configs)


def choose(configs: Sequence[KeyConfig], *, pq: str) -> tuple[KeyConfig, Suite]:
    """The best suite on offer, in the order of PREFERENCES.

    `pq` is the client's floor: "required" takes X-Wing or nothing. Raises Refused when no
    suite is left, UsageError for another floor.
    """
    if pq not in PQ_FLOORS:
        raise UsageError(f'pq: expected "required" or "preferred", got {pq!r}')
    for kem_id, aead_id in PREFERENCES:
        suite = Suite(kem_id, aead_id)
        if pq == "required" and not suite.post_quantum:
            continue
        for config in configs:
            if config.kem_id == kem_id and (suite.kdf_id, aead_id) in config.algorithms:
                return config, suite
    code = "pq-required" if pq == "required" else "no-common-suite"
    raise Refused(
        "channel",
        code,
        "KeyBundle B[2]: expected a key for one of our suites (policy [channel] pq is "
        f"{pq}), got none",
    )


def _split(data: bytes) -> list[bytes]:
    parts = []
    offset = 0
    while offset < len(data):
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        if end > len(data):
            raise ParseError("key list: expected whole configurations, it ends within one")
        parts.append(data[offset + 2 : end])
        if len(parts) > MAX_KEY_CONFIGS:
            raise ParseError(
                f"key list: expected at most {MAX_KEY_CONFIGS} configurations, got more"
            )
        offset = end
    return parts


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")
