"""Log and anchor loop killed at random under load: nothing acknowledged is lost or rewritten.

Three kills in `make test`; `UMAY_KILLS=200` for the whole trial. After each the log is audited
from outside, over HTTP and by the contract.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from attestation.log import checkpoint
from attestation.log.merkle import Tree
from attestation.log.tiles import decode_bundle, index_path
from contracts import node
from contracts.codec import LogState
from contracts.deploy import deploy
from contracts.localnet.process import LocalChain
from contracts.reader import read_anchor
from contracts.wallet import Wallet, create_key
from tests.helpers import crash_log
from tests.helpers.places import ROOT
from tests.helpers.postgres import Cluster, needs_postgres
from tests.helpers.waiting import HANG_S, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed"),
]
KILLS = int(os.environ.get("UMAY_KILLS", "3"))
LOG_KEY = crash_log.KEY.public_key().public_bytes_raw()


class Child:
    """A process that is killed and started again; what it printed is kept."""

    def __init__(self, *arguments: str) -> None:
        self.arguments, self.lines = arguments, list[str]()
        self.start()

    def start(self) -> None:
        command = [sys.executable, *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.reader = threading.Thread(target=self.read, args=(self.process,), daemon=True)
        self.reader.start()

    def read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines += process.stdout

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.reader.join()  # what it acknowledged before it died counts


class Network:
    """A chain, a log under load, its contract and the loop that anchors it.

    With a `cluster` two processes write the log, and the database server is killed too.
    """

    def __init__(self, directory: Path, local: LocalChain, cluster: Cluster | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        self.origin, self.url = crash_log.origin(port), f"http://127.0.0.1:{port}/log"
        self.cluster = cluster
        where = cluster.create("log") if cluster else str(directory / "log")
        self.log = Child("-m", "tests.helpers.crash_log", where, self.origin, port)
        self.writers = [self.log]
        if cluster:
            self.wait_for_checkpoint()
            self.writers.append(Child("-m", "tests.helpers.crash_log", where, self.origin, "0"))
        self.chain = local.client()
        wallet = Wallet(self.chain, create_key(directory / "wallet"))
        local.faucet(wallet.address, 10**15)
        note = self.wait_for_checkpoint()
        head = checkpoint.verify(note, origin=self.origin, log_key=LOG_KEY)
        genesis = LogState.genesis(
            origin=self.origin, log_key=LOG_KEY, size=head.size, root=head.root
        )
        self.contract = deploy(self.chain, wallet, genesis).address
        self.loop = Child(
            *("-m", "client_sdk", "log", "anchor", "--log", self.url, "--chain", local.url),
            *("--contract", self.contract, "--wallet", str(directory / "wallet")),
            *("--interval", "0.2"),
        )

    def wait_for_checkpoint(self) -> bytes:
        until = time.monotonic() + HANG_S
        while time.monotonic() < until:
            try:
                answer = requests.get(f"{self.url}/checkpoint", timeout=HANG_S)
                if answer.status_code == 200 and answer.content:
                    return answer.content
            except requests.RequestException:
                pass
            time.sleep(0.05)
        raise TimeoutError("the log did not come back")

    def audit(self, tree: Tree) -> None:
        """Every leaf again, against checkpoint, contract and all that was acknowledged.

        What must be contained is read first: the log grows on meanwhile.
        """
        acknowledged = [[int(line) for line in writer.lines] for writer in self.writers]
        anchor = read_anchor(self.chain, network="", address=self.contract)
        head = checkpoint.verify(self.wait_for_checkpoint(), origin=self.origin, log_key=LOG_KEY)
        for number in range(len(tree) // 256, -(-head.size // 256)):
            for leaf in self.bundle(number, head.size)[max(0, len(tree) - number * 256) :]:
                assert leaf == crash_log.leaf(len(tree))
                tree.append(leaf)
        assert len(tree) >= head.size and tree.root(head.size) == head.root
        for sizes in acknowledged:
            assert sizes == sorted(set(sizes))
            assert head.size >= max(sizes, default=0)
        assert not anchor.forked and anchor.size <= head.size
        assert tree.root(anchor.size) == anchor.root

    def bundle(self, number: int, size: int) -> tuple[bytes, ...]:
        width = min(256, size - number * 256)
        partial = f".p/{width}" if width < 256 else ""
        url = f"{self.url}/tile/entries/{index_path(number)}{partial}"
        answer = requests.get(url, timeout=HANG_S)
        assert answer.status_code == 200, url
        return tuple(decode_bundle(answer.content))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    if request.param == "sqlite":
        yield None
        return
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


def test_random_kills(tmp_path: Path, cluster: Cluster | None) -> None:
    rng, tree = random.Random(os.environ.get("UMAY_SEED", "1")), Tree()
    with LocalChain.start(tmp_path / "chain") as local:
        network = Network(tmp_path, local, cluster)
        mortal = [*network.writers, network.loop, *([cluster] if cluster else [])]
        try:
            for _ in range(KILLS):
                time.sleep(rng.uniform(0.0, 1.5))
                victims = [one for one in mortal if rng.random() < 0.5] or [rng.choice(mortal)]
                for victim in victims:
                    victim.kill()
                for victim in reversed(victims):  # the server first, then its writers
                    victim.start()
                network.audit(tree)
            anchored_at_last(network)
            wait_for(lambda: all(writer.lines for writer in network.writers))
        finally:
            for child in (*network.writers, network.loop):
                child.kill()


def anchored_at_last(network: Network) -> None:
    """The loop lives: it anchors on after all of it."""
    before = read_anchor(network.chain, network="", address=network.contract).size
    until = time.monotonic() + HANG_S
    while read_anchor(network.chain, network="", address=network.contract).size <= before:
        assert time.monotonic() < until, "nothing was anchored after the kills"
        time.sleep(0.2)
