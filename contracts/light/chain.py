"""The chain for commands: every answer is proven from a block that the reader trusts.

`lite:CONFIG.json` names a TON global config: the lite servers to ask, and the key block from
which the first proofs start. The newest proven key block is kept in CONFIG.json.trusted.
`?save=FILE` also writes the answers to FILE; `?from=FILE` reads them from FILE and asks no server.
With both, proofs start from the key block of the config.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from attestation.errors import ParseError, Unavailable, UsageError, VerificationError
from attestation.trust.anchor import BlockRef
from contracts.chain import AccountState, raw_address
from contracts.light.accounts import ProvenAccount, check_age
from contracts.light.client import LightClient, MemoryStore, TrustedBlock
from contracts.light.liteserver import Ask, LiteServers, LiteTransport, NetworkConfig
from contracts.light.recording import Recording, Replay

SCHEME = "lite:"
MAX_KEPT = 65536  # blocks

Clock = Callable[[], int]
T = TypeVar("T")


class ProvenChain:
    """A ReadOnlyChain at the level `proven`; `clock` returns Unix seconds.

    An answer that proves nothing says nothing about the chain: the next of `servers` is asked. If
    no answer is proven, Unavailable is raised, which is not a verdict about anybody.
    """

    def __init__(
        self, client: LightClient, *, clock: Clock, servers: LiteServers | None = None
    ) -> None:
        self._client, self._clock, self._servers = client, clock, servers
        self._blocks: dict[int, BlockRef] = {}

    def head(self) -> BlockRef:
        return self._proven(self._head)

    def block(self, seqno: int) -> BlockRef:
        if seqno not in self._blocks:
            if len(self._blocks) >= MAX_KEPT:
                self._blocks.clear()
            self._blocks[seqno] = self._proven(lambda: self._client.block(seqno))
        return self._blocks[seqno]

    def account(self, address: str) -> AccountState:
        return self.accounts((address,))[0]

    def accounts(self, addresses: tuple[str, ...]) -> tuple[AccountState, ...]:
        """All of them at one block."""
        raw = tuple(raw_address(address) for address in addresses)
        return self._proven(lambda: self._accounts(raw))

    def _proven(self, read: Callable[[], T]) -> T:
        for _ in range(self._servers.count if self._servers else 1):
            try:
                return read()
            except (ParseError, VerificationError) as error:
                reason = str(error)
            if self._servers is not None:
                self._servers.turn()
        raise Unavailable(
            f"expected a proven answer from a lite server, got none; the last: {reason}"
        )

    def _head(self) -> BlockRef:
        head = self._client.block(self._client.head().seqno)
        check_age(head.utime, self._client.max_age_s, self._clock())
        return head

    def _accounts(self, addresses: tuple[str, ...]) -> tuple[AccountState, ...]:
        return tuple(map(_state, self._client.accounts(addresses, now=self._clock())))


def _state(found: ProvenAccount) -> AccountState:
    return AccountState(
        address=found.address,
        code=found.code,
        data=found.data,
        balance=found.balance,
        state="uninitialized" if found.state == "absent" else found.state,
        read_at=found.read_at,
        seqno=found.seqno,
        level="proven",
    )


def open_lite(text: str) -> ProvenChain:
    """The chain that `lite:…` names. Raises UsageError, and ParseError for a damaged recording."""
    name, _, more = text.removeprefix(SCHEME).partition("?")
    how, _, file = more.partition("=")
    if not name or (more and (how not in ("save", "from") or not file)):
        raise UsageError(
            "chain: expected lite:CONFIG.json, optionally followed by ?save=FILE or ?from=FILE, "
            "got "
            f"{text!r}"
        )
    config = NetworkConfig.read(Path(name))
    if more:
        return _from_init_block(config, how, Path(file))
    kept = TrustedBlock(Path(f"{name}.trusted"))
    if not kept.path.exists():
        kept.pin(config.init_block)
    servers = LiteServers(config.servers)
    return ProvenChain(LightClient(LiteTransport(servers.ask), kept), clock=_now, servers=servers)


def _from_init_block(config: NetworkConfig, how: str, file: Path) -> ProvenChain:
    ask: Ask
    if how == "save":
        ask, clock = Recording(LiteServers(config.servers).ask, file, now=_now()).ask, _now
    else:
        replay = Replay(file)
        ask, clock = replay.ask, lambda: replay.begun
    client = LightClient(LiteTransport(ask), MemoryStore(config.init_block))
    return ProvenChain(client, clock=clock)


def _now() -> int:
    return int(time.time())
