"""Witnesses: every answer of the protocol by name, and never two trees cosigned."""

from __future__ import annotations

import base64
import hashlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from attestation.errors import NotAuthentic, ParseError, Refused, Unavailable
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosign, cosigned_at
from attestation.log.merkle import Tree
from attestation.log.note import COSIGNATURE, Note, Signature, VerifierKey
from contracts.logservice.database import working
from contracts.logservice.witness import MAX_BODY_BYTES, SIZE, AddCheckpoint, Witness, WitnessAnswer
from contracts.logservice.witness_server import create_app

ORIGIN, NAME, NOW = "log.example/umay", "witness.example/w1", 1_795_000_000
LOG_KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
LOG = VerifierKey(ORIGIN, LOG_KEY.public_key().public_bytes_raw())
WITNESS = VerifierKey(NAME, WITNESS_KEY.public_key().public_bytes_raw(), COSIGNATURE)


def tree_of(size: int, salt: bytes = b"") -> Tree:
    tree = Tree()
    for number in range(size):
        tree.append(salt + b"leaf %d" % number)
    return tree


TREE, OTHER = tree_of(300), tree_of(300, b"other ")


def note(size: int, tree: Tree = TREE, key: Ed25519PrivateKey = LOG_KEY) -> bytes:
    return checkpoints.sign(Checkpoint(ORIGIN, size, tree.root(size)), key=key)


def request(old: int, new: int, tree: Tree = TREE, signed: bytes | None = None) -> bytes:
    proof = tuple(tree.consistency(old, new)) if 0 < old < new else ()
    return AddCheckpoint(old, proof, signed or note(new, tree)).to_bytes()


def open_witness(path: Path, **more: object) -> Witness:
    return Witness(
        path / "seen", name=NAME, key=WITNESS_KEY, logs={ORIGIN: LOG}, clock=lambda: NOW, **more
    )  # type: ignore[arg-type]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    witness = open_witness(tmp_path)
    yield witness
    witness.close()


def holds(answer: WitnessAnswer, size: int, tree: Tree = TREE) -> bool:
    assert answer.status == 200, answer
    signed = Note.from_bytes(note(size, tree))
    lines = answer.body.decode().splitlines()
    full = Note(signed.text, tuple(Signature.from_line(line) for line in lines))
    return cosigned_at(full, WITNESS) == NOW


def test_what_continues_is_cosigned(witness: Witness) -> None:
    for old, new in ((0, 7), (7, 7), (7, 256), (256, 257), (257, 300)):
        assert holds(witness.add(request(old, new)), new)


def test_a_cosignature_byte_for_byte(witness: Witness) -> None:
    body = witness.add(request(0, 7)).body.decode()
    assert body.startswith("\u2014 witness.example/w1 ") and body.endswith("\n")
    blob = base64.b64decode(body.split(" ")[2])
    public = WITNESS_KEY.public_key().public_bytes_raw()
    assert blob[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + public).digest()[:4]
    assert blob[4:12] == NOW.to_bytes(8)
    text = Note.from_bytes(note(7)).text
    message = f"cosignature/v1\ntime {NOW}\n{text}".encode()
    WITNESS_KEY.public_key().verify(blob[12:], message)
    assert len(blob) == 4 + 8 + 64


def test_the_specifications_example_parses() -> None:
    """c2sp.org/tlog-cosignature: the line of witness.example.com/w1."""
    line = (
        "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dl"
        "rDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
    )
    value = Signature.from_line(line).value
    assert (len(value), int.from_bytes(value[:8])) == (72, 1679315147)


FIRST = 7
STRANGER = Ed25519PrivateKey.generate()


def of_another_origin() -> bytes:
    head = Checkpoint("other.example", 9, TREE.root(9))
    return checkpoints.sign(head, key=LOG_KEY)


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "unknown origin": (lambda: request(7, 9, signed=of_another_origin()), 404),
    "unknown key": (lambda: request(7, 9, signed=note(9, key=STRANGER)), 403),
    "spoilt signature": (lambda: request(7, 9, signed=note(9)[:-9] + b"AAAAAAA=\n"), 403),
    "old size over the new": (lambda: request(9, 8), 400),
    "another proof": (lambda: request(7, 9, signed=note(10)), 422),
    "proof cut short": (
        lambda: AddCheckpoint(7, tuple(TREE.consistency(7, 9)[:-1]), note(9)).to_bytes(),
        422,
    ),
    "proof too long": (
        lambda: AddCheckpoint(7, (*TREE.consistency(7, 9), bytes(32)), note(9)).to_bytes(),
        422,
    ),
    "a fork": (lambda: request(7, 9, OTHER), 422),
    "no old line": (lambda: request(7, 9).removeprefix(b"old "), 400),
    "old with a sign": (lambda: request(7, 9).replace(b"old 7", b"old +7"), 400),
    "old with leading zero": (lambda: request(7, 9).replace(b"old 7", b"old 07"), 400),
    "no empty line": (lambda: request(7, 9).replace(b"\n\n", b"\n"), 400),
    "a hash of 31 bytes": (lambda: AddCheckpoint(7, (bytes(31),), note(9)).to_bytes(), 400),
    "no base64": (lambda: request(7, 9).replace(b"\n", b"\n!!\n", 1), 400),
    "64 hashes": (lambda: AddCheckpoint(7, (bytes(32),) * 64, note(9)).to_bytes(), 400),
    "no checkpoint": (lambda: b"old 7\n\nhello\n", 400),
    "nothing": (lambda: b"", 400),
    "too much": (lambda: request(7, 9) + bytes(MAX_BODY_BYTES), 400),
}


