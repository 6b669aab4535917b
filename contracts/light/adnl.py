"""The client side of ADNL over TCP: questions to one lite server whose key is known.

Only the holder of the server's key can read a question or answer it. The client's key is new for
each connection. The answers are not trusted: proofs decide (docs/adr/0006). Lengths and times
are bounded; every failure of the connection raises Unavailable.

Source: TON documentation "ADNL TCP"; tl/generate/scheme/ton_api.tl (adnl.message.query,
adnl.message.answer).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from nacl.bindings import (
    crypto_scalarmult,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey

from attestation.errors import ParseError, Unavailable, UsageError
from contracts.light.blocks import short_id
from contracts.light.tl import TlReader, tl_bytes, tl_id

QUERY, ANSWER = 0xB48BF97A, 0x0FAC8416
MAX_PACKET = 8 << 20  # bytes; a bag of cells that we read has 4 MiB at most
FRAME = 64  # bytes: nonce and checksum


@dataclass(frozen=True)
class Server:
    """Address and TCP port of a lite server, and its Ed25519 key (32 bytes)."""

    host: str
    port: int
    key: bytes

    def __post_init__(self) -> None:
        """Raises UsageError if the key is not an Ed25519 key."""
        curve_key(self.key)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Connection:
    """One encrypted connection. `seconds` is the deadline for opening it and for each question."""

    def __init__(self, server: Server, *, seconds: float) -> None:
        self._server, self._seconds = server, seconds
        self._until = time.monotonic() + seconds
        hello, self._receiving, self._sending = handshake(server.key, os.urandom(160))
        try:
            self._socket = socket.create_connection((server.host, server.port), timeout=seconds)
        except OSError as error:
            raise self._lost(error) from error
        try:
            self._send_raw(hello)
            if self._receive():
                raise Unavailable(
                    f"lite server {server}: expected an empty packet first, got one with data"
                )
        except Unavailable:
            self.close()
            raise

    def ask(self, question: bytes) -> bytes:
        """The answer to one question, both TL objects. Raises Unavailable, ParseError."""
        self._until = time.monotonic() + self._seconds
        query_id = os.urandom(32)
        self._send(tl_id(QUERY) + query_id + tl_bytes(question))
        return read_answer(self._receive(), query_id)

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: bytes) -> None:
        body = os.urandom(32) + data
        body += hashlib.sha256(body).digest()
        self._send_raw(self._sending.update(len(body).to_bytes(4, "little") + body))

    def _send_raw(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self) -> bytes:
        size = int.from_bytes(self._take(4), "little")
        if not FRAME <= size <= MAX_PACKET:
            text = (
                f"lite server {self._server}: expected a packet of {FRAME} to {MAX_PACKET} "
                f"bytes, got {size}"
            )
            raise Unavailable(text)
        packet = self._take(size)
        body, checksum = packet[:-32], packet[-32:]
        if not hmac.compare_digest(hashlib.sha256(body).digest(), checksum):
            raise Unavailable(
                f"lite server {self._server}: expected the SHA-256 of the packet at its end, got "
                "another value"
            )
        return body[32:]

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                self._socket.settimeout(self._left())
                part = self._socket.recv(min(size - len(data), 1 << 16))
            except OSError as error:
                raise self._lost(error) from error
            if not part:
                raise Unavailable(
                    f"lite server {self._server}: expected {size} bytes, but the connection "
                    "ended after "
                    f"{len(data)}"
                )
            data += part
        return self._receiving.update(bytes(data))

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _lost(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"lite server {self._server}: expected an answer within {self._seconds} s, got none "
            f"({type(error).__name__})"
        )


def handshake(server_key: bytes, params: bytes) -> tuple[bytes, CipherContext, CipherContext]:
    """The first message (256 bytes), the cipher for received bytes, and the cipher for sent bytes.

    `params` is 160 random bytes: both AES keys (32 each), both counters (16 each), padding.
    """
    own = SigningKey.generate()
    secret = crypto_sign_ed25519_sk_to_curve25519(own.encode() + own.verify_key.encode())
    shared = crypto_scalarmult(secret, curve_key(server_key))
    hidden = hello_cipher(shared, hashlib.sha256(params).digest()).update(params)
    hello = short_id(server_key) + own.verify_key.encode() + hashlib.sha256(params).digest()
    receiving = stream(params[0:32], params[64:80])
    return hello + hidden, receiving, stream(params[32:64], params[80:96])


def curve_key(key: bytes) -> bytes:
    """The X25519 form of an Ed25519 key (32 bytes each). Raises UsageError for another value."""
    try:
        return crypto_sign_ed25519_pk_to_curve25519(key)
    except (CryptoError, ValueError) as error:
        raise UsageError(
            f"lite server: key: expected an Ed25519 key of 32 bytes, got {len(key)} bytes that are "
            "not one"
        ) from error


def hello_cipher(shared: bytes, checksum: bytes) -> CipherContext:
    """The cipher that hides `params`: its key comes from the X25519 secret and the checksum of
    `params` (32 bytes each)."""
    return stream(shared[:16] + checksum[16:], checksum[:4] + shared[20:])


def stream(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def read_answer(packet: bytes, query_id: bytes) -> bytes:
    """The content of an adnl.message.answer to the question `query_id`. Raises ParseError."""
    data = TlReader(packet, "lite server's packet")
    data.expect(ANSWER)
    if data.take(32) != query_id:
        raise ParseError(
            "lite server's packet: expected the id of our question, got the id of another question"
        )
    answer = data.blob()
    data.end()
    return answer
