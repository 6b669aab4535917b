"""A disk that fills up: one clear answer, one line, nothing lost, and on when there is room."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import Unavailable
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.merkle import Tree
from attestation.log.note import VerifierKey
from attestation.log.submission import SubmissionAnswer
from attestation.net.serve import Server
from client_sdk.auditing.watching import Alert, AlertFile
from contracts.logservice import appender
from contracts.logservice import witness as witnesses
from contracts.logservice.database import Sqlite
from contracts.logservice.repeats import RepeatLimiter
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store, load_or_create_key
from contracts.logservice.witness import AddCheckpoint, Witness
from contracts.wallet import create_key
from tests.contracts.test_log_server import KEY, MANIFEST, ORIGIN, PUBLIC, leaf_of, submission
from tests.helpers.log_served import entry
from tests.helpers.places import ROOT

HANG_S = 1800


class Log:
    """A log on loopback; `fill` and `free` its disk."""

    def __init__(self, directory: Path) -> None:
        self.sqlite = Sqlite(directory)
        self.store = Store(self.sqlite, origin=ORIGIN, key=KEY)
        self.store.append([entry(MANIFEST)])

    def fill(self) -> None:
        pages = self.sqlite._writer.execute("PRAGMA page_count").fetchone()[0]
        self.sqlite._writer.execute(f"PRAGMA max_page_count = {pages}")

    def free(self) -> None:
        self.sqlite._writer.execute("PRAGMA max_page_count = 1000000")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    log.store.close()


@pytest.fixture
def url(log: Log) -> Iterator[str]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = Server(create_app(log.store, admit=leaf_of))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            pass
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/log"
        server.should_exit = True
        thread.join()


def submit(url: str, number: int) -> requests.Response:
    body = submission(number, boot=number, host_config=bytes([number]) * 30_000).to_bytes()
    return requests.post(f"{url}/submit", data=body, timeout=HANG_S)


def test_a_full_disk_under_the_log_is_503_and_one_line(
    log: Log, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert submit(url, 1).status_code == 200
    size, note = log.store.size, log.store.checkpoint
    log.fill()
    with caplog.at_level("WARNING", logger=appender.__name__):
        for number in range(2, 7):
            answer = submit(url, number)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "10"
            error = answer.json()["error"]
            assert (error["step"], error["code"]) == ("log", "unavailable")
            assert "full" in error["message"] and "Traceback" not in answer.text
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "was not logged" in lines[0] and "full" in lines[0]
    assert caplog.records[0].exc_info is None
    assert (log.store.size, log.store.checkpoint) == (size, note)
    assert requests.get(f"{url}/checkpoint", timeout=HANG_S).content == note

    log.free()
    logged = SubmissionAnswer.from_bytes(submit(url, 2).content)
    assert logged.index == size and log.store.size > size
    leaves = [log.store.leaf(index) or b"" for index in range(log.store.size)]
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    head = checkpoints.verify(log.store.checkpoint, origin=ORIGIN, log_key=PUBLIC)
    assert head.root == tree.root() and all(leaves)


def test_a_full_disk_at_any_statement_leaves_the_tree_whole(tmp_path: Path) -> None:
    """Room for one page, then two, and so on: each statement of a batch once hits the end."""
    log = Log(tmp_path / "log")
    batch = [Entry(b"key %d" % n, b"leaf %d" % n * 50, (os.urandom(3000),)) for n in range(40)]
    size, failed = log.store.size, 0
    pages = log.sqlite._writer.execute("PRAGMA page_count").fetchone()[0]
    for more in range(200):
        log.sqlite._writer.execute(f"PRAGMA max_page_count = {pages + more}")
        try:
            log.store.append(batch)
            break
        except Unavailable as error:
            assert "full" in str(error) and error.again
            assert log.store.size == size
            failed += 1
    assert failed > 3 and log.store.size == size + len(batch)
    log.store.close()
    with Store(Sqlite(tmp_path / "log"), origin=ORIGIN, key=KEY) as again:  # as it was signed
        assert again.size == size + len(batch)


CHILD = """
import resource, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from attestation.errors import Unavailable
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Entry, Store

key = Ed25519PrivateKey.from_private_bytes(bytes(32))
store = Store(Sqlite(Path(sys.argv[1])), origin="a.example/log", key=key)
entry = lambda n: Entry(b"%d" % n, b"leaf %d" % n, (b"%d" % n * 4000,))
batch = lambda at: [entry(n) for n in range(at, at + 9)]
store.append(batch(0))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
for _ in range(3):
    try:
        store.append(batch(9))
    except Unavailable as error:
        print("unavailable", store.size)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(store.append(batch(9))[-1], store.size)
"""


def test_a_file_at_its_limit_is_the_same(tmp_path: Path) -> None:
    """The kernel says it, not SQLite."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "log")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stdout.splitlines() == ["unavailable 9"] * 3 + ["17 18"]


def test_a_log_does_not_start_on_a_full_disk(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path;"
        "from contracts.logservice.database import Sqlite;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); Sqlite(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("attestation.errors.Unavailable: ")


# -- a witness


LOG_KEY = Ed25519PrivateKey.from_private_bytes(b"\3" * 32)


def test_a_witness_with_a_full_disk_cosigns_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trees = {name: Tree() for name in ("a.example/log", "b.example/log")}
    keys = {name: VerifierKey(name, LOG_KEY.public_key().public_bytes_raw()) for name in trees}
    served = Witness(tmp_path / "seen", name="w.example", key=KEY, logs=keys)

    def ask(name: str) -> int:
        note = checkpoints.sign(Checkpoint(name, 0, trees[name].root(0)), key=LOG_KEY)
        return served.add(AddCheckpoint(0, (), note).to_bytes()).status

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    assert ask("a.example/log") == 200
    check, served._check = served._check, full  # type: ignore[method-assign]
    with caplog.at_level("WARNING", logger=witnesses.__name__):
        assert [ask("b.example/log") for _ in range(3)] == [503] * 3
    assert len(caplog.records) == 1 and "full" in caplog.records[0].getMessage()
    served._check = check  # type: ignore[method-assign]
    assert ask("b.example/log") == 200
    served.close()


# -- keys, alerts, lines


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_half_a_key_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for make in (
            lambda: load_or_create_key(tmp_path / "key", origin="a.example/log"),
            lambda: create_key(tmp_path / "key"),
        ):
            with pytest.raises(Unavailable, match="key"):
                make()
            assert not (tmp_path / "key").exists()
    load_or_create_key(tmp_path / "key", origin="a.example/log")


ALERTS = """
import resource, sys
from pathlib import Path
from attestation.errors import Unavailable
from client_sdk.auditing.watching import Alert, AlertFile

told = AlertFile(Path(sys.argv[1]))
alert = lambda n: Alert(n, "violation", "code", "t" * 200, n)
told.add([alert(1)])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
try:
    told.add([alert(2)])
except Unavailable:
    print("unavailable", len(told.alerts))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
told.add([alert(2), alert(3)])
"""


def test_alerts_that_do_not_fit_on_the_disk_are_kept_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALERTS, str(tmp_path / "alerts")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stdout == "unavailable 1\n"
    kept = AlertFile(tmp_path / "alerts").alerts
    assert [alert.index for alert in kept] == [1, 2, 3] and isinstance(kept[0], Alert)


def test_a_line_that_repeats_is_told_seldom() -> None:
    told: list[str] = []
    now = [0.0]
    limiter = RepeatLimiter(told.append, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 59.0, 61.0, 62.0):
        limiter("full")
    limiter("another")
    limiter("full")
    assert told == ["full", "full (and 2 more times)", "another", "full"]
