"""A log and its witnesses over HTTP: what they cosign is served, what they do costs it nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from attestation.errors import LogError, ParseError, Refused, UmayError, Unavailable, UsageError
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosigned_at
from attestation.log.note import COSIGNATURE, Note, VerifierKey
from attestation.log.proof import Proof, verify_proof
from attestation.trust.anchor import Anchor
from contracts.logservice.database import Sqlite
from contracts.logservice.opening import witnessing
from contracts.logservice.server import create_app
from contracts.logservice.store import Entry, Store
from contracts.logservice.witness import SIZE, Witness
from contracts.logservice.witness_server import create_app as witness_app
from contracts.logservice.witnessing import (
    REFRESH_SECONDS,
    RemoteWitness,
    Witnessing,
    only_anchored,
    parse_followed,
    parse_witness,
)
from tests.helpers.host_parts import Service
from tests.helpers.waiting import HANG_S

ORIGIN = "localhost/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
LOG = VerifierKey(ORIGIN, KEY.public_key().public_bytes_raw())


class Observer:
    """A witness service."""

    def __init__(self, directory: Path, name: str, **more: object) -> None:
        key = Ed25519PrivateKey.generate()
        self.key = VerifierKey(name, key.public_key().public_bytes_raw(), COSIGNATURE)
        logs = {ORIGIN: LOG}
        self.witness = Witness(directory / name, name=name, key=key, logs=logs, **more)  # type: ignore[arg-type]
        self.service = Service(witness_app(self.witness, self.key))

    def peer(self) -> RemoteWitness:
        return RemoteWitness(self.service.url, self.key)

    def close(self) -> None:
        self.service.stop()
        self.witness.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(Sqlite(tmp_path / "log"), origin=ORIGIN, key=KEY) as store:
        grow(store, 5)
        yield store


@pytest.fixture
def observers(tmp_path: Path) -> Iterator[list[Observer]]:
    observers = [Observer(tmp_path, f"w{number}") for number in range(2)]
    yield observers
    for observer in observers:
        observer.close()


def grow(store: Store, by: int) -> None:
    at = store.size
    store.append([Entry(b"%d" % n, b"leaf %d" % n) for n in range(at, at + by)])


def names(note: bytes, *observers: Observer) -> list[str]:
    """Of the observers that cosigned it, checked."""
    signed = Note.from_bytes(note)
    checkpoints.verify(note, origin=ORIGIN, log_key=LOG.public_key)
    return [o.key.name for o in observers if cosigned_at(signed, o.key) is not None]


def test_each_new_checkpoint_is_cosigned_and_served(
    store: Store, observers: list[Observer]
) -> None:
    watched = Witnessing(store, [o.peer() for o in observers])
    log = Service(create_app(store, admit=None, witnesses=watched))  # type: ignore[arg-type]
    try:
        assert requests.get(f"{log.url}/log/cosigned", timeout=HANG_S).status_code == 404
        for by in (0, 1, 300):
            grow(store, by)
            watched.step()
            for path in ("checkpoint", "cosigned"):
                note = requests.get(f"{log.url}/log/{path}", timeout=HANG_S).content
                assert checkpoints.parse(note)[0].size == store.size
                assert names(note, *observers) == ["w0", "w1"]
            plain = requests.get(f"{log.url}/log/checkpoint/{store.size}", timeout=HANG_S).content
            assert plain == store.checkpoint  # immutable
    finally:
        log.stop()


def test_a_witness_that_knows_the_log_already_says_from_where(
    store: Store, observers: list[Observer]
) -> None:
    Witnessing(store, [observers[0].peer()]).step()
    grow(store, 4)
    watched = Witnessing(store, [observers[0].peer()])  # started anew: it knows no size
    watched.step()
    assert names(watched.cosigned(store.checkpoint), *observers) == ["w0"]


def test_a_checkpoint_that_is_cosigned_is_not_offered_again(
    store: Store, observers: list[Observer]
) -> None:
    watched = Witnessing(store, [observers[0].peer()])
    watched.step()
    first = watched.cosigned(store.checkpoint)
    observers[0].close()
    watched.step()
    assert watched.cosigned(store.checkpoint) == first


def test_a_cosignature_is_asked_for_again_before_it_is_old(
    store: Store, observers: list[Observer]
) -> None:
    late = time.time() + REFRESH_SECONDS + 60
    observers[0].witness._clock = lambda: late
    watched = Witnessing(store, [o.peer() for o in observers], clock=lambda: late)
    watched.step()
    first = Note.from_bytes(watched.cosigned(store.checkpoint))
    observers[1].witness._clock = lambda: late + 1
    watched.step()
    again = Note.from_bytes(watched.cosigned(store.checkpoint))
    assert cosigned_at(again, observers[0].key) == cosigned_at(first, observers[0].key)
    assert cosigned_at(again, observers[1].key) == int(late + 1)
    assert len(again.signatures) == len(first.signatures) == 3


def test_enough_of_them_make_a_checkpoint_cosigned(store: Store, observers: list[Observer]) -> None:
    down = RemoteWitness("http://127.0.0.1:9", observers[1].key)
    watched = Witnessing(store, [down, observers[0].peer()], enough=1)
    with pytest.raises(Unavailable):
        watched.step()
    assert names(watched.newest() or b"", *observers) == ["w0"]


def test_more_cosignatures_than_witnesses_are_never_enough(store: Store) -> None:
    with pytest.raises(UsageError, match="--enough: expected at most the number of witnesses, 0"):
        witnessing(store, (), 1)
    assert witnessing(store, (), None) is None


def test_the_proof_and_the_checkpoint_of_a_size_bear_what_came_by_then(
    store: Store, observers: list[Observer]
) -> None:
    watched = Witnessing(store, [o.peer() for o in observers])
    log = Service(create_app(store, admit=None, witnesses=watched))  # type: ignore[arg-type]
    plain = Service(create_app(store, admit=None))  # type: ignore[arg-type]
    try:
        for expected in ([], ["w0", "w1"]):
            proof = requests.get(f"{log.url}/log/proof?index=2&size=5", timeout=HANG_S)
            assert names(Proof.from_bytes(proof.content).checkpoint, *observers) == expected
            verify_proof(proof.content, origin=ORIGIN, log_key=LOG.public_key)
            assert "immutable" not in proof.headers["cache-control"]
            note = requests.get(f"{log.url}/log/cosigned/5", timeout=HANG_S).content
            assert names(note, *observers) == expected
            watched.step()
        assert requests.get(f"{log.url}/log/cosigned/4", timeout=HANG_S).status_code == 404
        unwitnessed = requests.get(f"{plain.url}/log/proof?index=2&size=5", timeout=HANG_S)
        assert "immutable" in unwitnessed.headers["cache-control"]
    finally:
        log.stop()
        plain.stop()


def test_one_that_is_down_costs_nothing(store: Store, observers: list[Observer]) -> None:
    down = RemoteWitness("http://127.0.0.1:9", observers[1].key)
    watched = Witnessing(store, [down, observers[0].peer()])
    with pytest.raises(Unavailable, match="w1"):
        watched.step()
    assert names(watched.cosigned(store.checkpoint), *observers) == ["w0"]
    assert watched.newest() is None  # not all of them
    down.url = observers[1].service.url
    watched.step()
    assert names(watched.newest() or b"", *observers) == ["w0", "w1"]


def test_one_that_waits_is_offered_the_same_until_it_answers(store: Store, tmp_path: Path) -> None:
    sizes: list[int] = []

    def not_yet(head: Checkpoint) -> None:
        sizes.append(head.size)
        if len(sizes) < 3:
            raise Unavailable("not anchored yet")

    slow = Observer(tmp_path, "slow", confirm=not_yet)
    watched = Witnessing(store, [slow.peer()])
    for _ in range(2):
        with pytest.raises(Unavailable):
            watched.step()
        grow(store, 1)
    watched.step()
    assert sizes == [5, 5, 5]
    newest = watched.newest()
    assert newest is not None and checkpoints.parse(newest)[0].size == 5
    watched.step()
    assert sizes[-1] == 7
    slow.close()


BAD_ANSWERS: dict[str, tuple[int, bytes, str]] = {
    "nothing": (200, b"", "text/plain"),
    "no line": (200, b"hello\n", "text/plain"),
    "another's line": (
        200,
        Note.from_bytes(checkpoints.sign(Checkpoint(ORIGIN, 1, bytes(32)), key=KEY))
        .signatures[0]
        .to_line()
        .encode(),
        "text/plain",
    ),
    "a spoilt line": (200, b"SPOILT", "text/plain"),
    "a redirect": (302, b"", "text/plain"),
    "a size that is none": (409, b"many\n", SIZE),
    "the same size for ever": (409, b"3\n", SIZE),
    "a size beyond the log": (409, b"99\n", SIZE),
    "a conflict without a size": (409, b"", "text/plain"),
    "no text": (200, b"\xff" * 100, "text/plain"),
    "without end": (200, b"\xe2\x80\x94 w0 AAAA\n" * 100_000, "text/plain"),
    "an error": (500, b"", "text/plain"),
}


@pytest.mark.parametrize(("status", "body", "media"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_witness_that_answers_wrongly_costs_nothing(
    store: Store, observers: list[Observer], status: int, body: bytes, media: str
) -> None:
    key = observers[0].key
    if body == b"SPOILT":
        blob = key.key_id + bytes(72)
        import base64

        body = f"\u2014 {key.name} {base64.b64encode(blob).decode()}\n".encode()

    async def answer(_: object) -> Response:
        return Response(body, status, {"content-type": media, "location": "http://127.0.0.1:9"})

    service = Service(Starlette(routes=[Route("/add-checkpoint", answer, methods=["POST"])]))
    watched = Witnessing(store, [RemoteWitness(service.url, key)])
    try:
        with pytest.raises(UmayError):
            watched.step()
        assert watched.cosigned(store.checkpoint) == store.checkpoint
    finally:
        service.stop()


# The TON witness


def anchor_of(store: Store, size: int, **changes: object) -> Anchor:
    anchor = Anchor(
        network="",
        address="0:" + "ab" * 32,
        code_hash=bytes(32),
        origin=ORIGIN,
        log_key=LOG.public_key,
        sequence=1,
        size=size,
        root=store.root(size),
        time=1,
        forked=False,
        read_at=2,
        level="reported",
    )
    return dataclasses.replace(anchor, **changes)


@pytest.fixture
def served(store: Store) -> Iterator[str]:
    grow(store, 10)
    log = Service(create_app(store, admit=None))  # type: ignore[arg-type]
    yield f"{log.url}/log"
    log.stop()


def head_of(store: Store, size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, store.root(size))


@pytest.mark.parametrize("size", [1, 4, 8, 12])
def test_what_is_anchored_or_continued_by_it_is_confirmed(
    store: Store, served: str, size: int
) -> None:
    only_anchored(lambda: anchor_of(store, 12), served)(head_of(store, size))


NOT_ANCHORED: dict[
    str, tuple[dict[str, object], Callable[[Store], Checkpoint], type[UmayError]]
] = {
    "not yet": ({}, lambda s: head_of(s, 13), Unavailable),
    "another tree of the size": ({}, lambda s: Checkpoint(ORIGIN, 12, bytes(32)), LogError),
    "another smaller tree": ({}, lambda s: Checkpoint(ORIGIN, 7, bytes(32)), LogError),
    "forked": ({"forked": True}, lambda s: head_of(s, 12), Refused),
    "forked, of a smaller tree": ({"forked": True}, lambda s: head_of(s, 4), Refused),
    "another log's contract, of a smaller tree": (
        {"origin": "other"},
        lambda s: head_of(s, 4),
        Refused,
    ),
    "another log's contract": ({"origin": "other"}, lambda s: head_of(s, 12), Refused),
}


@pytest.mark.parametrize(("changes", "head", "error"), NOT_ANCHORED.values(), ids=NOT_ANCHORED)
def test_what_is_not_anchored_is_not_confirmed(
    store: Store,
    served: str,
    changes: dict[str, object],
    head: Callable[[Store], Checkpoint],
    error: type[UmayError],
) -> None:
    with pytest.raises(error) as caught:
        only_anchored(lambda: anchor_of(store, 12, **changes), served)(head(store))
    if isinstance(caught.value, Refused):
        assert (caught.value.step, caught.value.code) == ("log", "other-log")


# The commands


@pytest.mark.parametrize(
    ("url", "vkey"),
    [("ftp://w", "x"), ("http://127.0.0.1:9", "x"), ("http://127.0.0.1:9", LOG.to_text())],
    ids=["no http", "no key", "a log's key"],
)
def test_a_witness_that_is_none(url: str, vkey: str) -> None:
    with pytest.raises(UsageError):
        parse_witness(url, vkey)


class Command:
    def __init__(self, directory: Path, *words: str) -> None:
        command = [sys.executable, "-m", "client_sdk", "log", *words]
        self.process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.mark.e2e
def test_log_and_witness_by_their_commands(tmp_path: Path) -> None:
    from contracts.logservice.store import load_or_create_key
    from tests.helpers.host_parts import wait_for

    key = load_or_create_key(tmp_path / "log.key", origin=ORIGIN)
    vkey = VerifierKey(ORIGIN, key.public_key().public_bytes_raw()).to_text()
    (tmp_path / "release").write_bytes(b"manifest")
    seen = Command(
        tmp_path,
        "witness",
        "--state",
        "seen",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "w.example",
        "--key",
        "w.key",
        "--follow",
        vkey,
    )
    log = Command(
        tmp_path,
        "serve",
        "--dir",
        "log",
        "--listen",
        "127.0.0.1:0",
        "--origin",
        ORIGIN,
        "--key",
        "log.key",
        "--policy",
        "none",
        "--chain",
        "http://127.0.0.1:9",
        "--release",
        "release",
        "--witness",
        seen.ready["listening"],
        seen.ready["vkey"],
    )
    try:
        witness = VerifierKey.from_text(seen.ready["vkey"], COSIGNATURE)
        url = f"{log.ready['listening']}/cosigned"
        wait_for(lambda: requests.get(url, timeout=HANG_S).status_code == 200)
        note = Note.from_bytes(requests.get(url, timeout=HANG_S).content)
        assert cosigned_at(note, witness) is not None
    finally:
        log.end()
        seen.end()


def test_a_ton_witness_needs_all_three(tmp_path: Path) -> None:
    words = ["witness", "--state", "s", "--listen", "127.0.0.1:0", "--name", "w", "--key", "k"]
    command = [sys.executable, "-m", "client_sdk", "log", *words, "--follow", LOG.to_text()]
    done = subprocess.run(
        [*command, "--contract", "0:" + "ab" * 32],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 2 and "--chain" in done.stderr
    assert not os.listdir(tmp_path)


def test_a_followed_key_that_is_none_is_named() -> None:
    assert parse_followed(LOG.to_text()) == LOG
    with pytest.raises(ParseError, match=r"^--follow log\.example\+abc: note key: expected"):
        parse_followed("log.example+abc")