@pytest.mark.parametrize(("make", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(witness: Witness, make: Callable[[], bytes], status: int) -> None:
    assert holds(witness.add(request(0, FIRST)), FIRST)
    assert witness.add(make()).status == status
    assert holds(witness.add(request(FIRST, 9)), 9)  # nothing was remembered of it


@pytest.mark.parametrize("old", [0, 6, 8])
def test_another_old_size_is_answered_with_ours(witness: Witness, old: int) -> None:
    witness.add(request(0, FIRST))
    answer = witness.add(request(old, 9))
    assert answer == WitnessAnswer(409, b"7\n", SIZE)


def test_a_proof_from_nothing_is_empty(witness: Witness) -> None:
    body = AddCheckpoint(0, (bytes(32),), note(9)).to_bytes()
    assert witness.add(body).status == 422


def test_a_smaller_tree_is_never_cosigned_again(witness: Witness) -> None:
    witness.add(request(0, 20))
    assert witness.add(request(0, 7)).status == 409
    assert witness.add(request(7, 7)).status == 409
    assert witness.add(request(20, 7)).status == 400


def test_another_tree_of_the_same_size_is_never_cosigned(witness: Witness) -> None:
    witness.add(request(0, FIRST))
    forked = note(FIRST, OTHER)
    assert witness.add(request(FIRST, FIRST, signed=forked)) == WitnessAnswer(409, b"7\n", SIZE)
    assert witness.conflicts() == [forked]
    assert holds(witness.add(request(FIRST, FIRST)), FIRST)


def test_proof_of_a_fork_is_kept(witness: Witness) -> None:
    witness.add(request(0, FIRST))
    witness.add(request(7, 9, OTHER))
    assert witness.conflicts() == [note(9, OTHER)]


def test_what_was_cosigned_outlives_a_restart(tmp_path: Path) -> None:
    open_witness(tmp_path).add(request(0, 20))
    again = open_witness(tmp_path)
    assert again.add(request(0, 7)) == WitnessAnswer(409, b"20\n", SIZE)
    assert again.add(request(20, 20, signed=note(20, OTHER))).status == 409


def test_it_is_on_disk_before_the_cosignature_leaves(tmp_path: Path) -> None:
    class Dying:
        """A key whose use kills the witness."""

        def public_key(self) -> object:
            return WITNESS_KEY.public_key()

        def sign(self, _: bytes) -> bytes:
            raise KeyboardInterrupt

    dying = open_witness(tmp_path)
    dying._key = Dying()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        dying.add(request(0, 20))
    assert open_witness(tmp_path).add(request(0, 7)) == WitnessAnswer(409, b"20\n", SIZE)


def test_what_cannot_be_written_is_not_cosigned(tmp_path: Path) -> None:
    witness = open_witness(tmp_path)
    with sqlite3.connect(tmp_path / "seen") as other:
        other.execute("CREATE TRIGGER t BEFORE INSERT ON seen BEGIN SELECT RAISE(ABORT,'x'); END")
    with pytest.raises(sqlite3.Error):
        witness.add(request(0, 7))
    with sqlite3.connect(tmp_path / "seen") as other:
        other.execute("DROP TRIGGER t")
    assert holds(witness.add(request(0, 9)), 9)


def test_two_processes_with_one_state_do_not_cosign_a_fork(tmp_path: Path) -> None:
    one, two = open_witness(tmp_path), open_witness(tmp_path)
    assert holds(one.add(request(0, 7)), 7)
    assert two.add(request(0, 7, OTHER)) == WitnessAnswer(409, b"7\n", SIZE)


def test_at_once_only_one_history_is_cosigned(tmp_path: Path) -> None:
    witnesses = [open_witness(tmp_path) for _ in range(2)]
    seeded = random.Random(1)
    jobs = [(size, tree) for size in range(1, 30) for tree in (TREE, OTHER)]
    seeded.shuffle(jobs)
    cosigned: list[tuple[int, Tree]] = []
    guard = threading.Lock()

    def ask(job: tuple[int, int, Tree]) -> None:
        number, size, tree = job
        witness = witnesses[number % 2]
        answer = witness.add(request(0, size, tree))
        if answer.status == 409:
            old = int(answer.body)
            if old > size:
                return
            answer = witness.add(request(old, size, tree))
        if answer.status == 200:
            with guard:
                cosigned.append((size, tree))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, [(number, *job) for number, job in enumerate(jobs)]))
    assert len({id(tree) for _, tree in cosigned}) == 1 and cosigned


