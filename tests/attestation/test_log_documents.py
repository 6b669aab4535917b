"""Leaves that no quote stands behind: who may log them, and what an audit makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from attestation.errors import NotAuthentic, ParseError, Refused
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle, bundle_digest
from attestation.formats.retirement import Retirement
from attestation.log.documents import RetireRequest, collateral_leaf
from attestation.log.leaf import COLLATERAL, RELEASE, RETIRE, ZERO, Leaf
from attestation.log.submission import Submission, SubmissionAnswer
from contracts.logservice.database import Sqlite
from contracts.logservice.documents import release_entry
from contracts.logservice.server import create_app
from contracts.logservice.store import Store
from tests.contracts.test_log_server import KEY, ORIGIN, leaf_of, submission

RECEIPT_KEY = Ed25519PrivateKey.from_private_bytes(b"\5" * 32)
MANIFEST = b'{"name": "next"}'


def machine(number: int = 0, boot: int = 1, **changes: object) -> Submission:
    """One whose receipt key is RECEIPT_KEY."""
    made = submission(number, boot=boot, **changes)
    evidence = Evidence.from_bytes(made.evidence)
    key = RECEIPT_KEY.public_key().public_bytes_raw()
    read = KeyBundle.from_bytes(evidence.bundle)
    bundle = dataclasses.replace(read, receipt_key=key, not_before=read.not_before + number)
    whole = dataclasses.replace(evidence, bundle=bundle.to_bytes())
    return dataclasses.replace(made, evidence=whole.to_bytes())


def word(submitted: Submission, key: Ed25519PrivateKey = RECEIPT_KEY) -> Retirement:
    bundle = Evidence.from_bytes(submitted.evidence).bundle
    return Retirement.sign(key, KeyBundle.from_bytes(bundle).boot_id, bundle_digest(bundle))


def only(manifest: bytes) -> None:
    if manifest != MANIFEST:
        raise Refused("registry", "unlisted", "not in the Registry")


class Log:
    def __init__(self, store: Store) -> None:
        self.store = store
        store.append([release_entry(b"first")])
        self.http = TestClient(create_app(store, admit=leaf_of, admit_release=only))

    def post(self, path: str, body: bytes) -> SubmissionAnswer | tuple[int, str]:
        answer = self.http.post(f"/log/{path}", content=body)
        if answer.status_code == 200:
            return SubmissionAnswer.from_bytes(answer.content)
        return answer.status_code, answer.json()["error"]["code"]

    def submit(self, submitted: Submission) -> SubmissionAnswer | tuple[int, str]:
        return self.post("submit", submitted.to_bytes())

    def retire(self, previous: int, word: Retirement) -> SubmissionAnswer | tuple[int, str]:
        return self.post("retire", RetireRequest(previous, word.to_bytes()).to_bytes())

    def leaf(self, index: int) -> Leaf:
        return Leaf.from_bytes(self.store.leaf(index) or b"")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Store(Sqlite(tmp_path), origin=ORIGIN, key=KEY) as store:
        log = Log(store)
        with log.http:
            yield log


def index_of(answer: SubmissionAnswer | tuple[int, str]) -> int:
    assert isinstance(answer, SubmissionAnswer), answer
    return answer.index


def test_each_collateral_set_has_one_leaf(log: Log) -> None:
    for number in range(3):
        index_of(log.submit(machine(number, boot=number)))
    other = Collateral({"intel/tcb_info": b"newer"})
    index_of(log.submit(machine(3, boot=3, collateral=other.to_bytes())))
    kinds = [log.leaf(index).kind for index in range(log.store.size)]
    assert kinds == [RELEASE, 1, COLLATERAL, 1, 1, 1, COLLATERAL]
    leaf = log.leaf(6)
    assert leaf.collateral_digest == other.manifest_digest()
    manifest = log.store.blob(leaf.evidence_digest)
    assert manifest == other.manifest_bytes() and collateral_leaf(manifest) == leaf
    assert log.store.blob(sha256(b"newer")) == b"newer"


def test_a_release_needs_somebody_who_says_that_it_is_one(log: Log, tmp_path: Path) -> None:
    index = index_of(log.post("release", MANIFEST))
    assert log.leaf(index).kind == RELEASE and log.leaf(index).evidence_digest == sha256(MANIFEST)
    assert index_of(log.post("release", MANIFEST)) == index
    assert log.post("release", b"another") == (403, "unlisted")
    assert log.post("release", b"") == (400, "malformed")
    assert log.post("release", bytes(65_536)) == (403, "unlisted")
    assert log.post("release", bytes(65_537)) == (400, "malformed")
    with (
        Store(Sqlite(tmp_path / "b"), origin=ORIGIN, key=KEY) as store,
        TestClient(create_app(store, admit=leaf_of)) as closed,
    ):
        assert closed.post("/log/release", content=MANIFEST).status_code == 403


def test_a_boot_retires_by_its_own_word_once(log: Log) -> None:
    submitted = machine()
    last = index_of(log.submit(submitted))
    index = index_of(log.retire(last, word(submitted)))
    leaf, logged = log.leaf(index), log.leaf(last)
    assert (leaf.kind, leaf.previous, leaf.bundle_digest) == (RETIRE, last, logged.bundle_digest)
    assert (leaf.platform, leaf.measurement_digest) == (logged.platform, logged.measurement_digest)
    assert (leaf.statement, leaf.beacon) == (ZERO, (0, ZERO))
    assert index_of(log.retire(last, word(submitted))) == index


def test_a_boot_that_retired_gets_no_leaf_any_more(log: Log) -> None:
    submitted = machine()
    last = index_of(log.submit(submitted))
    index_of(log.retire(last, word(submitted)))
    assert log.submit(machine(9)) == (403, "retired")
    assert log.submit(machine(9, kind=2, previous=last)) == (403, "retired")
    assert index_of(log.submit(submitted)) == last  # asked again, answered as before
    index_of(log.submit(machine(9, boot=2)))


Spoil = Callable[[Log, Submission, int], SubmissionAnswer | tuple[int, str]]
BAD_WORDS: dict[str, tuple[Spoil, tuple[int, str]]] = {
    "another key": (
        lambda log, s, at: log.retire(at, word(s, Ed25519PrivateKey.generate())),
        (422, "bad-retirement"),
    ),
    "another boot": (
        lambda log, s, at: log.retire(at, word(machine(boot=2))),
        (403, "other-boot"),
    ),
    "another bundle of the boot": (
        lambda log, s, at: log.retire(at, word(machine(5))),
        (403, "other-boot"),
    ),
    "signature of another boot": (
        lambda log, s, at: log.retire(
            at, dataclasses.replace(word(s), signature=word(machine(boot=2)).signature)
        ),
        (422, "bad-retirement"),
    ),
    "after a release": (lambda log, s, at: log.retire(0, word(s)), (403, "unknown-previous")),
    "after a collateral set": (
        lambda log, s, at: log.retire(2, word(s)),
        (403, "unknown-previous"),
    ),
    "after nothing": (lambda log, s, at: log.retire(99, word(s)), (403, "unknown-previous")),
    "no request": (lambda log, s, at: log.post("retire", b"x"), (400, "malformed")),
    "no retirement": (
        lambda log, s, at: log.post("retire", RetireRequest(at, b"x").to_bytes()),
        (400, "malformed"),
    ),
}


@pytest.mark.parametrize(("spoil", "refusal"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_word_that_is_not_the_enclaves_is_refused(
    log: Log, spoil: Spoil, refusal: tuple[int, str]
) -> None:
    submitted = machine()
    index_of(log.submit(submitted))
    size = log.store.size
    assert spoil(log, submitted, 1) == refusal
    assert log.store.size == size


GOOD = word(machine()).to_bytes()
NOT_ONE = {
    "version 2": cbor.encode({**cbor.decode(GOOD), 0: 2}),
    "version true": cbor.encode({**cbor.decode(GOOD), 0: True}),
    "short boot id": cbor.encode({**cbor.decode(GOOD), 1: bytes(15)}),
    "long digest": cbor.encode({**cbor.decode(GOOD), 2: bytes(33)}),
    "short signature": cbor.encode({**cbor.decode(GOOD), 3: bytes(63)}),
    "text": cbor.encode({**cbor.decode(GOOD), 3: "x" * 64}),
    "critical key": cbor.encode({**cbor.decode(GOOD), -1: 0}),
    "trailing byte": GOOD + b"\0",
    "nothing": b"",
}


@pytest.mark.parametrize("data", NOT_ONE.values(), ids=NOT_ONE)
def test_what_is_not_exactly_a_retirement(data: bytes) -> None:
    with pytest.raises(ParseError):
        Retirement.from_bytes(data)


@given(st.binary(max_size=400) | st.integers(0, 8 * len(GOOD) - 1))
def test_no_other_bytes_are_the_enclaves_word(data: bytes | int) -> None:
    """Random bytes, and the genuine ones with one bit changed."""
    if isinstance(data, int):
        data = (int.from_bytes(GOOD) ^ 1 << data).to_bytes(len(GOOD))
    genuine = word(machine())
    try:
        found = Retirement.from_bytes(data)
        found.check(RECEIPT_KEY.public_key().public_bytes_raw())
    except (ParseError, NotAuthentic):
        return
    assert found == genuine


BAD_REQUESTS = {
    "version 2": {0: 2, 1: 7, 2: b"word"},
    "version true": {0: True, 1: 7, 2: b"word"},
    "index in text": {0: 1, 1: "7", 2: b"word"},
    "index below zero": {0: 1, 1: -1, 2: b"word"},
    "index of 64 bits": {0: 1, 1: 2**63, 2: b"word"},
    "retirement in text": {0: 1, 1: 7, 2: "word"},
}


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_retirement_request_of_another_form(fields: dict[int, object]) -> None:
    with pytest.raises(ParseError):
        RetireRequest.from_bytes(cbor.encode(fields))


@pytest.mark.parametrize("index", [0, 2**63 - 1])
def test_a_retirement_request_comes_back(index: int) -> None:
    request = RetireRequest(index, b"word")
    assert RetireRequest.from_bytes(request.to_bytes()) == request


BAD_MANIFESTS = {
    "list": [bytes(32)],
    "name that is no text": {1: bytes(32)},
    "digest in text": {"a": "0" * 32},
    "digest of 31 bytes": {"a": bytes(31)},
    "digest of 33 bytes": {"a": bytes(33)},
    "one bad of two": {"a": bytes(32), "b": bytes(31)},
}


@pytest.mark.parametrize("fields", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_collateral_manifest_of_another_form(fields: object) -> None:
    with pytest.raises(ParseError):
        collateral_leaf(cbor.encode(fields))
