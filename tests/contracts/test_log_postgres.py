"""The log in PostgreSQL: many writers, one tree, whoever is killed and when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import LogError, NotAuthentic, Unavailable, UsageError
from attestation.log import checkpoint, tiles
from attestation.log.merkle import Tree
from attestation.log.proof import verify_proof
from contracts.logservice import postgres
from contracts.logservice.database import SCHEMA_VERSION
from contracts.logservice.postgres import Postgres
from contracts.logservice.store import Entry, Store
from tests.helpers.log_retention import forgets_passing_blobs
from tests.helpers.places import ROOT
from tests.helpers.postgres import Cluster, needs_postgres
from tests.helpers.waiting import HANG_S

pytestmark = [needs_postgres, pytest.mark.e2e]
KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ORIGIN = "localhost/log"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def where(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    return cluster.create("d" + sha256(request.node.name.encode()).hexdigest()[:20])


def open_store(where: str, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> Store:
    return Store(Postgres(where), origin=origin, key=key)


def entries(start: int, end: int, salt: bytes = b"") -> list[Entry]:
    return [Entry(sha256(salt + b"%d" % n).digest(), b"leaf %d" % n) for n in range(start, end)]


def tree_of(store: Store) -> Tree:
    """Rebuilt from the entry bundles alone."""
    tree, size = Tree(), store.size
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        for leaf in tiles.decode_bundle(store.tile(tiles.TilePath(None, number, width)) or b""):
            tree.append(leaf)
    return tree


def test_it_is_the_rfcs_tree_at_every_size(where: str) -> None:
    seeded, sizes, tree = random.Random(3), [0], Tree()
    with open_store(where) as store:
        while store.size < 900:
            size = store.size + seeded.choice([1, 1, 2, 30, 256, 300])
            store.append(entries(sizes[-1], size))
            for number in range(sizes[-1], size):
                tree.append(b"leaf %d" % number)
            sizes.append(size)
            head = checkpoint.verify(store.checkpoint, origin=ORIGIN, log_key=PUBLIC)
            assert (head.size, head.root) == (size, tree.root(size))
    with open_store(where) as store:
        for _ in range(50):
            new = seeded.choice(sizes[1:])
            old, index = seeded.choice([s for s in sizes if s <= new]), seeded.randrange(new)
            assert store.consistency(old, new) == tree.consistency(old, new)
            leaf, _ = verify_proof(store.proof(index, new), origin=ORIGIN, log_key=PUBLIC)
            assert leaf == b"leaf %d" % index
        assert tree_of(store).root() == tree.root()


def test_two_writers_continue_each_other(where: str) -> None:
    with open_store(where) as one, open_store(where) as two:
        assert one.append(entries(0, 300)) == list(range(300))
        assert two.size == 300 and two.checkpoint == one.checkpoint
        assert two.append(entries(250, 310)) == list(range(250, 310))
        assert one.append(entries(310, 311)) == [310]
        assert one.root(311) == two.root(311) == tree_of(one).root()
        assert one.inclusion(305, 311) == two.inclusion(305, 311)


def test_many_threads_of_two_writers_make_one_tree(where: str) -> None:
    with open_store(where) as one, open_store(where) as two:
        found: dict[bytes, set[int]] = {}
        guard = threading.Lock()

        def write(store: Store, seed: int) -> None:
            seeded = random.Random(seed)
            for _ in range(25):
                at = seeded.randrange(300)
                batch = entries(at, at + 7)
                for entry, index in zip(batch, store.append(batch), strict=True):
                    with guard:
                        found.setdefault(entry.key, set()).add(index)

        threads = [threading.Thread(target=write, args=([one, two][n % 2], n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(len(indexes) == 1 for indexes in found.values())
        assert sorted(n for indexes in found.values() for n in indexes) == list(range(one.size))
        assert tree_of(two).root() == one.root(one.size)


CHILD = """
import sys
from hashlib import sha256
from contracts.logservice.postgres import Postgres
from tests.contracts.test_log_postgres import KEY, ORIGIN
from contracts.logservice.store import Entry, Store
store = Store(Postgres(sys.argv[1]), origin=ORIGIN, key=KEY)
name, n = sys.argv[2].encode(), 0
while True:
    batch = [Entry(sha256(name + b"%d" % m).digest(), name + b" %d" % m) for m in range(n, n + 37)]
    n += 37
    print(*store.append(batch), flush=True)
