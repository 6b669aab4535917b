"""The few questions of a light client, and the lite servers that answer them.

Servers are asked in the given order; after a failure the next one is asked. None is trusted.
Source: TON tl/generate/scheme/lite_api.tl.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from contracts.light.accounts import parse_address
from contracts.light.adnl import Connection, Server
from contracts.light.blocks import MASTERCHAIN, WHOLE_SHARD, BlockId
from contracts.light.tl import TlReader, tl_bytes, tl_id

LITE_QUERY, LITE_ERROR = 0x798C06DF, 0xBBA9E148
GET_MASTERCHAIN_INFO, MASTERCHAIN_INFO = 0x89B5E62E, 0x85832881
GET_BLOCK_PROOF, GET_ACCOUNT_STATE, LOOKUP_BLOCK = 0x8AEA9C44, 0x6B890E25, 0xFAC8F71E
WITH_TARGET = BY_SEQNO = 1
SECONDS = 10.0
MAX_CONFIG = 1 << 20  # bytes

Ask = Callable[[bytes], bytes]
"""Takes a question in the lite server's schema and returns the answer. Raises Unavailable."""


@dataclass(frozen=True)
class NetworkConfig:
    """Parts of a TON global config file: its lite servers, and the key block that it pins."""

    servers: tuple[Server, ...]
    init_block: BlockId

    @classmethod
    def read(cls, path: Path) -> NetworkConfig:
        """Raises UsageError, which names the file, for any other content."""
        try:
            with path.open("rb") as file:
                raw = json.loads(file.read(MAX_CONFIG))
            servers = tuple(_server(entry) for entry in raw["liteservers"])
            found = cls(servers, _block(raw["validator"]["init_block"]))
        except OSError as error:
            raise UsageError(f"{path}: the file cannot be read: {error.strerror}") from None
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = (
                f"{path}: expected a TON global config (JSON with liteservers and "
                f"validator.init_block), got another content ({type(error).__name__}: {error})"
            )
            raise UsageError(text) from None
        if not servers:
            raise UsageError(f"{path}: liteservers: expected at least one lite server, got none")
        return found


class LiteTransport:
    """A Transport (contracts.light.client) on top of any function that answers questions."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def masterchain_head(self) -> BlockId:
        """The last block of liteServer.getMasterchainInfo."""
        data = TlReader(self.ask(tl_id(GET_MASTERCHAIN_INFO)), "masterchain info")
        data.expect(MASTERCHAIN_INFO)
        last = BlockId.read(data)
        data.take(32 + 4 + 32 + 32)  # state hash of that block; workchain and hashes of block 0
        data.end()
        return last

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        """liteServer.getBlockProof: a liteServer.partialBlockProof."""
        mode = WITH_TARGET.to_bytes(4, "little")
        return self.ask(tl_id(GET_BLOCK_PROOF) + mode + known.to_bytes() + target.to_bytes())

    def header(self, seqno: int) -> bytes:
        """liteServer.lookupBlock in the masterchain: a liteServer.blockHeader."""
        place = MASTERCHAIN.to_bytes(4, "little", signed=True) + WHOLE_SHARD.to_bytes(8, "little")
        mode = BY_SEQNO.to_bytes(4, "little")
        return self.ask(tl_id(LOOKUP_BLOCK) + mode + place + seqno.to_bytes(4, "little"))

    def account(self, block: BlockId, address: str) -> bytes:
        """liteServer.getAccountState: a liteServer.accountState. `address` is workchain:hex."""
        workchain, account = parse_address(address)
        place = workchain.to_bytes(4, "little", signed=True)
        return self.ask(tl_id(GET_ACCOUNT_STATE) + block.to_bytes() + place + account)


class LiteServers:
    """Asks servers over ADNL. Safe to share between threads."""

    def __init__(self, servers: tuple[Server, ...], *, seconds: float = SECONDS) -> None:
        self._servers, self._seconds = list(servers), seconds
        self._open: Connection | None = None
        self._lock = threading.Lock()

    def ask(self, question: bytes) -> bytes:
        """The answer of the first server that has one. Raises Unavailable with every reason."""
        wrapped = tl_id(LITE_QUERY) + tl_bytes(question)
        reasons = []
        with self._lock:
            for _ in range(len(self._servers) + (self._open is not None)):
                try:
                    return self._once(wrapped)
                except (Unavailable, ParseError) as error:
                    reasons.append(str(error))
        raise Unavailable(f"expected an answer from a lite server, got none: {'; '.join(reasons)}")

    @property
    def count(self) -> int:
        return len(self._servers)

    def turn(self) -> None:
        """Ask the next server from now on, because this one's answers are not valid."""
        with self._lock:
            self._behind()

    def _once(self, question: bytes) -> bytes:
        """Ask the first server of the list. A server that fails moves to the end of the list."""
        fresh = self._open is None
        try:
            if self._open is None:
                self._open = Connection(self._servers[0], seconds=self._seconds)
            return _opened(self._open.ask(question), self._servers[0])
        except (Unavailable, ParseError):
            if fresh:
                self._behind()
            self._close()
            raise

    def _behind(self) -> None:
        self._close()
        self._servers.append(self._servers.pop(0))

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _opened(answer: bytes, server: Server) -> bytes:
    if answer[:4] != tl_id(LITE_ERROR):
        return answer
    data = TlReader(answer[4:], f"{server}")
    code, message = data.int32(), data.blob()[:200]
    raise Unavailable(
        f"lite server {server}: it answered with error {code}: {message.decode(errors='replace')!r}"
    )


def _server(entry: dict[str, object]) -> Server:
    ip, port, identity = entry["ip"], entry["port"], entry["id"]
    if not isinstance(identity, dict) or type(ip) is not int or type(port) is not int:
        raise TypeError
    key = base64.b64decode(identity["key"], validate=True)
    if len(key) != 32 or not 0 < port < 1 << 16:
        raise ValueError
    return Server(str(ipaddress.IPv4Address(ip % (1 << 32))), port, key)  # a signed int32


def _block(entry: dict[str, object]) -> BlockId:
    hashes = [base64.b64decode(str(entry[name]), validate=True) for name in _HASHES]
    place, seqno = (entry["workchain"], entry["shard"]), entry["seqno"]
    if place != (MASTERCHAIN, -WHOLE_SHARD) or type(seqno) is not int or seqno < 0:
        raise ValueError
    if any(len(one) != 32 for one in hashes):
        raise ValueError
    return BlockId(MASTERCHAIN, WHOLE_SHARD, seqno, *hashes)


_HASHES = ("root_hash", "file_hash")
