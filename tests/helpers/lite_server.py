"""A lite server on loopback: real ADNL over TCP, with the answers it is given.

Written from the protocol's description with no line of the client under test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519
from nacl.signing import SigningKey

from contracts.light.blocks import BlockId
from tests.helpers.ton_chain import (
    TonChain,
    answer_bytes,
    back_bytes,
    header_bytes,
    proof_bytes,
    tl_blob,
    tl_int,
)

KEY = SigningKey(bytes(range(32)))
INFO, PROOF, LOOKUP, ACCOUNT = (
    bytes.fromhex(tag) for tag in ("2ee6b589", "449cea8a", "1ef7c8fa", "250e896b")
)
ERROR = bytes.fromhex("48e1a9bb")
Answer = Callable[[bytes], bytes]


def no_answer(message: str) -> bytes:
    return ERROR + tl_int(651) + tl_blob(message.encode())


class LiteChain:
    """A TonChain as a lite server tells it; a test changes what it likes."""

    def __init__(self, chain: TonChain) -> None:
        self.chain, self.head = chain, chain.head.block
        self.made = {
            m.block.seqno: m for m in (chain.first, chain.middle, chain.second, chain.head)
        }
        self.asked: list[bytes] = []
        self.spoil: dict[bytes, Answer] = {}

    def __call__(self, question: bytes) -> bytes:
        kind, rest = question[:4], question[4:]
        self.asked.append(kind)
        answers = {INFO: self.info, PROOF: self.proof, LOOKUP: self.header, ACCOUNT: self.account}
        honest = answers.get(kind, lambda _: no_answer("unknown query"))
        return self.spoil.get(kind, honest)(rest)

    def info(self, _: bytes) -> bytes:
        zero = (-1).to_bytes(4, "little", signed=True) + bytes(64)
        return bytes.fromhex("81288385") + self.head.to_bytes() + bytes(32) + zero

    def proof(self, rest: bytes) -> bytes:
        """One link at a time, forward to the next key block or the target, or back."""
        chain = self.chain
        known, target = (self.made[number(rest[at : at + 80])] for at in (4, 84))
        if target.block.seqno < known.block.seqno:
            return back_bytes(chain.back(target, source=known))
        if known is chain.first and target is chain.head:
            target = chain.second
        return proof_bytes(chain.link(known, target))

    def header(self, rest: bytes) -> bytes:
        made = self.made.get(int.from_bytes(rest[16:20], "little"))
        return header_bytes(made) if made else no_answer("block is not in db")

    def account(self, rest: bytes) -> bytes:
        workchain = int.from_bytes(rest[80:84], "little", signed=True)
        return answer_bytes(self.chain.answer(f"{workchain}:{rest[84:].hex()}"))


def number(block: bytes) -> int:
    return int.from_bytes(block[12:16], "little")


class LiteServer(socketserver.ThreadingTCPServer):
    """`frame` may spoil what is sent, before it is encrypted; every 'hello' is kept."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, answer: Answer, key: SigningKey = KEY) -> None:
        super().__init__(("127.0.0.1", 0), Peer)
        self.answer, self.key = answer, key
        self.frame: Callable[[bytes], bytes] = framed
        self.greeting = b""
        self.hellos: list[bytes] = []

    @property
    def entry(self) -> dict[str, Any]:
        """As a global config lists it."""
        public = base64.b64encode(self.key.verify_key.encode()).decode()
        ip = int.from_bytes(socket.inet_aton("127.0.0.1"), signed=True)
        return {"ip": ip, "port": self.server_address[1], "id": {"@type": "pub", "key": public}}

    def handle_error(self, *_: Any) -> None:
        return


class Peer(socketserver.BaseRequestHandler):
    server: LiteServer

    def handle(self) -> None:
        hello = self.take(256)
        self.server.hellos.append(hello)
        params = opened_hello(hello, self.server.key)
        self.sending = ctr(params[0:32], params[64:80])
        self.receiving = ctr(params[32:64], params[80:96])
        self.send(self.server.greeting)
        while True:
            size = int.from_bytes(self.receiving.update(self.take(4)), "little")
            packet = self.receiving.update(self.take(size))
            assert hashlib.sha256(packet[:-32]).digest() == packet[-32:]
            query = packet[32:-32]
            if query[:4] == bytes.fromhex("9a2b084d"):  # tcp.ping
                self.send(bytes.fromhex("03fb69dc") + query[4:])
                continue
            assert query[:4] == bytes.fromhex("7af98bb4")
            inner = unblob(query[36:])
            assert inner[:4] == bytes.fromhex("df068c79")
            answer = self.server.answer(unblob(inner[4:]))
            self.send(bytes.fromhex("1684ac0f") + query[4:36] + tl_blob(answer))

    def send(self, data: bytes) -> None:
        self.request.sendall(self.sending.update(self.server.frame(data)))

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.request.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data


def framed(data: bytes) -> bytes:
    body = os.urandom(32) + data
    return tl_int(len(body) + 32) + body + hashlib.sha256(body).digest()


def opened_hello(hello: bytes, key: SigningKey) -> bytes:
    """The parameters (160 bytes) that a client's first message hides."""
    to, whose, checksum, hidden = hello[:32], hello[32:64], hello[64:96], hello[96:]
    assert to == hashlib.sha256(bytes.fromhex("c6b41348") + key.verify_key.encode()).digest()
    secret = X25519PrivateKey.from_private_bytes(key.to_curve25519_private_key().encode())
    public = X25519PublicKey.from_public_bytes(crypto_sign_ed25519_pk_to_curve25519(whose))
    shared = secret.exchange(public)
    params = ctr(shared[:16] + checksum[16:], checksum[:4] + shared[20:]).update(hidden)
    assert hashlib.sha256(params).digest() == checksum
    return params


def ctr(key: bytes, counter: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def unblob(data: bytes) -> bytes:
    if data[0] == 254:
        return data[4 : 4 + int.from_bytes(data[1:4], "little")]
    return data[1 : 1 + data[0]]


@contextmanager
def serving(answer: Answer, key: SigningKey = KEY) -> Iterator[LiteServer]:
    with LiteServer(answer, key) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def write_config(path: Path, init: BlockId, *servers: LiteServer) -> Path:
    """A TON global config of these servers, which pins `init`."""
    block = {
        "workchain": -1,
        "shard": -(1 << 63),
        "seqno": init.seqno,
        "root_hash": base64.b64encode(init.root_hash).decode(),
        "file_hash": base64.b64encode(init.file_hash).decode(),
    }
    config = {
        "@type": "config.global",
        "liteservers": [server.entry for server in servers],
        "validator": {"@type": "validator.config.global", "init_block": block},
    }
    path.write_text(json.dumps(config))
    return path