"""


class Writer:
    def __init__(self, where: str, name: str) -> None:
        command = [sys.executable, "-c", CHILD, where, name]
        root = ROOT
        self.name, self.acknowledged = name.encode(), list[int]()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, text=True
        )

    def read(self, lines: int) -> None:
        assert self.process.stdout is not None
        for _ in range(lines):
            self.take(self.process.stdout.readline())

    def take(self, line: str) -> None:
        if line.endswith("\n"):
            self.acknowledged += map(int, line.split())

    def end(self, number: int = signal.SIGKILL) -> None:
        assert self.process.stdout is not None
        os.kill(self.process.pid, number)
        for line in self.process.stdout:
            self.take(line)
        self.process.wait()
        self.process.stdout.close()


def check(store: Store, writers: list[Writer]) -> None:
    """Each acknowledged index holds the writer's leaf, and the tree is what was signed."""
    assert tree_of(store).root() == store.root(store.size)
    for writer in writers:
        for number, index in enumerate(writer.acknowledged):
            assert store.leaf(index) == writer.name + b" %d" % number


def test_killed_writers_lose_nothing_they_acknowledged(where: str) -> None:
    with open_store(where) as store:
        for round_ in range(3):
            writers = [Writer(where, f"w{round_}{n}") for n in range(2)]
            for writer in writers:
                writer.read(5)
                assert len(writer.acknowledged) == 5 * 37
            for writer in writers:
                writer.end()
            check(store, writers)


def test_a_killed_server_loses_nothing_it_acknowledged(cluster: Cluster, where: str) -> None:
    with open_store(where) as store:
        writers = [Writer(where, f"w{n}") for n in range(2)]
        for writer in writers:
            writer.read(5)
        cluster.kill()
        for writer in writers:
            writer.end()
        with pytest.raises(Unavailable):
            store.append(entries(0, 1))
        with pytest.raises(Unavailable):
            store.leaf(0)
        cluster.start()
        check(store, writers)
        assert store.append(entries(0, 1)) == [store.size - 1]


def test_a_batch_that_fails_leaves_nothing(where: str) -> None:
    with open_store(where) as store:
        store.append(entries(0, 300))

        def fail(index: int) -> bytes:
            raise RuntimeError(index)

        with pytest.raises(RuntimeError):
            store.append([*entries(300, 560), Entry(b"bad", b"leaf", (b"blob",), fail)])
        assert (store.size, store.leaf(300), store.blob(sha256(b"blob").digest())) == (
            300,
            None,
            None,
        )
        assert store.append(entries(300, 301)) == [300]


