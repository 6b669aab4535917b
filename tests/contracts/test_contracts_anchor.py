"""The anchor loop between a log over HTTP and the contract on the embedded chain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from attestation.errors import LogError, NotAuthentic, ParseError, Unavailable, UsageError
from attestation.log import checkpoint
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import Tree
from client_sdk.cli import umay
from contracts import node
from contracts.codec import ForkMessage, LogState, note_body
from contracts.deploy import deploy
from contracts.localnet.process import LocalChain
from contracts.logservice.anchor import AnchorLoop
from contracts.reader import read_anchor
from contracts.wallet import Wallet
from tests.helpers.waiting import HANG_S

pytestmark = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "127.0.0.1/anchored"


@dataclass
class FakeLog:
    """What the loop asks of a log; a test spoils what it likes."""

    tree: Tree = field(default_factory=Tree)
    key: Ed25519PrivateKey = KEY
    spoil: dict[str, bytes] = field(default_factory=dict)
    status: int = 200

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.tree.append(f"leaf {len(self.tree)}".encode())

    def answer(self, target: str) -> bytes:
        parts = urlsplit(target)
        name = parts.path.strip("/")
        if name in self.spoil:
            return self.spoil[name]
        if name == "checkpoint":
            head = Checkpoint(ORIGIN, len(self.tree), self.tree.root())
            return checkpoint.sign(head, key=self.key)
        query = {key: int(value[0]) for key, value in parse_qs(parts.query).items()}
        hashes = self.tree.consistency(query["from"], query["to"])
        return json.dumps({**query, "hashes": [item.hex() for item in hashes]}).encode()


@pytest.fixture
def log() -> Iterator[tuple[FakeLog, str]]:
    fake = FakeLog()
    fake.grow(3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = fake.answer(self.path)
            self.send_response(fake.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield fake, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalChain]:
    with LocalChain.start(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


@pytest.fixture
def loop(local: LocalChain, log: tuple[FakeLog, str]) -> AnchorLoop:
    fake, url = log
    chain = local.client()
    wallet = Wallet(chain, SigningKey.generate())
    local.faucet(wallet.address, 10**12)
    genesis = LogState.genesis(
        origin=ORIGIN,
        log_key=KEY.public_key().public_bytes_raw(),
        size=len(fake.tree),
        root=fake.tree.root(),
    )
    # each test its own contract: the genesis must differ
    fake.grow(1)
    nonce = SigningKey.generate().encode().hex()
    fake.tree.append(nonce.encode())
    genesis = LogState.genesis(
        origin=ORIGIN,
        log_key=genesis.log_key,
        size=len(fake.tree),
        root=fake.tree.root(),
    )
    return AnchorLoop(url, chain, wallet, deploy(chain, wallet, genesis).address, interval=0.1)


def test_new_leaves_are_anchored_and_read_back(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    assert loop.step() is None
    for count in (1, 5, 40):
        fake.grow(count)
        anchored = loop.step()
        assert anchored is not None
        assert (anchored.size, anchored.root) == (len(fake.tree), fake.tree.root())
    assert loop.step() is None


def test_a_log_is_put_on_chain_by_command(
    local: LocalChain, log: tuple[FakeLog, str], tmp_path: Path
) -> None:
    fake, url = log
    wallet = Wallet.open(local.client(), tmp_path / "wallet")
    local.faucet(wallet.address, 10**12)
    given = ["net", "deploy", "--chain", local.url, "--wallet", str(tmp_path / "wallet")]
    given += ["--log", url, "--log-key"]
    made = CliRunner().invoke(umay, [*given, KEY.public_key().public_bytes_raw().hex()])
    address = json.loads(made.output)["address"]
    assert read_anchor(local.client(), network="", address=address).root == fake.tree.root()
    assert isinstance(CliRunner().invoke(umay, [*given, "ab"]).exception, UsageError)


def test_the_loop_survives_a_log_that_is_away(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    fake.status = 503
    with pytest.raises(Unavailable):
        loop.step()
    stop, done = threading.Event(), threading.Event()
    loop.on_anchor = lambda anchor: done.set()
    fake.grow(2)
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    fake.status = 200
    assert done.wait(HANG_S)
    stop.set()
    thread.join(HANG_S)
    assert not thread.is_alive()


def test_what_is_not_cosigned_yet_is_not_anchored(
    loop: AnchorLoop, log: tuple[FakeLog, str]
) -> None:
    fake, _ = log
    loop.cosigned = True
    fake.grow(1)
    behind, size = fake.tree, len(fake.tree)
    fake.spoil["cosigned"] = signed(behind, size - 1)
    assert loop.step() is None  # what the contract has already
    fake.grow(2)
    fake.spoil["cosigned"] = signed(behind, size)
    anchored = loop.step()
    assert anchored is not None and anchored.size == size
    fake.spoil["cosigned"] = signed(behind, size - 1)
    assert loop.step() is None  # witnesses that fell behind are no fork
    fake.status = 404
    assert loop.step() is None


def signed(tree: Tree, size: int) -> bytes:
    return checkpoint.sign(Checkpoint(ORIGIN, size, tree.root(size)), key=KEY)


def test_a_log_that_shrank_is_an_error(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    fake.tree = Tree()
    fake.grow(2)
    with pytest.raises(LogError, match="at least"):
        loop.step()


def test_a_log_that_forked_is_an_error(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    size, fake.tree = len(fake.tree), Tree()
    fake.grow(size)
    with pytest.raises(LogError, match="expected the anchored root"):
        loop.step()
    fake.grow(4)
    with pytest.raises(LogError):
        loop.step()


def test_another_key_is_not_sent(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    fake.grow(1)
    fake.key = Ed25519PrivateKey.generate()
    with pytest.raises(NotAuthentic):
        loop.step()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"hashes": ["zz"]}', b'{"hashes": ["00"]}', b'{"hashes": 3}'],
)
def test_a_malformed_proof_is_refused(
    loop: AnchorLoop, log: tuple[FakeLog, str], body: bytes
) -> None:
    fake, _ = log
    fake.grow(1)
    fake.spoil["consistency"] = body
    with pytest.raises(ParseError):
        loop.step()


def test_an_endless_answer_is_refused(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    fake.spoil["checkpoint"] = b"x" * 100_000
    with pytest.raises(Unavailable, match="at most"):
        loop.step()


def test_nothing_is_sent_to_a_forked_contract(loop: AnchorLoop, log: tuple[FakeLog, str]) -> None:
    fake, _ = log
    size, root = len(fake.tree), bytes(32)
    signature, signer = KEY.sign(note_body(ORIGIN, size, root)), KEY.public_key().public_bytes_raw()
    report = ForkMessage(size, root, signature, signer)
    loop.wallet.transfer(loop.address, loop.value, report.to_cell())
    assert read_anchor(loop.chain, network="n", address=loop.address).forked
    fake.grow(1)
    with pytest.raises(LogError, match="forked"):
        loop.step()
