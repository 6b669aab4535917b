"""The audit against a log that lies, one lie at a time: tree, history, anchor, bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.testclient import TestClient

from attestation.errors import Unavailable
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.leaf import release_leaf
from attestation.log.submission import release_key
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import Policy
from client_sdk.auditing.auditor import Auditor
from client_sdk.auditing.results import Audit
from contracts import artefact
from contracts.chain import AccountState
from contracts.codec import LogState
from contracts.logservice.database import Sqlite
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store
from tests.attestation.test_policy import GOOD

ORIGIN = "127.0.0.1:9/log"
CONTRACT = "0:" + "ab" * 32
MANIFESTS = [f"release {number}".encode() for number in range(5)]


class Ground:
    """A log of five releases, three of them anchored; `lies` replaces answers by path."""

    def __init__(self, directory: Path) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.store = Store(Sqlite(directory), origin=ORIGIN, key=self.key)
        entries = [Entry(release_key(m), release_leaf(m).to_bytes(), blobs=(m,)) for m in MANIFESTS]
        self.store.append(entries[:3])
        self.store.append(entries[3:])
        self.http = TestClient(create_app(self.store, admit=_nobody))
        public = self.key.public_key().public_bytes_raw()
        genesis = LogState.genesis(origin=ORIGIN, log_key=public, size=3, root=self.store.root(3))
        self.state = dataclasses.replace(genesis, time=1_795_000_000)
        self.lies: dict[str, Callable[[bytes], bytes]] = {}
        self.policy = dataclasses.replace(
            Policy.from_toml(GOOD.encode()),
            log_contract=CONTRACT,
            log_code_hash=artefact.load("attestation_log").code_hash,
            log_origin=ORIGIN,
            log_key=public,
        )

    def get(self, url: str, *, limit: int = 0) -> bytes:
        """The transport."""
        path = url.removeprefix("http://127.0.0.1:9/log/")
        answer = self.http.get(f"/log/{path}")
        if answer.status_code != 200:
            raise Unavailable(f"HTTP {answer.status_code}")
        return self.lies.get(path.partition("?")[0], bytes)(answer.content)

    def account(self, address: str) -> AccountState:
        """The chain."""
        code = artefact.load("attestation_log").code_boc
        data = self.state.to_cell().to_boc()
        return AccountState(address, code, data, 1, "active", 1_795_000_100, 7)

    def block(self, seqno: int) -> BlockRef:
        raise Unavailable("no block")

    def audit(self) -> Audit:
        return Auditor(policy=self.policy, chain=self, transport=self).run(CONTRACT)

    def sign(self, size: int, root: bytes) -> bytes:
        return checkpoints.sign(Checkpoint(ORIGIN, size, root), key=self.key)


def _nobody(submission: object) -> None:
    raise Unavailable("this log admits nothing")


@pytest.fixture
def ground(tmp_path: Path):
    ground = Ground(tmp_path)
    yield ground
    ground.store.close()


def test_an_honest_log_has_no_problems(ground: Ground) -> None:
    audit = ground.audit()
    assert audit.ok and audit.exit_code == 0, audit.problems
    assert audit.size == 3 and len(audit.entries) == 3
    assert {entry.verdict for entry in audit.entries} == {"on record"}
    assert audit.to_json()["ok"] and audit.log_url == "http://127.0.0.1:9/log"


def forked(ground: Ground) -> None:
    ground.state = dataclasses.replace(ground.state, forked=True)


def another_root_anchored(ground: Ground) -> None:
    ground.state = dataclasses.replace(ground.state, root=b"\x01" * 32)


def another_contract_than_the_policys(ground: Ground) -> None:
    ground.policy = dataclasses.replace(ground.policy, log_contract="0:" + "cd" * 32)


def another_key_than_the_policys(ground: Ground) -> None:
    ground.policy = dataclasses.replace(ground.policy, log_key=b"\x05" * 32)


def checkpoint_of_another_tree(ground: Ground) -> None:
    ground.lies["checkpoint/3"] = lambda _: ground.sign(3, b"\x02" * 32)


def checkpoint_by_another_key(ground: Ground) -> None:
    stranger = Ed25519PrivateKey.generate()
    head = Checkpoint(ORIGIN, 3, ground.state.root)
    ground.lies["checkpoint/3"] = lambda _: checkpoints.sign(head, key=stranger)


def newest_checkpoint_does_not_continue(ground: Ground) -> None:
    ground.lies["checkpoint"] = lambda _: ground.sign(5, b"\x03" * 32)


def log_shrank(ground: Ground) -> None:
    ground.lies["checkpoint"] = lambda _: ground.sign(2, ground.store.root(2))


def an_entry_was_changed(ground: Ground) -> None:
    ground.lies["tile/entries/000.p/3"] = lambda data: data[:-1] + bytes([data[-1] ^ 1])


def an_entry_is_missing(ground: Ground) -> None:
    ground.lies["tile/entries/000.p/3"] = lambda data: data[: len(data) // 3]


def a_tile_is_no_tile(ground: Ground) -> None:
    ground.lies["tile/entries/000.p/3"] = lambda data: b"\xff\xff" + data


LIES = {
    "forked": (forked, "forked"),
    "another root anchored": (another_root_anchored, "tree"),
    "another contract": (another_contract_than_the_policys, "other-contract"),
    "another log key": (another_key_than_the_policys, "other-log-key"),
    "checkpoint of another tree": (checkpoint_of_another_tree, "log"),
    "checkpoint by another key": (checkpoint_by_another_key, "log"),
    "newest does not continue": (newest_checkpoint_does_not_continue, "log"),
    "log shrank": (log_shrank, "log"),
    "an entry was changed": (an_entry_was_changed, "other-leaf"),
    "an entry is missing": (an_entry_is_missing, "tree"),
    "a tile is no tile": (a_tile_is_no_tile, "tree"),
}


@pytest.mark.parametrize(("lie", "code"), LIES.values(), ids=LIES)
def test_a_lie_is_a_violation(ground: Ground, lie: Callable[[Ground], None], code: str) -> None:
    lie(ground)
    audit = ground.audit()
    assert audit.exit_code == 1 and not audit.ok
    assert code in {p.code for p in audit.problems if p.severity == "violation"}, audit.problems


def test_a_manifest_with_other_bytes_is_a_violation(ground: Ground) -> None:
    from attestation.formats.digests import sha256

    ground.lies[f"evidence/sha256/{sha256(MANIFESTS[0]).hex()}"] = lambda data: data + b"?"
    audit = ground.audit()
    assert audit.exit_code == 1 and audit.problems[0].index == 0


@pytest.mark.parametrize("path", ["checkpoint/3", "checkpoint", "tile/entries/000.p/3"])
def test_what_does_not_answer_makes_the_audit_incomplete(ground: Ground, path: str) -> None:
    def silent(_: bytes) -> bytes:
        raise Unavailable("silence")

    ground.lies[path] = silent
    audit = ground.audit()
    assert audit.exit_code == 6 and "incomplete" in audit.verdict