def test_a_servers_full_disk_is_said_and_passes(where: str) -> None:
    full = "BEGIN RAISE EXCEPTION 'a row' USING ERRCODE = 'disk_full'; END"
    with open_store(where) as store, psycopg.connect(where, autocommit=True) as other:
        store.append(entries(0, 300))
        other.execute(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $${full}$$")
        other.execute(
            "CREATE TRIGGER t BEFORE INSERT ON checkpoint FOR EACH ROW EXECUTE FUNCTION f()"
        )
        for _ in range(2):
            with pytest.raises(Unavailable, match="the disk of the database server is full"):
                store.append(entries(300, 302))
        assert (store.size, store.leaf(300)) == (300, None)
        other.execute("DROP TRIGGER t ON checkpoint")
        assert store.append(entries(300, 302)) == [300, 301]


def test_a_writer_that_falls_silent_does_not_hold_the_lock(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "WAIT_MS", 400)
    silent = Postgres(where)
    with open_store(where) as store:
        with pytest.raises(Unavailable), silent.writing() as transaction:
            store.append(entries(0, 1))  # waits for the lock, then says so
        with pytest.raises(Unavailable), silent.writing() as transaction:
            threading.Event().wait(1.5)
            transaction.run("DELETE FROM checkpoint")
        assert store.append(entries(0, 1)) == [0]
    silent.close()


def test_a_writer_without_the_lock_cannot_fork_the_tree(where: str) -> None:
    with open_store(where) as one, open_store(where) as two:
        two._follow = lambda rows: two._head  # one that does not look what others did
        one.append(entries(0, 2))
        with pytest.raises(LogError, match="another writer has stored them"):
            two.append(entries(5, 7))
        assert one.append(entries(2, 3)) == [2]


DAMAGE = {
    "another leaf hash": "UPDATE tile SET hashes = decode(repeat('00', 32 * 7), 'hex')",
    "tile missing": "DELETE FROM tile",
    "entry missing": "DELETE FROM entry WHERE position = 6",
    "entry too many": r"INSERT INTO entry VALUES (7, '\x00', '\x00')",
    "checkpoint missing": "DELETE FROM checkpoint WHERE size = 7",
    "another schema": f"UPDATE umay_log SET version = {SCHEMA_VERSION + 1}",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_database_does_not_open(where: str, statement: str) -> None:
    with open_store(where) as store:
        store.append(entries(0, 7))
    database = Postgres(where)
    with database.writing() as transaction:
        transaction.run(statement)
    database.close()
    with pytest.raises(LogError):
        open_store(where)


def test_a_database_that_went_back_is_not_continued(where: str) -> None:
    """A backup that was put back, a copy that lacks the last commits."""
    with open_store(where) as store:
        store.append(entries(0, 3))
        store.append(entries(3, 7))
        database = Postgres(where)
        with database.writing() as transaction:
            transaction.run("DELETE FROM checkpoint WHERE size = 7")
            transaction.run("DELETE FROM entry WHERE position > 2")
        database.close()
        for ask in (lambda: store.checkpoint, lambda: store.append(entries(9, 10))):
            with pytest.raises(
                LogError,
                match="of 7 entries or a later one, got another one of 3",
            ):
                ask()


def test_another_key_or_origin_does_not_continue_a_log(where: str) -> None:
    open_store(where).close()
    with pytest.raises(NotAuthentic):
        open_store(where, Ed25519PrivateKey.generate())
    with pytest.raises(NotAuthentic):
        open_store(where, origin="localhost/other")


def test_what_cannot_be_connected_is_said_without_the_password(where: str) -> None:
    with pytest.raises(UsageError) as told:
        Postgres("host=/nowhere pasword=secret")
    assert "secret" not in str(told.value)
    for conninfo in ("host=/nowhere password=secret", "postgresql://u:secret@127.0.0.1:1/d"):
        with pytest.raises(Unavailable) as failed:
            Postgres(conninfo)
        assert "secret" not in str(failed.value)


def test_a_server_that_may_lose_commits_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="synchronous_commit = on, got off"):
        Postgres(f"{where} options='-c synchronous_commit=off'")


def test_passing_blobs_are_forgotten_and_others_kept(where: str) -> None:
    forgets_passing_blobs(Postgres(where))


class Served:
    """`umay log serve` on a database, at an address of its own."""

    def __init__(self, directory: Path, where: str) -> None:
        command = [sys.executable, "-m", "client_sdk", "log", "serve", "--origin", ORIGIN]
        (directory / "release").write_bytes(b"manifest")
        options = {"database": "env:UMAY_LOG_DATABASE", "listen": "127.0.0.1:0"}
        options |= {"key": "key", "policy": "policy", "chain": "http://127.0.0.1:9"}
        options |= {"release": "release", "keep-renewals": "30"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            cwd=directory,
            env={**os.environ, "UMAY_LOG_DATABASE": where},
        )
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["listening"]

    def get(self, path: str) -> bytes:
        answer = requests.get(f"{self.url}/{path}", timeout=HANG_S)
        assert answer.status_code == 200
        return answer.content

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_two_servers_serve_one_log(tmp_path: Path, where: str) -> None:
    one, two = Served(tmp_path, where), Served(tmp_path, where)
    try:
        note = one.get("checkpoint")
        assert note.splitlines()[1] == b"1"
        assert two.get("checkpoint") == note
        assert two.get("tile/entries/000.p/1") == one.get("tile/entries/000.p/1")
        one.end()
        assert two.get("checkpoint/1") == note
    finally:
        one.end()
        two.end()


MISTAKES = {
    "neither": ([], "exactly one of --dir"),
    "both": (["--dir", "log", "--database", "host=/nowhere"], "exactly one of --dir"),
    "a variable that is not set": (
        ["--database", "env:NOWHERE"],
        "environment variable NOWHERE",
    ),
    "no connection string": (["--database", "nonsense"], "connection string"),
}


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_log_lives_in_one_place(tmp_path: Path, words: list[str], said: str) -> None:
    given = ["--listen", "127.0.0.1:0", "--origin", ORIGIN, "--key", str(tmp_path / "key")]
    more = ["--policy", str(tmp_path / "policy"), "--chain", "http://127.0.0.1:9"]
    command = [sys.executable, "-m", "client_sdk", "log", "serve", *given, *more, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 2 and said in done.stderr
