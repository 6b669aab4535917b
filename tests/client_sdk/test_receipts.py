"""Receipts that are kept, shown to others, and checked by them without a network."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel import bhttp
from attestation.errors import NotAuthentic, ParseError, UmayError, UsageError
from attestation.formats import receipt_cose
from attestation.formats.evidence import evidence_digest
from attestation.formats.receipt import Receipt, amount_of, salted_hash
from attestation.trust.roots import PRODUCTION
from client_sdk.auditing.proof_file import EnclaveProof
from client_sdk.auditing.proving import HERE, NOT_SHOWN, prove
from client_sdk.commands.cli import client
from client_sdk.disclosure import DisclosedReceipt, Opened
from client_sdk.inspection.files import inspect
from client_sdk.inspection.result import MAX_FILE_BYTES, CheckInputs, InspectionResult, exit_code
from client_sdk.receipt_store import ReceiptStore
from client_sdk.receipts.checking import LONGEST_ANSWER_S, CoseReceipt, check, check_alone, read
from tests.client_sdk.test_audit_prove import single
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.helpers.fake_enclave import FakeClient, FakeEnclave
from tests.helpers.world import NOW, World

KEY = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
QUESTION, ANSWER = "the private question", "the private answer"
REQUEST = bhttp.encode_request(
    bhttp.Request("POST", "/v1/chat/completions", (), json.dumps({"q": QUESTION}).encode())
)
CONTENT = f'data: "{ANSWER}"\n\n: \n\n'.encode()
SALTS = b"\x11" * 32, b"\x22" * 32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = start(tmp_path_factory.mktemp("simulator"))
    receipt_key = KEY.public_key().public_bytes_raw()
    made.bundle = dataclasses.replace(made.bundle, receipt_key=receipt_key)
    made.evidence = made.prove(made.bundle)
    return made


@pytest.fixture(scope="module")
def proof(world: World) -> EnclaveProof:
    return prove(single(Net(world, [RELEASE, boot(world, release=0)], world.presented(), []), 1))


def signed(world: World, key: Ed25519PrivateKey = KEY, **changes: Any) -> DisclosedReceipt:
    """What a client of this enclave keeps."""
    tokens = (5, 0, 3, 0)
    receipt = Receipt(
        evidence_digest=evidence_digest(world.evidence.to_bytes()),
        model_digest=world.bundle.model_digest,
        request_hash=salted_hash(SALTS[0], REQUEST),
        response_hash=salted_hash(SALTS[1], CONTENT),
        finish_reason="stop",
        tokens=tokens,
        price_digest=world.bundle.price_digest,
        amount=amount_of(json.loads(world.price), tokens),
        time=(world.bundle.not_before // 60 + 1) * 60,
        sequence=7,
    )
    whole = dataclasses.replace(receipt, **changes).sign(key)
    return DisclosedReceipt(
        whole,
        key.public_key().public_bytes_raw(),
        Opened(SALTS[0], REQUEST),
        Opened(SALTS[1], CONTENT),
        receipt_cose.sign(whole.body, key),
    )


@pytest.fixture
def kept(world: World) -> DisclosedReceipt:
    return signed(world)


@pytest.fixture
def store(tmp_path: Path, kept: DisclosedReceipt) -> ReceiptStore:
    found = ReceiptStore(tmp_path / "receipts")
    found.add(kept)
    return found


# Keeping


def test_a_receipt_is_kept_for_its_owner_alone(store: ReceiptStore, tmp_path: Path) -> None:
    place = tmp_path / "receipts"
    (path,) = place.iterdir()
    assert place.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stem == store.ids()[0]


def test_the_same_receipt_twice_is_kept_once(store: ReceiptStore, kept: DisclosedReceipt) -> None:
    assert store.add(kept) == store.add(kept) == kept.id
    assert store.ids() == [kept.id]
    assert store.get(kept.id[:4]) == store.get(kept.id) == kept


TAKEN: dict[str, Callable[[DisclosedReceipt], bytes]] = {
    "half of it": lambda kept: kept.to_bytes()[:100],
    "nothing": lambda kept: b"",
    "the same without its texts": lambda kept: kept.showing(
        request=False, response=False
    ).to_bytes(),
}


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN)
def test_a_receipt_whose_place_is_taken_is_not_said_to_be_kept(
    store: ReceiptStore,
    tmp_path: Path,
    kept: DisclosedReceipt,
    content: Callable[[DisclosedReceipt], bytes],
) -> None:
    path = tmp_path / "receipts" / f"{kept.id}.receipt"
    path.write_bytes(content(kept))
    with pytest.raises((UsageError, ParseError), match=kept.id):
        store.add(kept)


def test_a_link_in_the_place_of_a_receipt_is_not_followed(
    store: ReceiptStore, tmp_path: Path, kept: DisclosedReceipt
) -> None:
    path = tmp_path / "receipts" / f"{kept.id}.receipt"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    for use in (lambda: store.add(kept), lambda: store.get(kept.id)):
        with pytest.raises(UsageError, match="symbolic link"):
            use()


def test_a_directory_that_others_can_write_is_refused(
    tmp_path: Path, kept: DisclosedReceipt
) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(UsageError, match="mode 0700"):
        ReceiptStore(place).add(kept)


def test_a_receipt_that_others_can_read_is_refused(
    store: ReceiptStore, tmp_path: Path, kept: DisclosedReceipt
) -> None:
    (tmp_path / "receipts" / f"{kept.id}.receipt").chmod(0o644)
    with pytest.raises(UsageError, match="others could read it"):
        store.get(kept.id)


@pytest.mark.parametrize("begin", ["", "abc", "ABCD", "../x", "00000", "g" * 8, "0" * 33])
def test_an_id_that_is_none(store: ReceiptStore, begin: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        store.get(begin)


def test_an_id_of_two_receipts_names_none(store: ReceiptStore, tmp_path: Path) -> None:
    begin = store.ids()[0][:6]
    (tmp_path / "receipts" / f"{begin}{'0' * 26}.receipt").write_bytes(b"")
    with pytest.raises(UsageError, match="got 2"):
        store.get(begin)


def test_a_receipt_under_another_id_is_refused(store: ReceiptStore, tmp_path: Path) -> None:
    (path,) = (tmp_path / "receipts").iterdir()
    path.rename(path.with_stem("0" * 32))
    with pytest.raises(ParseError, match="expected the receipt 0000"):
        store.get("0000")


def test_where_nothing_is_kept_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        ReceiptStore(tmp_path / "no").ids()


# Checking


def parts(kept: DisclosedReceipt) -> dict[str, DisclosedReceipt | CoseReceipt]:
    assert kept.cose is not None
    return {
        "all": kept,
        "the request": kept.showing(request=True, response=False),
        "the answer": kept.showing(request=False, response=True),
        "nothing": kept.showing(request=False, response=False),
        "COSE": CoseReceipt(kept.signed.body, kept.cose),
    }


@pytest.mark.parametrize("shown", ["all", "the request", "the answer", "nothing", "COSE"])
def test_anybody_can_check_what_is_shown(
    world: World, proof: EnclaveProof, kept: DisclosedReceipt, shown: str
) -> None:
    checked = check(parts(kept)[shown], proof, world.policy)
    assert checked.exit_code == 0, checked.verdict
    rests = {statement.text: statement.rests_on for statement in checked.statements}
    assert rests["the enclave of log entry 1 signed the receipt"] == HERE
    told = "the request in the file is the one of the receipt"
    assert (rests.get(told) == HERE) == (shown in ("all", "the request"))


def test_without_a_proof_it_is_incomplete(kept: DisclosedReceipt) -> None:
    for shown in parts(kept).values():
        checked = check_alone(shown)
        assert checked.exit_code == 6 and "incomplete" in checked.verdict
        assert checked.statements[-1].rests_on.startswith("the holder's word")
    assert check_alone(parts(kept)["COSE"]).statements[0].rests_on == NOT_SHOWN


REFUSED: dict[str, tuple[Callable[[World], DisclosedReceipt], str]] = {
    "another evidence": (lambda w: signed(w, evidence_digest=b"\x01" * 32), "other-evidence"),
    "another model": (lambda w: signed(w, model_digest=b"\x01" * 32), "other-model"),
    "another price": (lambda w: signed(w, price_digest=b"\x01" * 32), "other-price"),
    "another amount": (lambda w: signed(w, amount=12), "other-amount"),
    "another key": (lambda w: signed(w, Ed25519PrivateKey.generate()), "other-key"),
    "before its keys": (
        lambda w: signed(w, time=(w.bundle.not_before // 60 - 2) * 60),
        "out-of-time",
    ),
    "after its keys": (
        lambda w: signed(w, time=((w.bundle.not_after + LONGEST_ANSWER_S) // 60 + 1) * 60),
        "out-of-time",
    ),
    "another answer": (
        lambda w: dataclasses.replace(signed(w), response=Opened(SALTS[1], b"x")),
        "other-response",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_this_enclave_is_refused(
    world: World, proof: EnclaveProof, name: str
) -> None:
    make, code = REFUSED[name]
    with pytest.raises(NotAuthentic) as refused:
        check(make(world), proof, world.policy)
    assert (refused.value.step, refused.value.code) == ("receipt", code)


def test_a_cose_receipt_of_another_key_is_refused(world: World, proof: EnclaveProof) -> None:
    other = signed(world, Ed25519PrivateKey.generate())
    assert other.cose is not None
    with pytest.raises(NotAuthentic, match="bad-cose-signature"):
        check(CoseReceipt(other.signed.body, other.cose), proof, world.policy)


@pytest.mark.parametrize("late", [0, 3000])
def test_an_answer_may_end_after_its_epoch(world: World, proof: EnclaveProof, late: int) -> None:
    time = (world.bundle.not_after + late) // 60 * 60
    assert check(signed(world, time=time), proof, world.policy).exit_code == 0


def test_a_proof_that_the_policy_refuses_does_not_hold(
    world: World, proof: EnclaveProof, kept: DisclosedReceipt
) -> None:
    strict = dataclasses.replace(world.policy, models=(("other", b"\x01" * 32),))
    checked = check(kept, proof, strict)
    assert checked.exit_code == 1
    rests = {statement.text: statement.rests_on for statement in checked.statements}
    assert rests["the enclave of log entry 1 signed the receipt"] == NOT_SHOWN


def test_both_files_are_read(kept: DisclosedReceipt) -> None:
    assert kept.cose is not None
    assert read(kept.to_bytes()) == kept
    cose = read(receipt_cose.encode(kept.signed.body, kept.cose))
    assert isinstance(cose, CoseReceipt) and cose.id == kept.id
    for junk in (b"", b"\xd2", b"\xa0", b"{}"):
        with pytest.raises(ParseError):
            read(junk)


# Commands


@pytest.fixture
def run(
    store: ReceiptStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def ran(command: str, *words: str) -> Result:
        words = (command, *words, "--receipts", "receipts")
        return CliRunner().invoke(client, ["receipts", *words])

    return ran


Run = Callable[..., Result]


def code(result: Result) -> int:
    error = result.exception
    return error.exit_code if isinstance(error, UmayError) else result.exit_code


def test_the_list_says_nothing_of_the_texts(run: Run, kept: DisclosedReceipt) -> None:
    result = run("list")
    assert code(result) == 0 and kept.id[:16] in result.output
    assert QUESTION not in result.output and ANSWER not in result.output
    (line,) = json.loads(run("list", "--json").output)
    assert line["id"] == kept.id and line["tokens"]["prompt"] == 5


def test_a_damaged_receipt_is_named_and_the_others_are_listed(
    run: Run, kept: DisclosedReceipt
) -> None:
    Path("receipts", f"{'0' * 32}.receipt").write_bytes(b"junk")
    Path("receipts", f"{'0' * 32}.receipt").chmod(0o600)
    result = run("list")
    assert code(result) == 3 and kept.id[:16] in result.output
    assert f"{'0' * 32}.receipt: CBOR" in result.output


SPOILED: dict[str, Callable[[Path, DisclosedReceipt], object]] = {
    "changed": lambda path, kept: path.write_bytes(
        dataclasses.replace(kept, response=Opened(SALTS[1], b"another")).to_bytes()
    ),
    "read by others": lambda path, kept: path.chmod(0o644),
    "a link": lambda path, kept: os.symlink(path.rename("x").absolute(), path),
    "a file of another name": lambda path, kept: path.rename(path.with_stem("notes")),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_one_receipt_that_cannot_be_used_does_not_hide_the_others(
    run: Run, world: World, spoil: Callable[[Path, DisclosedReceipt], object]
) -> None:
    other = signed(world, sequence=9)
    ReceiptStore(Path("receipts")).add(other)
    spoil(Path("receipts", f"{other.id}.receipt"), other)
    result = run("list", "--json")
    (line,) = json.loads(result.stdout)
    assert code(result) == 3 and line["sequence"] == 7 and result.stderr


def test_texts_are_printed_when_they_are_asked_for(run: Run, kept: DisclosedReceipt) -> None:
    assert QUESTION not in run("show", kept.id).output
    told = run("show", kept.id, "--text").output
    assert QUESTION in told and ANSWER in told and "POST /v1/chat/completions" in told
    assert json.loads(run("show", kept.id, "--json").output)["sequence"] == 7


def test_a_terminal_is_not_commanded_by_an_answer(run: Run, world: World) -> None:
    content = b"data: \x1b]0;title\x07\x9b31m\n\n"
    shown = dataclasses.replace(
        signed(world, response_hash=salted_hash(SALTS[1], content)),
        response=Opened(SALTS[1], content),
    )
    ReceiptStore(Path("receipts")).add(shown)
    told = run("show", shown.id, "--text").output
    assert "title" in told and "\x1b" not in told and "\x07" not in told


@pytest.mark.parametrize("words", [[], ["--request"], ["--answer"], ["--request", "--answer"]])
def test_what_is_disclosed_is_what_was_chosen(
    run: Run, kept: DisclosedReceipt, words: list[str]
) -> None:
    result = run("disclose", kept.id[:8], *words, "--out", "shown")
    assert code(result) == 0, result.output
    data = Path("shown").read_bytes()
    assert (QUESTION.encode() in data) == ("--request" in words) == (SALTS[0] in data)
    assert (ANSWER.encode() in data) == ("--answer" in words) == (SALTS[1] in data)
    assert Path("shown").stat().st_mode & 0o777 == 0o600
    assert code(run("verify", "shown")) == 6


@pytest.mark.parametrize("command", ["disclose", "export"])
def test_what_is_written_over_a_file_is_for_its_owner_too(
    run: Run, kept: DisclosedReceipt, command: str
) -> None:
    Path("shown").write_bytes(b"x" * 100_000)
    Path("shown").chmod(0o644)
    assert code(run(command, kept.id, "--out", "shown")) == 0
    assert Path("shown").stat().st_mode & 0o777 == 0o600
    assert code(run("verify", "shown")) == 6


@pytest.mark.parametrize("command", ["disclose", "export"])
def test_a_kept_receipt_that_does_not_hold_is_not_passed_on(
    run: Run, world: World, command: str
) -> None:
    forged = dataclasses.replace(signed(world, sequence=9), response=Opened(SALTS[1], b"another"))
    ReceiptStore(Path("receipts")).add(forged)
    result = run(command, forged.id, "--out", "shown")
    assert code(result) == 3 and not Path("shown").exists()


def test_a_long_answer_that_is_disclosed_can_be_verified(run: Run, world: World) -> None:
    content = bytes(MAX_FILE_BYTES)
    long = dataclasses.replace(
        signed(world, response_hash=salted_hash(SALTS[1], content)),
        response=Opened(SALTS[1], content),
    )
    ReceiptStore(Path("receipts")).add(long)
    assert code(run("disclose", long.id, "--answer", "--out", "shown")) == 0
    assert code(run("verify", "shown")) == 6


def test_a_cose_file_is_shown_as_one_that_nobody_checked(run: Run, world: World) -> None:
    forged = signed(world, Ed25519PrivateKey.generate())
    Path("cose").write_bytes(receipt_cose.encode(forged.signed.body, bytes(64)))
    result = run("show", "cose")
    assert code(result) == 0 and "not checked: a COSE file names no key" in result.stderr
    assert not run("show", signed(world).id).stderr


def test_a_disclosed_file_is_verified_with_the_proof(
    run: Run, kept: DisclosedReceipt, proof: EnclaveProof, world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("client_sdk.config.read_policy", lambda path: world.policy)
    Path("proof").write_bytes(proof.to_bytes())
    run("disclose", kept.id, "--answer", "--out", "shown")
    run("export", kept.id, "--out", "cose")
    for name in ("shown", "cose", kept.id[:6]):
        result = run("verify", name, "--proof", "proof", "--policy", "policy")
        assert code(result) == 0, result.output
        assert "verdict: the receipt holds" in result.output
    told = json.loads(run("verify", "cose", "--proof", "proof", "--policy", "p", "--json").output)
    assert told["ok"] and told["receipt"]["amount"] == 11 and told["enclave"]["index"] == 1
    assert receipt_cose.decode(Path("cose").read_bytes())[0] == kept.signed.body


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "a proof without a policy": (["verify", "0000", "--proof", "x"], 2, "together"),
    "a policy without a proof": (["verify", "0000", "--policy", "x"], 2, "together"),
    "no such receipt": (["verify", "0000"], 2, "got 0"),
    "a name that no file can have": (["verify", "x" * 5000], 2, "expected the path of a file"),
    "a file that is no receipt": (["verify", "junk"], 3, "junk: CBOR"),
    "an output that cannot be written": (["disclose", "0000", "--out", "no/x"], 2, "no/x"),
    "nothing to disclose": (["disclose", "0000", "--out", "x"], 2, "got 0"),
    "nothing to export": (["export", "0000", "--out", "x"], 2, "got 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said(run: Run, name: str) -> None:
    words, expected, text = MISTAKES[name]
    Path("junk").write_bytes(b"junk")
    result = run(*words)
    assert code(result) == expected and text in str(result.exception)
    assert not Path("x").exists()


def test_a_receipt_without_a_cose_signature_is_not_exported(run: Run, world: World) -> None:
    plain = dataclasses.replace(signed(world, sequence=8), cose=None)
    ReceiptStore(Path("receipts")).add(plain)
    result = run("export", plain.id, "--out", "x")
    assert code(result) == 2 and "with a COSE signature" in str(result.exception)
    assert not os.path.exists("x")


# Where they come from


@pytest.fixture
def enclave() -> Iterator[FakeEnclave]:
    found = FakeEnclave()
    yield found
    found.close()


def asked(enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    one = FakeClient([enclave])
    one.policy = dataclasses.replace(one.policy, models=one.policy.models[:1])
    monkeypatch.setattr("client_sdk.commands.cli.opened_client", lambda **where: one)
    return CliRunner().invoke(client, ["chat", QUESTION, *words])


def test_a_chat_keeps_its_receipt_where_it_is_told_to(
    enclave: FakeEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = asked(enclave, monkeypatch, "--receipts", str(tmp_path / "mine"))
    assert code(result) == 0, result.exception
    store = ReceiptStore(tmp_path / "mine")
    (name,) = store.ids()
    assert f"receipt kept: {name}" in result.output
    kept = store.get(name)
    assert kept.check().tokens == (3, 0, 8, 0)
    assert kept.request is not None and QUESTION.encode() in kept.request.content


def test_a_chat_keeps_nothing_otherwise(
    enclave: FakeEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert code(asked(enclave, monkeypatch)) == 0
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_sent_where_the_receipt_cannot_be_kept(
    enclave: FakeEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = asked(enclave, monkeypatch, "--receipts", str(tmp_path / "file"))
    assert code(result) == 2 and enclave.script.opened == 0


def test_an_answer_is_disclosed_when_it_has_ended(enclave: FakeEnclave) -> None:
    with FakeClient([enclave]) as one:
        answer = one.request("POST", "/v1/chat/completions", b"{}")
        with pytest.raises(UsageError, match="read to its end"):
            answer.disclosure()
        content = answer.read()
        shown = answer.disclosure()
    assert shown.response is not None and shown.response.content == content
    assert shown.check().sequence == 1


# What the inspector says of them


def inspected(data: bytes) -> InspectionResult:
    (found,) = inspect("file", data, CheckInputs(NOW, PRODUCTION))
    return found


def test_the_inspector_knows_a_disclosed_receipt(kept: DisclosedReceipt) -> None:
    found = inspected(kept.to_bytes())
    assert found.kind == "disclosed receipt"
    values = {field.name: field.value for field in found.fields}
    assert values["tokens"] == "5, 0, 3, 0" and values["shows"] == "request and answer"
    assert [(check.name, check.status) for check in found.checks] == [
        ("signature", "passed"), ("enclave", "not checked"),
    ]  # fmt: skip
    told = json.dumps(found.to_json())
    assert all(secret not in told for secret in (QUESTION, ANSWER, SALTS[0].hex(), SALTS[1].hex()))
    part = inspected(kept.showing(request=False, response=False).to_bytes())
    assert {"neither request nor answer"} <= {field.value for field in part.fields}


def test_the_inspector_finds_a_receipt_that_does_not_hold(kept: DisclosedReceipt) -> None:
    bad = dataclasses.replace(kept, request=Opened(SALTS[0], b"x"))
    found = inspected(bad.to_bytes())
    assert next((check.status, check.code) for check in found.checks) == ("failed", "other-request")
    assert exit_code([found]) == 3


def test_the_inspector_knows_a_cose_receipt(kept: DisclosedReceipt) -> None:
    assert kept.cose is not None
    found = inspected(receipt_cose.encode(kept.signed.body, kept.cose))
    assert found.kind == "receipt as COSE_Sign1"
    assert [check.status for check in found.checks] == ["not checked"]