def test_a_further_statement_is_asked_before_anything_is_remembered(tmp_path: Path) -> None:
    says: list[Exception] = [Unavailable("not anchored yet"), Refused("log", "other", "never")]

    def confirm(head: Checkpoint) -> None:
        assert head.size == 20
        if says:
            raise says.pop(0)

    witness = open_witness(tmp_path, confirm=confirm)
    assert [witness.add(request(0, 20)).status for _ in range(3)] == [503, 403, 200]


def test_over_http(witness: Witness) -> None:
    with TestClient(create_app(witness, WITNESS)) as http:
        answer = http.post("/add-checkpoint", content=request(0, 7))
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
        old = http.post("/add-checkpoint", content=request(0, 9))
        assert (old.status_code, old.headers["content-type"]) == (409, SIZE)
        assert http.post("/add-checkpoint", content=bytes(MAX_BODY_BYTES + 1)).status_code == 413
        assert http.get("/add-checkpoint").status_code == 405
        assert http.get("/vkey/", follow_redirects=False).status_code == 404
        assert VerifierKey.from_text(http.get("/vkey").text.strip(), COSIGNATURE) == WITNESS


BAD_LINES: dict[str, Callable[[Signature], Signature]] = {
    "another time": lambda line: _value(line, bytes(8) + line.value[8:]),
    "a time over 2^63": lambda line: _value(line, b"\xff" * 8 + line.value[8:]),
    "a short signature": lambda line: _value(line, line.value[:-1]),
    "a long signature": lambda line: _value(line, line.value + b"\0"),
    "the time alone": lambda line: _value(line, line.value[:8]),
    "a flipped bit": lambda line: _value(line, line.value[:-1] + bytes([line.value[-1] ^ 1])),
}


def _value(line: Signature, value: bytes) -> Signature:
    return Signature(line.name, line.key_id, value)


@pytest.mark.parametrize("spoil", BAD_LINES.values(), ids=BAD_LINES)
def test_a_cosignature_that_does_not_hold(spoil: Callable[[Signature], Signature]) -> None:
    signed = Note.from_bytes(note(7))
    line = cosign(signed.text, name=NAME, key=WITNESS_KEY, now=NOW)
    assert cosigned_at(Note(signed.text, (*signed.signatures, line)), WITNESS) == NOW
    with pytest.raises(NotAuthentic, match="bad-cosignature"):
        cosigned_at(Note(signed.text, (line, spoil(line))), WITNESS)


def test_a_cosignature_is_no_signature_of_a_log() -> None:
    signed = Note.from_bytes(note(7))
    line = cosign(signed.text, name=ORIGIN, key=LOG_KEY, now=NOW)
    with pytest.raises(NotAuthentic):
        Note(signed.text, (line,)).verify(LOG)
    assert cosigned_at(signed, WITNESS) is None
    with pytest.raises(ParseError):
        VerifierKey.from_text(WITNESS.to_text())
    with pytest.raises(ParseError):
        VerifierKey.from_text(LOG.to_text(), COSIGNATURE)


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.integers(0, 8 * len(request(7, 9)) - 1))
def test_a_request_has_one_spelling(data: bytes | int) -> None:
    """Random bytes, and a genuine request with one bit changed."""
    if isinstance(data, int):
        whole = request(7, 9)
        data = (int.from_bytes(whole) ^ 1 << data).to_bytes(len(whole))
    try:
        parsed = AddCheckpoint.from_bytes(data)
    except ParseError:
        return
    assert parsed.to_bytes() == data


def test_a_full_disk_is_not_now_and_nothing_is_remembered(witness: Witness) -> None:
    assert holds(witness.add(request(0, 100)), 100)
    database = witness._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    row = (b"x" * 100_000,)
    with (
        pytest.raises(
            Unavailable, match=r"/seen: the database cannot be used now: database or disk is full"
        ),
        working(witness._path),
    ):
        database.execute("INSERT INTO conflict VALUES (?)", row)
    assert witness.conflicts() == []
    assert holds(witness.add(request(100, 200)), 200)
