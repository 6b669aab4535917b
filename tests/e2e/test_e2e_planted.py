"""A whole network in which somebody lied: every planted fault is named by `umay audit run`.

A Registry stands before the first machine. One release is revoked, and a second boot with the
keys of the first is logged after that. Then the log's own server is replaced by one that serves
an export of it, with faults that only the log's own key could have made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from attestation.formats.digests import sha256
from attestation.formats.evidence import (
    INIT_DONE,
    Evidence,
    fresh_published,
    gpu_evidence_digest,
    gpu_nonce,
    report_data_binding,
)
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import BOOT, release_leaf
from attestation.log.merkle import Tree
from attestation.log.submission import ArchiveRecord, Submission, SubmissionAnswer
from attestation.log.tiles import decode_bundle, encode_bundle
from attestation.trust.registry import GUEST, MODEL
from attestation.verify.verifier import Presented
from client_sdk.localnet.devnet import FAUCET_NANO, Network
from client_sdk.localnet.drills import ask
from client_sdk.localnet.netfiles import GuestSpec
from client_sdk.presented import fetch_places, fetch_presented
from client_sdk.transport import Transport
from contracts import node, registry
from contracts.deploy import put
from contracts.localnet.process import faucet
from contracts.logservice.store import load_or_create_key
from contracts.reader import read_anchor
from contracts.wallet import Wallet
from tests.helpers.commands import command
from tests.helpers.waiting import HANG_S
from tests.helpers.world import device_of, quoted_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed"),
]
LEAKED_KEY = 3
MANIFEST = bytes(31) + b"\1"


class RegisteredNetwork(Network):
    """Its release and model are in a Registry, in force before the first machine boots."""

    registry = ""

    def _start_log(self) -> None:
        chain = self.chain()
        self.wallet = Wallet.open(chain, self.files.wallet)
        faucet(self.chain_url.removesuffix("/api/v2"), self.wallet.address, FAUCET_NANO)
        genesis = registry.genesis(owner=self.wallet.address, notice=0)
        self.registry, _ = put(chain, self.wallet, "registry", genesis)
        measured, model = bytes.fromhex(self._measurement()), bytes.fromhex(self._model())
        self.tell(registry.propose(GUEST, MANIFEST, {measured: 1}))
        self.tell(registry.propose(MODEL, bytes(32), {model: 1}))
        super()._start_log()

    def tell(self, body: Any) -> None:
        self.wallet.transfer(self.registry, 10**9, body)


def audit(network: RegisteredNetwork, *more: str) -> tuple[int, dict[str, Any]]:
    where = ("--policy", str(network.files.policy), "--chain", network.chain_url)
    what = ("--contract", network.contract, "--registry", network.registry)
    done = command("audit", "run", "--json", *what, *where, *more)
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def codes(found: dict[str, Any]) -> set[tuple[str, int | None]]:
    return {(problem["code"], problem["index"]) for problem in found["problems"]}


def boot_again_with_the_keys_of(network: Network, presented: Presented) -> int:
    """A genuine machine in all but its keys, which are another boot's; its index in the log."""
    socket = network.files.socket()
    stolen = KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)
    head = network.chain().head()
    bundle = dataclasses.replace(
        stolen,
        boot_id=bytes(range(16)),
        beacon=(head.seqno, head.root_hash),
        not_before=head.utime,
        not_after=head.utime + 4200,
    )
    evidence = prove(socket, bundle, presented.host_config)
    submission = Submission(
        kind=BOOT,
        evidence=evidence.to_bytes(),
        engine_config=presented.engine_config,
        price_table=presented.price_table,
        host_config=presented.host_config,
        collateral=presented.collateral.to_bytes(),
        release=0,
    )
    answer = requests.post(network.url("log", "/log/submit"), submission.to_bytes(), timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    return SubmissionAnswer.from_bytes(answer.content).index


def prove(socket: Path, bundle: KeyBundle, host_config: bytes) -> Evidence:
    ask(socket, {0: "launch", 1: "thief", 2: 1})
    for event in (host_config, INIT_DONE):
        ask(socket, {0: "tdx.extend", 1: "thief", 2: hashlib.sha384(event).digest()})
    b = bundle_digest(bundle.to_bytes())
    report = ask(socket, {0: "gpu.report", 1: "thief", 2: 0, 3: gpu_nonce(b)})
    devices = (device_of(report),)
    data = report_data_binding(b, gpu_evidence_digest(devices)) + fresh_published(bundle.beacon[1])
    quoted = quoted_of(ask(socket, {0: "tdx.quote", 1: "thief", 2: data}))
    return Evidence(
        platform="tdx",
        bundle=bundle.to_bytes(),
        quote=quoted.quote,
        ccel=quoted.ccel,
        rtmr3_events=quoted.rtmr3_events,
        devices=devices,
    )


def wait_until_anchored(network: Network, size: int) -> None:
    until = time.monotonic() + HANG_S
    while read_anchor(network.chain(), network="", address=network.contract).size < size:
        assert time.monotonic() < until, f"size {size} was not anchored"
        time.sleep(0.3)


class LyingServer(SimpleHTTPRequestHandler):
    """Files under /log."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.removeprefix("/log"))

    def log_message(self, *_: object) -> None:
        return


class Hook(BaseHTTPRequestHandler):
    """Takes JSON and says nothing."""

    received: list[dict[str, Any]]

    @classmethod
    def start(cls) -> tuple[str, list[dict[str, Any]]]:
        cls.received = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), cls)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/secret", cls.received

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


class Planted:
    """The network, its log stopped; `serve` puts an export of it at the log's own address."""

    def __init__(self, network: RegisteredNetwork, export: Path, thief: int) -> None:
        self.network, self.export, self.thief = network, export, thief
        self.honest = audit(network)
        self.size = thief + 1
        self.key = load_or_create_key(network.files.log_key, origin=network.origin)
        self.bundle = export / f"tile/entries/000.p/{self.size}"

    def sign(self, size: int, root: bytes) -> bytes:
        return checkpoints.sign(Checkpoint(self.network.origin, size, root), key=self.key)

    def serve(self, directory: Path) -> ThreadingHTTPServer:
        port = int(self.network.origin.partition("/")[0].rpartition(":")[2])
        handler = partial(LyingServer, directory=str(directory))
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def refused_release(network: RegisteredNetwork) -> int:
    """The log was started without a Registry."""
    done = command(
        "log", "release", str(network.files.release), "--log", network.url("log", "/log")
    )
    return done.exit_code


def retire(network: RegisteredNetwork) -> None:
    """The guest's boot ends, and the log has its word for it."""
    token = str(network.files.directory / "feed.token")
    feed = network.url("feed-ada")
    done = command("host", "retire", "--feed", feed, "--token-file", token)
    assert done.exit_code == 0, done.stderr
    index = json.loads(done.stdout)["entry"]
    where = ("--policy", str(network.files.policy), "--chain", network.chain_url)
    asked = command("client", "verify", "--url", network.relay, *where)
    assert asked.exit_code == 5, asked.stdout + asked.stderr
    wait_until_anchored(network, index + 1)
    assert refused_release(network) == 4
    code, found = audit(network)
    ended = found["entries"][index]
    boots = {entry["boot"] for entry in found["entries"] if entry["kind"] == "boot"}
    assert (code, ended["kind"], ended["verdict"]) == (0, "retirement", "on record")
    assert boots == {ended["boot"]}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    directory, export = tmp_path_factory.mktemp("net"), tmp_path_factory.mktemp("export")
    guests = (GuestSpec("ada", 40, 120),)
    with RegisteredNetwork(directory, guests=guests, threads=1) as network:
        network.start()
        assert audit(network)[0] == 0
        transport = Transport()
        ada = fetch_presented(transport, fetch_places(transport, network.relay)[0], size=2)
        retire(network)
        network.tell(registry.revoke(MANIFEST, LEAKED_KEY))
        thief = boot_again_with_the_keys_of(network, ada)
        wait_until_anchored(network, thief + 1)
        network.supervisor.kill("agent-ada")
        network.supervisor.kill("anchor")
        key = network._log_public_key().hex()
        words = ("log", "export", str(export), "--log", network.url("log", "/log"))
        done = command(*words, "--log-key", key, "--size", str(thief + 1))
        assert done.exit_code == 0, done.stderr
        planted = Planted(network, export, thief)
        network.supervisor.kill("log")
        yield planted


def test_a_revoked_release_and_a_reused_key_are_named(planted: Planted) -> None:
    code, found = planted.honest
    thief = planted.thief
    assert code == 1
    assert codes(found) == {("revoked-release", thief), ("reused-key", thief)}
    assert {f["code"] for f in found["findings"]} >= {"revoked-release"}


def test_a_watch_tells_each_once_and_in_its_feed(planted: Planted, tmp_path: Path) -> None:
    """Over a mirror: the log itself has been stopped."""
    hook, received = Hook.start()
    network = planted.network
    words = ("audit", "watch", "--once", "--json", "--keep", str(tmp_path), "--webhook", hook)
    where = ("--policy", str(network.files.policy), "--chain", network.chain_url)
    what = ("--contract", network.contract, "--registry", network.registry)
    asked = (*words, *where, *what, "--mirror", str(planted.export))
    first, second = (command(*asked) for _ in range(2))
    assert first.exit_code == second.exit_code == 1
    alerts = [json.loads(line) for line in first.stdout.splitlines()]
    told = {(alert["code"], alert["index"]) for alert in alerts}
    assert told >= {("revoked-release", planted.thief), ("reused-key", planted.thief)}
    assert second.stdout == ""
    assert [hooked["alerts"] for hooked in received] == [alerts]
    feed = (tmp_path / "feed.atom").read_text()
    assert feed.count("<entry>") == len(alerts) and "reused-key" in feed


def test_a_mirror_audits_the_same(planted: Planted) -> None:
    code, found = audit(planted.network, "--mirror", str(planted.export))
    honest_code, honest = planted.honest
    assert (code, found["root"]) == (honest_code, honest["root"])
    for same in ("entries", "problems", "findings", "verdict"):
        assert found[same] == honest[same]


def removed_evidence(planted: Planted, at: Path) -> None:
    record = ArchiveRecord.from_bytes((at / f"submission/{planted.thief}").read_bytes())
    (at / f"evidence/sha256/{record.evidence.hex()}").unlink()


def a_leaf_with_other_bytes(planted: Planted, at: Path) -> None:
    path = at / planted.bundle.relative_to(planted.export)
    leaves = list(decode_bundle(path.read_bytes()))
    leaves[0] = release_leaf(b"another release").to_bytes()
    path.write_bytes(encode_bundle(leaves))


def a_split_view(planted: Planted, at: Path) -> None:
    (at / f"checkpoints/{planted.size}").write_bytes(planted.sign(planted.size, sha256(b"other")))


def a_fork_at_the_head(planted: Planted, at: Path) -> None:
    (at / "checkpoint").write_bytes(planted.sign(planted.size + 1, sha256(b"other")))
    longer = at / f"tile/entries/000.p/{planted.size + 1}"
    longer.write_bytes(encode_bundle([*decode_bundle(planted.bundle.read_bytes()), b"x"]))


def an_unanchored_tail(planted: Planted, at: Path) -> None:
    """One more genuine entry, two hours after the last anchor."""
    leaves, tree = decode_bundle(planted.bundle.read_bytes()), Tree()
    longer = [*leaves, release_leaf(b"late").to_bytes()]
    for leaf in longer:
        tree.append(leaf)
    (at / f"tile/entries/000.p/{len(longer)}").write_bytes(encode_bundle(longer))
    (at / "checkpoint").write_bytes(planted.sign(len(longer), tree.root()))


FAULTS: dict[str, tuple[Callable[[Planted, Path], None], str]] = {
    "removed evidence": (removed_evidence, "missing-evidence"),
    "a leaf with other bytes": (a_leaf_with_other_bytes, "other-leaf"),
    "a split view": (a_split_view, "log"),
    "a fork at the head": (a_fork_at_the_head, "log"),
    "an unanchored tail": (an_unanchored_tail, "unanchored-tail"),
}


@pytest.fixture(scope="module")
def later(planted: Planted) -> None:
    chain = planted.network.chain_url.removesuffix("/api/v2")
    requests.post(f"{chain}/local/time", json={"advance": 7200}, timeout=HANG_S).raise_for_status()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(("plant", "code"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_named(
    planted: Planted, tmp_path: Path, plant: Callable[[Planted, Path], None], code: str
) -> None:
    at = shutil.copytree(planted.export, tmp_path / "lies")
    plant(planted, at)
    server = planted.serve(at)
    try:
        status, found = audit(planted.network)
    finally:
        server.shutdown()
        server.server_close()
    named = {name for name, _ in codes(found)}
    assert status == 1 and code in named, found["problems"]


@pytest.mark.usefixtures("later")
def test_all_of_them_at_once_are_named_each(planted: Planted, tmp_path: Path) -> None:
    at = shutil.copytree(planted.export, tmp_path / "lies")
    an_unanchored_tail(planted, at)
    for plant in (removed_evidence, a_leaf_with_other_bytes, a_split_view):
        plant(planted, at)
    server = planted.serve(at)
    try:
        status, found = audit(planted.network)
    finally:
        server.shutdown()
        server.server_close()
    thief = planted.thief
    expected = {("missing-evidence", thief), ("other-leaf", 0), ("log", None)}
    assert status == 1 and codes(found) >= expected | {("unanchored-tail", None)}
