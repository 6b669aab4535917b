"""Signed notes (c2sp.org/signed-note) with Ed25519 keys (signature type 01).

The text means nothing before a known key's signature has been checked. Signatures by
unknown keys are kept and ignored; one by the known key that fails spoils the note.
Only one byte string encodes a given note.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attestation.errors import NotAuthentic, ParseError

ED25519 = b"\x01"
COSIGNATURE = b"\x04"
"""Type of a witness's Ed25519 key (c2sp.org/tlog-cosignature)."""

KEY_BYTES = 32
KEY_ID_BYTES = 4
MAX_SIGNATURES = 64
"""The specification demands at least 16: one log, its witnesses, a TON line."""

MAX_NOTE_BYTES = 512 * 1024
"""64 signatures of the largest post-quantum kind (5 kB) in base64."""

_DASH = "\u2014 "
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True)
class VerifierKey:
    """A key by name: 32 raw Ed25519 bytes, the name it signs under, and the type of what it
    signs: notes, or COSIGNATURE."""

    name: str
    public_key: bytes
    kind: bytes = ED25519

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public_key) != KEY_BYTES:
            raise ParseError(f"note key: expected 32 bytes, got {len(self.public_key)}")

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.public_key, self.kind)

    def to_text(self) -> str:
        """The vkey: name+id+base64(type ‖ key)."""
        key = base64.b64encode(self.kind + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    @classmethod
    def from_text(cls, text: str, kind: bytes = ED25519) -> VerifierKey:
        """Raises ParseError for anything that is not exactly one Ed25519 vkey of that type."""
        name, shown_id, public_key = _key_parts(text, kind)
        key = cls(name, public_key, kind)
        if shown_id != key.key_id.hex():
            raise ParseError(f"note key: expected the key id {key.key_id.hex()}, got another")
        return key


@dataclass(frozen=True)
class Signature:
    """One signature line: `value` is whatever follows the 4-byte key id."""

    name: str
    key_id: bytes
    value: bytes

    def to_line(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    @classmethod
    def from_line(cls, line: str) -> Signature:
        """Parses a line without its newline. Raises ParseError."""
        name, separator, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not separator:
            raise ParseError(
                "note: expected a signature line of dash, name and base64, got another line"
            )
        check_name(name)
        blob = from_base64(encoded, "note signature")
        if len(blob) <= KEY_ID_BYTES:
            raise ParseError("note: expected a signature after the key id, got none")
        return cls(name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])


@dataclass(frozen=True)
class Note:
    """Text that ends in a newline, and its signatures in order."""

    text: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        return (self.text + "\n" + "".join(item.to_line() for item in self.signatures)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Note:
        """Raises ParseError for anything that is not exactly one signed note."""
        content = decode_text(data)
        text, _, lines = content.rpartition("\n\n")
        if not text or not lines.endswith("\n"):
            raise ParseError(
                "note: expected text, an empty line, and signature lines, got another form"
            )
        parts = lines[:-1].split("\n")
        if len(parts) > MAX_SIGNATURES:
            raise ParseError(
                f"note: expected at most {MAX_SIGNATURES} signatures, got {len(parts)}"
            )
        return cls(text + "\n", tuple(Signature.from_line(line) for line in parts))

    def verify(self, key: VerifierKey) -> None:
        """Raises NotAuthentic unless `key` signed, and every line of its name and id holds."""
        mine = [s for s in self.signatures if (s.name, s.key_id) == (key.name, key.key_id)]
        if not mine:
            raise NotAuthentic(
                "log",
                "unsigned",
                f"note: expected a signature by {key.name}, key id {key.key_id.hex()}, got none",
            )
        public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
        for signature in mine:
            try:
                public_key.verify(signature.value, self.text.encode())
            except InvalidSignature:
                message = f"note: expected a signature by {key.name}, got one that does not hold"
                raise NotAuthentic("log", "bad-signature", message) from None


def sign(text: str, *, name: str, key: Ed25519PrivateKey) -> Note:
    """The note of `text` with one signature under `name`. Raises ParseError."""
    check_name(name)
    if not text.endswith("\n"):
        raise ParseError("note: expected text that ends in a newline, got none at its end")
    decode_text(text.encode())
    public_key = key.public_key().public_bytes_raw()
    return Note(text, (Signature(name, key_id(name, public_key), key.sign(text.encode())),))


def key_id(name: str, public_key: bytes, kind: bytes = ED25519) -> bytes:
    """SHA-256(name ‖ newline ‖ type ‖ key)[:4]."""
    return sha256(name.encode() + b"\n" + kind + public_key).digest()[:KEY_ID_BYTES]


def signer_text(name: str, key: Ed25519PrivateKey) -> str:
    """A secret key as Go's note package writes it. SECRET."""
    identity = key_id(name, key.public_key().public_bytes_raw()).hex()
    seed = base64.b64encode(ED25519 + key.private_bytes_raw()).decode()
    return f"{_PRIVATE}{name}+{identity}+{seed}"


def parse_signer(text: str) -> tuple[str, Ed25519PrivateKey]:
    """Name and secret key from `signer_text`. Raises ParseError, never quoting the text."""
    if not text.startswith(_PRIVATE):
        raise ParseError("note key: expected a private key, got another form")
    name, shown_id, seed = _key_parts(text.removeprefix(_PRIVATE))
    key = Ed25519PrivateKey.from_private_bytes(seed)
    if shown_id != key_id(name, key.public_key().public_bytes_raw()).hex():
        raise ParseError("note key: expected the key id of this key, got another")
    return name, key


def check_name(name: str) -> None:
    """A key name: not empty, no Unicode space, no plus. Raises ParseError."""
    if not name or "+" in name or any(c.isspace() or c < " " for c in name):
        raise ParseError(
            "note: expected a key name without spaces and plus signs, got another form"
        )


def decode_text(data: bytes) -> str:
    """UTF-8 without control characters but newline. Raises ParseError."""
    if len(data) > MAX_NOTE_BYTES:
        raise ParseError(f"note: expected at most {MAX_NOTE_BYTES} bytes, got {len(data)}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ParseError("note: expected UTF-8, got other bytes") from None
    if any(character < " " and character != "\n" for character in text):
        raise ParseError("note: expected no control characters but newline, got one")
    return text


def from_base64(text: str, what: str) -> bytes:
    """Standard padded base64, canonical or refused. Raises ParseError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise ParseError(f"{what}: expected base64, got other text") from None
    if base64.b64encode(data).decode() != text:
        raise ParseError(f"{what}: expected canonical base64, got another spelling")
    return data


def from_decimal(text: str, what: str) -> int:
    """A decimal below 2^63 without sign or leading zeros. Raises ParseError."""
    if not (0 < len(text) <= 19 and text.isascii() and text.isdecimal()):
        raise ParseError(f"{what}: expected a decimal number, got other text")
    number = int(text)
    if str(number) != text or number >= 2**63:
        raise ParseError(
            f"{what}: expected a decimal below 2^63 without leading zeros, got another number"
        )
    return number


def _key_parts(text: str, kind: bytes = ED25519) -> tuple[str, str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise ParseError("note key: expected name+id+base64, got another form")
    blob = from_base64(parts[2], "note key")
    if blob[:1] != kind or len(blob) != 1 + KEY_BYTES:
        raise ParseError(f"note key: expected type {kind.hex()} (Ed25519) and 32 bytes, got others")
    check_name(parts[0])
    return parts[0], parts[1], blob[1:]
