"""The log over real HTTP on loopback, with an admission that the test decides."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import Evidence, statement
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.log import checkpoint, merkle, tiles
from attestation.log.leaf import COLLATERAL as COLLATERAL_KIND
from attestation.log.leaf import Leaf, release_leaf
from attestation.log.proof import verify_proof
from attestation.log.submission import ArchiveRecord, Submission, SubmissionAnswer, release_key
from attestation.net.serve import Server, serve
from contracts.logservice import server
from contracts.logservice.database import Sqlite
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S

KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ORIGIN = "localhost/log"
COLLATERAL = Collateral({"intel/tcb_info": b"{}", "intel/pck_crl": b"\0crl"})
MANIFEST = b'{"release": 1}'


def submission(number: int = 0, *, boot: int = 0, **changes: object) -> Submission:
    bundle = KeyBundle(
        boot_id=boot.to_bytes(16),
        key_configs=(b"\1" * 41,),
        receipt_key=sha256(b"%d" % number).digest(),
        model_digest=bytes(32),
        engine_digest=bytes(32),
        gpu_count=0,
        not_before=1_790_000_000,
        not_after=1_790_004_200,
        network="umay-test",
        beacon=(7, b"\6" * 32),
        price_digest=bytes(32),
        host_config_digest=bytes(32),
    )
    evidence = Evidence("tdx", bundle.to_bytes(), b"quote %d" % number)
    made = Submission(
        kind=1,
        evidence=evidence.to_bytes(),
        engine_config=b'{"engine": "demo"}',
        price_table=b"{}",
        host_config=b"host = 1\n",
        collateral=COLLATERAL.to_bytes(),
        release=0,
    )
    return replace(made, **changes)


def leaf_of(submitted: Submission) -> Leaf:
    evidence = Evidence.from_bytes(submitted.evidence)
    return Leaf(
        kind=submitted.kind,
        platform=1,
        evidence_digest=sha256(submitted.evidence).digest(),
        bundle_digest=bundle_digest(evidence.bundle),
        measurement_digest=bytes(32),
        release=submitted.release,
        collateral_digest=Collateral.from_bytes(submitted.collateral).manifest_digest(),
        beacon=(7, b"\6" * 32),
        previous=submitted.previous,
        statement=statement(evidence.quote),
    )


@dataclass
class Log:
    url: str
    store: Store
    admit: Callable[[Submission], Leaf]

    def judge(self, submitted: Submission) -> Leaf:
        return self.admit(submitted)

    def get(self, path: str, **query: object) -> requests.Response:
        return requests.get(f"{self.url}/{path}", params=query, timeout=HANG_S)

    def post(self, body: bytes) -> requests.Response:
        return requests.post(f"{self.url}/submit", data=body, timeout=HANG_S)

    def submit(self, submitted: Submission) -> SubmissionAnswer:
        answer = self.post(submitted.to_bytes())
        assert answer.status_code == 200, answer.text
        return SubmissionAnswer.from_bytes(answer.content)

    def refused(self, submitted: Submission) -> tuple[int, str, str]:
        answer = self.post(submitted.to_bytes())
        error = answer.json()["error"]
        assert set(error) == {"step", "code", "message"}
        return answer.status_code, error["step"], error["code"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Store(Sqlite(tmp_path), origin=ORIGIN, key=KEY) as store:
        store.append([Entry(release_key(MANIFEST), release_leaf(MANIFEST).to_bytes(), (MANIFEST,))])
        log = Log("", store, leaf_of)
        app = create_app(store, admit=log.judge, max_pending=8)
        bound = socket.create_server(("127.0.0.1", 0))
        log.url = f"http://127.0.0.1:{bound.getsockname()[1]}/log"
        running = Server(app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield log
        running.should_exit = True
        thread.join()
        bound.close()


def half_sent(log: Log, path: str, length: int = 9, sent: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", urlsplit(log.url).port), timeout=HANG_S)
    head = f"POST /log/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
    opened.sendall(head.encode() + sent)
    return opened


@pytest.mark.parametrize("path", ["submit", "release", "retire"])
def test_half_sent_submissions_close_a_log_to_nobody(log: Log, path: str) -> None:
    """Twice as many as it has hands."""
    with ExitStack() as opened:
        for _ in range(16):
            opened.enter_context(half_sent(log, path, sent=b"x"))
        time.sleep(0.2)
        assert log.submit(submission()).index == 1


@pytest.fixture
def one_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_ARRIVING", 1)


@pytest.mark.usefixtures("one_arriving")
def test_a_submission_that_must_make_room_is_told_so(log: Log) -> None:
    with half_sent(log, "submit") as first:
        time.sleep(0.2)
        assert log.submit(submission()).index == 1
        answer = first.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 429 ") and b"retry-after" in answer


def test_a_submission_becomes_a_leaf_that_anyone_can_check(log: Log) -> None:
    submitted = submission()
    logged = log.submit(submitted)
    assert (logged.index, logged.leaf) == (1, leaf_of(submitted).to_bytes())
    answer = log.get("proof", index=logged.index, size=logged.size)
    leaf, head = verify_proof(answer.content, origin=ORIGIN, log_key=PUBLIC)
    assert (leaf, head.size) == (logged.leaf, logged.size)
    newest = log.get("checkpoint")
    assert newest.headers["content-type"] == "text/plain; charset=utf-8"
    assert checkpoint.verify(newest.content, origin=ORIGIN, log_key=PUBLIC) == head
    assert log.get(f"checkpoint/{head.size}").content == newest.content
    steps = log.get("consistency", **{"from": 1, "to": head.size}).json()
    merkle.verify_consistency(
        old_size=1,
        old_root=log.store.root(1),
        new_size=head.size,
        new_root=head.root,
        proof=[bytes.fromhex(item) for item in steps["hashes"]],
    )


def test_an_auditor_finds_everything_by_digest(log: Log) -> None:
    submitted = submission()
    index = log.submit(submitted).index
    record = ArchiveRecord.from_bytes(log.get(f"submission/{index}").content)
    assert record.index == index
    for digest, content in (
        (record.evidence, submitted.evidence),
        (record.engine_config, submitted.engine_config),
        (record.price_table, submitted.price_table),
        (record.host_config, submitted.host_config),
        (record.collateral, submitted.collateral),
        *((digest, COLLATERAL.parts[name]) for name, digest in COLLATERAL.manifest().items()),
        (sha256(MANIFEST).digest(), MANIFEST),
    ):
        assert log.get(f"evidence/sha256/{digest.hex()}").content == content


def test_tiles_are_served_as_the_specification_says(log: Log) -> None:
    log.store.append([Entry(b"%d" % n, b"filler %d" % n) for n in range(299)])
    full = log.get("tile/0/000")
    assert len(full.content) == 8192
    assert full.headers["content-type"] == "application/octet-stream"
    assert "immutable" in full.headers["cache-control"]
    assert int(log.get("checkpoint").headers["cache-control"].rpartition("=")[2]) <= 5
    assert len(log.get("tile/0/001.p/44").content) == 44 * 32
    assert len(log.get("tile/1/000.p/1").content) == 32
    bundle = tiles.decode_bundle(log.get("tile/entries/001.p/44").content)
    assert bundle[-1] == b"filler 298"
    assert log.get("tile/entries/001.p/44").headers["content-type"] == "application/octet-stream"


def test_a_retry_needs_no_second_admission(log: Log) -> None:
    first = log.submit(submission())

    def refuse(_: Submission) -> Leaf:
        raise Refused("freshness", "beacon-too-old", "too late")

    log.admit = refuse
    assert log.submit(submission()) == first
    assert log.refused(submission(1)) == (403, "freshness", "beacon-too-old")


def test_one_report_data_has_one_leaf(log: Log) -> None:
    """Another quote over the same keys and devices is answered with the leaf that is there."""
    first = submission()
    evidence = Evidence.from_bytes(first.evidence)
    again = replace(first, evidence=replace(evidence, quote=b"another quote").to_bytes())
    logged = log.submit(first)
    size = log.store.size
    assert log.submit(again) == logged
    assert log.store.size == size == 3  # with the release and the collateral


def test_renewals_follow_a_leaf_of_the_same_boot(log: Log) -> None:
    first = log.submit(submission(0, boot=1)).index
    renewed = log.submit(submission(1, boot=1, kind=2, previous=first))
    assert Leaf.from_bytes(renewed.leaf).previous == first
    unknown = (403, "log", "unknown-previous")
    assert log.refused(submission(2, boot=2, kind=2, previous=first)) == unknown
    assert log.refused(submission(2, boot=1, kind=2, previous=99)) == unknown
    assert log.refused(submission(2, boot=1, kind=2, previous=0)) == unknown


@pytest.mark.parametrize("index", [1, 99])
def test_a_release_is_a_release_leaf(log: Log, index: int) -> None:
    log.submit(submission())
    assert log.refused(submission(1, release=index)) == (403, "log", "unknown-release")
    assert log.submit(submission(1, release=None)).index == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotAuthentic("cpu-signature", "wrong-root", "no"), (422, "cpu-signature", "wrong-root")),
        (Refused("cpu-tcb", "status", "no"), (403, "cpu-tcb", "status")),
        (ParseError("no"), (400, "parse", "malformed")),
        (Unavailable("no chain"), (503, "log", "unavailable")),
    ],
)
def test_a_refusal_says_which_step(
    log: Log, error: Exception, expected: tuple[int, str, str]
) -> None:
    def refuse(_: Submission) -> Leaf:
        raise error

    log.admit = refuse
    assert log.refused(submission()) == expected
    assert log.store.size == 1
    assert log.store.blob(sha256(submission().evidence).digest()) is None


def test_admission_cannot_return_the_leaf_of_something_else(log: Log) -> None:
    log.admit = lambda _: leaf_of(submission(5))
    assert log.refused(submission()) == (403, "log", "other-leaf")
    assert log.store.size == 1


FIELDS = cbor.decode(submission().to_bytes())
BAD_SUBMISSIONS = {
    "empty": b"",
    "not CBOR": b"\xff\xff",
    "a list": cbor.encode([1, 2]),
    "version 2": cbor.encode(FIELDS | {0: 2}),
    "a release": cbor.encode(FIELDS | {1: 3}),
    "kind true": cbor.encode(FIELDS | {1: True}),
    "boot with previous": cbor.encode(FIELDS | {7: 0}),
    "renewal without previous": cbor.encode(FIELDS | {1: 2}),
    "evidence as text": cbor.encode(FIELDS | {2: "x"}),
    "evidence of nothing": cbor.encode(FIELDS | {2: b""}),
    "collateral of nothing": cbor.encode(FIELDS | {6: b""}),
    "release negative": cbor.encode(FIELDS | {8: -1}),
    "release over 63 bits": cbor.encode(FIELDS | {8: 2**63}),
    "release as text": cbor.encode(FIELDS | {8: "0"}),
    "critical key": cbor.encode(FIELDS | {-1: 0}),
    "a key missing": cbor.encode({key: FIELDS[key] for key in range(8)}),
    "trailing byte": submission().to_bytes() + b"\0",
}


@pytest.mark.parametrize("body", BAD_SUBMISSIONS.values(), ids=BAD_SUBMISSIONS)
def test_bad_submissions_are_refused(log: Log, body: bytes) -> None:
    answer = log.post(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")
    assert log.store.size == 1


def test_a_body_over_4_mib_is_too_large(log: Log) -> None:
    answer = log.post(bytes(4 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")


def test_a_full_log_refuses_and_recovers(log: Log) -> None:
    release = threading.Event()

    def wait(submitted: Submission) -> Leaf:
        release.wait(HANG_S)
        return leaf_of(submitted)

    log.admit = wait
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(log.post, submission(n).to_bytes()) for n in range(12)]
        while sum(answer.done() for answer in answers) < 4:
            time.sleep(0.01)
        full = [answer.result() for answer in answers if answer.done()]
        assert {(a.status_code, a.json()["error"]["code"]) for a in full} == {(429, "busy")}
        assert full[0].headers["retry-after"]
        assert log.get("checkpoint").status_code == 200
        release.set()
        assert sum(answer.result().status_code == 200 for answer in answers) == 8
    assert log.store.size == 10  # with the release and the collateral


def kind_of(log: Log, index: int) -> int:
    return Leaf.from_bytes(log.store.leaf(index) or b"").kind


def test_many_submitters_get_their_own_leaves(log: Log) -> None:
    with ThreadPoolExecutor(6) as pool:
        logged = list(pool.map(lambda n: (n, log.submit(submission(n))), range(60)))
    documents = {0, *(n for n in range(62) if kind_of(log, n) == COLLATERAL_KIND)}
    assert len(documents) == 2
    assert {answer.index for _, answer in logged} == set(range(62)) - documents
    for number, answer in logged:
        assert answer.leaf == leaf_of(submission(number)).to_bytes()
        assert log.store.checkpoint_at(answer.size) is not None


NOT_HERE = {
    "proof of a later index": (404, "proof?index=5&size=1"),
    "proof to an unpublished size": (404, "proof?index=0&size=7"),
    "proof without size": (400, "proof?index=0"),
    "proof with a sign": (400, "proof?index=-1&size=1"),
    "proof with leading zero": (400, "proof?index=00&size=1"),
    "consistency backwards": (404, "consistency?from=1&to=0"),
    "consistency beyond": (404, "consistency?from=1&to=9"),
    "consistency over 63 bits": (400, f"consistency?from=1&to={2**63}"),
    "checkpoint never published": (404, "checkpoint/9"),
    "tile not there": (404, "tile/0/000"),
    "tile of width 0": (400, "tile/0/000.p/0"),
    "tile of level 8": (400, "tile/8/000"),
    "tile by another path": (400, "tile/0/0"),
    "entries not there": (404, "tile/entries/000"),
    "digest unknown": (404, "evidence/sha256/" + "0" * 64),
    "digest in upper case": (400, "evidence/sha256/" + "A" * 64),
    "digest too short": (400, "evidence/sha256/00"),
    "submission unknown": (404, "submission/7"),
    "submission of a release": (404, "submission/0"),
    "submission named oddly": (400, "submission/x"),
}


@pytest.mark.parametrize(("status", "path"), NOT_HERE.values(), ids=NOT_HERE)
def test_what_is_not_there_is_said_and_not_cached(log: Log, status: int, path: str) -> None:
    answer = log.get(path)
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["error"]["code"] == ("malformed" if status == 400 else "not-found")


def test_other_methods_and_paths(log: Log) -> None:
    assert requests.post(f"{log.url}/checkpoint", timeout=HANG_S).status_code == 405
    assert log.get("submit").status_code == 405
    assert log.get("nothing").status_code == 404
    assert requests.head(f"{log.url}/checkpoint", timeout=HANG_S).status_code == 200


@given(st.binary(max_size=80))
def test_hypothesis_arbitrary_bytes(data: bytes) -> None:
    for parse in (Submission.from_bytes, SubmissionAnswer.from_bytes, ArchiveRecord.from_bytes):
        try:
            assert parse(data).to_bytes() == data
        except ParseError:
            pass


CHILD = """
import sys, json; from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from attestation.net.serve import serve
from contracts.logservice.server import create_app
from contracts.logservice.database import Sqlite
from contracts.logservice.store import Store
store = Store(Sqlite(Path(sys.argv[1])), origin="localhost/log", key=Ed25519PrivateKey.generate())
app = create_app(store, admit=None)
say = lambda urls: print(json.dumps({"listening": urls[0]}), flush=True)
serve([(app, "127.0.0.1:0")], ready=say)
"""


def test_serve_says_where_and_ends_on_sigterm(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None
    url = json.loads(child.stdout.readline())["listening"]
    assert requests.get(f"{url}/log/checkpoint", timeout=HANG_S).status_code == 200
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=HANG_S)
    assert (out, err) == (b"", b"")


@pytest.mark.parametrize("listen", ["8080", "localhost:", "localhost:http"])
def test_listen_is_host_and_port(listen: str) -> None:
    with pytest.raises(UsageError):
        serve([(create_app(None, admit=leaf_of), listen)], ready=print)  # type: ignore[arg-type]
