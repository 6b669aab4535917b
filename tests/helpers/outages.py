"""What a client may lose: one of its relays, and the chain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from attestation.errors import Unavailable
from attestation.trust.anchor import BlockRef
from client_sdk.localnet.devnet import Network
from contracts.chain import AccountState, ToncenterV2


class MortalChain:
    """The network's chain until it is `dead`."""

    def __init__(self, chain: ToncenterV2) -> None:
        self.chain, self.dead = chain, False

    def alive(self) -> ToncenterV2:
        if self.dead:
            raise Unavailable("the chain does not answer", again=True)
        return self.chain

    def head(self) -> BlockRef:
        return self.alive().head()

    def block(self, seqno: int) -> BlockRef:
        return self.alive().block(seqno)

    def account(self, address: str) -> AccountState:
        return self.alive().account(address)


@contextmanager
def second_relay(network: Network) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = ("host", "relay", "--listen", "127.0.0.1:0", "--upstream", network.relay)
    with subprocess.Popen(
        [sys.executable, "-m", "client_sdk", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())["listening"], process
        finally:
            process.kill()
