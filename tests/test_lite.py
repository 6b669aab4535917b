"""The lite client: what validators signed is accepted, and every way to fool it refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from pytoniq_core import Cell, begin_cell

from attestation.errors import NotAuthentic, ParseError, UmayError, UsageError
from contracts.codec import LogState
from contracts.lite import links, tl
from contracts.lite.accounts import AccountAnswer, read_account
from contracts.lite.client import LiteClient, TrustedBlock
from contracts.lite.tl import BlockId
from tests import lite_chain as chain
from tests.lite_chain import ACCOUNT, KEYS, NOW, Link, answer, block, block_id, link, pruned

FIRST, NEXT, LAST = block(1), block(5), block(9, key=False, utime=NOW + 60)
TRUSTED = block_id(FIRST, 1)
STRANGER = SigningKey(b"\x99" * 32)


def refuses(code: str):
    return pytest.raises(NotAuthentic, check=lambda error: error.code == code)


@pytest.mark.parametrize("simplex", [False, True], ids=["ordinary", "simplex"])
def test_links_are_followed(simplex: bool) -> None:
    steps = (
        link(FIRST, NEXT, (1, 5), simplex=simplex),
        link(NEXT, LAST, (5, 9), simplex=simplex, to_key_block=False),
    )
    reached = links.follow(TRUSTED, answer(*steps))
    assert reached == links.Reached(block_id(LAST, 9), NOW + 60, block_id(NEXT, 5))


GOOD, SIMPLEX = link(FIRST, NEXT), link(FIRST, NEXT, simplex=True)


def resigned(**changes: object) -> Link:
    return chain.sign(replace(GOOD, **changes), KEYS[:4])


def other_candidate() -> Link:
    other = chain.candidate_of(block_id(LAST, 9))
    honest = replace(SIMPLEX, target=block_id(LAST, 9), candidate=other)
    return replace(chain.sign(honest, KEYS[:4]), target=SIMPLEX.target)


def heavier() -> Link:
    """The last validator, alone, made to weigh more than all others together."""
    forged = block(1, weights=(1, 1, 1, 1, 100))
    return replace(chain.sign(GOOD, KEYS[4:]), config_proof=chain.merkle_proof(forged).to_boc())


BAD_LINKS: dict[str, tuple[Callable[[], Link], str]] = {
    "a repeated signature": (
        lambda: replace(GOOD, signatures=GOOD.signatures[:2] * 2),
        "repeated-signature",
    ),
    "too little weight": (lambda: chain.sign(GOOD, KEYS[:2]), "too-little-weight"),
    "just two thirds": (lambda: chain.sign(GOOD, (*KEYS[1:4],)), "too-little-weight"),
    "an unknown validator": (lambda: chain.sign(GOOD, (*KEYS[:4], STRANGER)), "unknown-validator"),
    "a changed signature": (
        lambda: replace(
            GOOD, signatures=((GOOD.signatures[0][0], bytes(64)), *GOOD.signatures[1:])
        ),
        "bad-signature",
    ),
    "signatures of another block": (
        lambda: replace(GOOD, signatures=link(FIRST, LAST, (1, 9)).signatures),
        "bad-signature",
    ),
    "a changed weight": (heavier, "other-root"),
    "an invented trusted block": (
        lambda: replace(link(block(1, utime=NOW - 9), NEXT), source=TRUSTED),
        "other-root",
    ),
    "a trusted block that is no key block": (
        lambda: replace(
            GOOD,
            source=block_id(block(1, key=False), 1),
            config_proof=chain.merkle_proof(block(1, key=False)).to_boc(),
        ),
        "no-key-block",
    ),
    "another target's header": (
        lambda: replace(GOOD, target_proof=chain.merkle_proof(LAST).to_boc()),
        "other-root",
    ),
    "a target of another number": (
        lambda: resigned(target=replace(GOOD.target, seqno=6)),
        "other-block",
    ),
    "a target called key block": (
        lambda: link(FIRST, LAST, (1, 9), to_key_block=True),
        "other-block",
    ),
    "a target that is older": (lambda: link(NEXT, FIRST, (5, 1)), "other-block"),
    "a candidate that names another block": (other_candidate, "other-candidate"),
    "votes of another session": (
        lambda: replace(SIMPLEX, session=b"\x78" * 32),
        "bad-signature",
    ),
    "votes for another slot": (lambda: replace(SIMPLEX, slot=10), "bad-signature"),
    "ordinary signatures in a Simplex set": (
        lambda: replace(SIMPLEX, signatures=GOOD.signatures),
        "bad-signature",
    ),
    "a proof that leaves out the validators": (
        lambda: replace(GOOD, config_proof=without_validators()),
        "pruned",
    ),
}


def without_validators() -> bytes:
    body = begin_cell().store_bits(FIRST.bits)
    for number, ref in enumerate(FIRST.refs):
        body.store_ref(pruned(ref) if number == 3 else ref)
    return chain.merkle_proof(body.end_cell()).to_boc()


@pytest.mark.parametrize("name", BAD_LINKS)
def test_bad_link(name: str) -> None:
    make, code = BAD_LINKS[name]
    bad = make()
    with refuses(code):
        links.follow(bad.source, answer(bad))


def test_a_proof_from_another_start() -> None:
    with refuses("other-start"):
        links.follow(block_id(NEXT, 5), answer(GOOD))
    with refuses("other-start"):
        links.follow(replace(TRUSTED, file_hash=bytes(32)), answer(GOOD))


def test_links_that_do_not_join() -> None:
    with refuses("broken-chain"):
        links.follow(TRUSTED, answer(GOOD, GOOD))
    late = link(FIRST, LAST, (1, 9), to_key_block=False)
    with refuses("broken-chain"):
        links.follow(TRUSTED, answer(late, link(LAST, block(12), (9, 12))))


MALFORMED = {
    "nothing": b"",
    "cut short": answer(GOOD)[:-1],
    "bytes after it": answer(GOOD) + b"\0\0\0\0",
    "another type": b"\0\0\0\0" + answer(GOOD)[4:],
    "too many links": answer(GOOD)[: 8 + 160] + (65).to_bytes(4, "little"),
    "a link back": answer(GOOD).replace(
        tl.LINK_FORWARD.to_bytes(4, "little"), tl.LINK_BACK.to_bytes(4, "little"), 1
    ),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_answer(data: bytes) -> None:
    with pytest.raises(ParseError):
        links.follow(TRUSTED, data)


def test_a_candidate_with_bytes_after_it() -> None:
    with pytest.raises(ParseError):
        links.signed_payload(
            SIMPLEX.target, tl.SignatureSet((), b"\0" * 32, 1, SIMPLEX.candidate + b"\0\0\0\0")
        )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_any_changed_byte_changes_the_answer(where: int, change: int, simplex: bool) -> None:
    """Proofs are content-addressed and votes signed: what is still accepted says the same."""
    data = bytearray(answer(SIMPLEX if simplex else GOOD))
    data[where % len(data)] ^= change
    try:
        reached = links.follow(TRUSTED, bytes(data))
    except UmayError:
        return
    assert reached == links.Reached(GOOD.target, NOW, GOOD.target)


# ---- accounts

CODE = begin_cell().store_bytes(b"code").end_cell()
DATA = begin_cell().store_bytes(b"data").store_ref(CODE).end_cell()
HELD = chain.account(CODE, DATA)


def ask(given: chain.Read, address: str = ACCOUNT, now: int = NOW, age: int = 600):
    return read_account(given.head, given.answer, address, now=now, max_age_s=age)


def test_an_account_is_read() -> None:
    found = ask(chain.read(HELD))
    assert (found.state, found.utime) == ("active", NOW)
    assert (found.code, found.data) == (CODE, DATA)


def test_an_absent_account_is_proven() -> None:
    nowhere = chain.read(
        None, named=chain.account(CODE, DATA, "0:" + "11" * 32), address="0:" + "11" * 32
    )
    assert ask(nowhere).state == "absent"
    assert ask(chain.read(None)).state == "absent"


def hidden(cell: Cell) -> Cell:
    """The account with its data cell pruned: the same hash, and nothing to read."""
    body = begin_cell().store_bits(cell.bits).store_ref(cell.refs[0])
    return body.store_ref(pruned(cell.refs[1])).end_cell()


BAD_READS: dict[str, tuple[Callable[[], chain.Read], str]] = {
    "another account's state": (
        lambda: chain.read(chain.account(CODE, CODE), named=HELD),
        "other-account",
    ),
    "another address in the state": (
        lambda: chain.read(chain.account(CODE, DATA, "0:" + "22" * 32)),
        "other-account",
    ),
    "a pruned cell posing as data": (
        lambda: chain.read(hidden(HELD), named=HELD),
        "other-account",
    ),
    "an account where there is none": (
        lambda: replace(
            chain.read(None), answer=replace(chain.read(None).answer, state=HELD.to_boc())
        ),
        "other-account",
    ),
    "another head": (
        lambda: replace(chain.read(HELD), head=block_id(LAST, 9)),
        "other-root",
    ),
    "another shard's block": (
        lambda: replace(
            chain.read(HELD),
            answer=replace(chain.read(HELD).answer, proof=chain.read(None).answer.proof),
        ),
        "other-root",
    ),
}


@pytest.mark.parametrize("name", BAD_READS)
def test_bad_read(name: str) -> None:
    make, code = BAD_READS[name]
    with refuses(code):
        ask(make())


def test_a_stale_head() -> None:
    given_ = chain.read(HELD)
    assert ask(given_, now=NOW + 600).state == "active"
    with refuses("stale"):
        ask(given_, now=NOW + 601)
    with refuses("stale"):
        ask(given_, now=NOW - 61)


def test_a_workchain_that_is_not_there() -> None:
    with refuses("no-shard"):
        ask(chain.read(HELD), "7:" + "5a" * 32)


@pytest.mark.parametrize("address", ["", "0", "0:zz", "x:" + "00" * 32])
def test_a_strange_address(address: str) -> None:
    with pytest.raises(ParseError):
        ask(chain.read(HELD), address)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(("shard_proof", "proof", "state")), st.integers(0, 10**6), st.integers(1, 255)
)
def test_any_changed_byte_of_a_read(part: str, where: int, change: int) -> None:
    good = chain.read(HELD)
    data = bytearray(getattr(good.answer, part))
    data[where % len(data)] ^= change
    changed = replace(good, answer=replace(good.answer, **{part: bytes(data)}))
    try:
        found = ask(changed)
    except UmayError:
        return
    assert (found.state, found.code, found.data) == ("active", CODE, DATA)


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(UmayError):
        tl.read_block_proof(data)
    with pytest.raises(UmayError):
        read_account(TRUSTED, AccountAnswer(data, data, data), ACCOUNT, now=NOW, max_age_s=1)


# ---- what mainnet's liteservers answered

DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "evidence"
RECORDED = Path(os.environ.get("UMAY_EVIDENCE", DEFAULT)) / "ton"
recorded = pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded answers in {RECORDED}")
LINKS = {"ordinary": (46_897_112, 85), "simplex": (59_379_986, 66)}


def recorded_link(kind: str) -> bytes:
    return bytes.fromhex("".join((RECORDED / f"one-link-{kind}.hex").read_text().split()))


@pytest.mark.evidence
@recorded
@pytest.mark.parametrize("kind", LINKS)
def test_a_recorded_link(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, (seqno, signers) = recorded_link(kind), LINKS[kind]
    source, target, steps = tl.read_block_proof(data)
    started = time.perf_counter()
    assert links.follow(source, data).block == target
    with capsys.disabled():
        print(f" {kind}: {(time.perf_counter() - started) * 1e3:.0f} ms a link ", end="")
    assert (target.seqno, len(steps[0].signatures.signatures)) == (seqno, signers)


@pytest.mark.evidence
@recorded
@pytest.mark.parametrize("kind", LINKS)
def test_a_recorded_link_repeated_or_cut(kind: str) -> None:
    source, _, (step,) = tl.read_block_proof(recorded_link(kind))
    pairs = step.signatures.signatures
    for changed, code in (
        (pairs[:1] * 90, "repeated-signature"),
        (pairs[:-30], "too-little-weight"),
    ):
        with refuses(code):
            links.check_link(replace(step, signatures=replace(step.signatures, signatures=changed)))
    with refuses("other-start"):
        links.follow(replace(source, root_hash=bytes(32)), recorded_link(kind))
    invented = replace(step, source=replace(step.source, root_hash=bytes(32)))
    with refuses("other-root"):
        links.check_link(invented)


@pytest.mark.evidence
@recorded
@pytest.mark.parametrize("kind", ["basechain", "masterchain"])
def test_a_recorded_account(kind: str) -> None:
    lines = (RECORDED / f"read-{kind}.txt").read_text().split()
    said = dict(line.split("=", 1) for line in lines)
    head = BlockId(
        -1, 1 << 63, int(said["block_seqno"]), bytes.fromhex(said["block_root_hash"]), b""
    )
    parts = AccountAnswer(*(bytes.fromhex(said[key]) for key in ("shard_proof", "proof", "state")))
    address = f"{said['workchain']}:{said['account_id']}"
    found = read_account(head, parts, address, now=1_784_607_600, max_age_s=600)
    assert found.state == "active" and found.code is not None and found.data is not None
    with refuses("other-root"):
        other = replace(head, root_hash=bytes(32))
        read_account(other, parts, address, now=1_784_607_600, max_age_s=600)
    with refuses("stale"):
        read_account(head, parts, address, now=NOW, max_age_s=600)
    other_account = address[:-1] + ("0" if address[-1] != "0" else "1")
    with pytest.raises(UmayError):
        read_account(head, parts, other_account, now=1_784_607_600, max_age_s=600)


@pytest.mark.evidence
@recorded
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LINKS)), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_a_recorded_link(kind: str, where: int, change: int) -> None:
    data = bytearray(recorded_link(kind))
    source, target, _ = tl.read_block_proof(bytes(data))
    data[where % len(data)] ^= change
    try:
        assert links.follow(source, bytes(data)).block == target
    except UmayError:
        pass


# ---- the client: a transport that says what it likes


class Replayed:
    """A liteserver's answers from memory: blocks by number, and what it claims is the head."""

    def __init__(self, steps: list[Link], given: chain.Read) -> None:
        self.steps, self.given, self.asked = steps, given, list[int]()

    def masterchain_head(self) -> BlockId:
        return self.given.head

    def block_proof(self, known: BlockId, target: BlockId) -> bytes:
        self.asked.append(known.seqno)
        step = next((one for one in self.steps if one.source == known), self.steps[0])
        return answer(step)

    def account(self, block: BlockId, address: str) -> AccountAnswer:
        return self.given.answer


GENESIS = LogState.genesis(origin="a.example/log", log_key=bytes(32), size=7, root=bytes(32))


def network(tmp_path: Path) -> tuple[LiteClient, Replayed]:
    """Two key blocks, then a head with an AttestationLog in it."""
    given = chain.read(chain.account(CODE, GENESIS.to_cell()))
    top = chain.head_block(chain.account(CODE, GENESIS.to_cell()))
    steps = [link(FIRST, NEXT, (1, 5)), link(NEXT, top, (5, 20), to_key_block=False)]
    trusted = TrustedBlock(tmp_path / "trusted.json")
    trusted.pin(TRUSTED)
    transport = Replayed(steps, replace(given, head=block_id(top, 20)))
    return LiteClient(transport, trusted), transport


def test_an_anchor_is_proven_and_the_trusted_block_moves(tmp_path: Path) -> None:
    client, transport = network(tmp_path)
    anchor = client.anchor(ACCOUNT, network="test", now=NOW + 5)
    assert (anchor.level, anchor.size, anchor.read_at) == ("proven", 7, NOW)
    assert anchor.code_hash == CODE.hash
    assert client.trusted.read() == block_id(NEXT, 5)
    assert transport.asked == [1, 5]
    client.anchor(ACCOUNT, network="test", now=NOW + 5)
    assert transport.asked == [1, 5, 5]


def test_a_head_that_no_proof_reaches(tmp_path: Path) -> None:
    client, transport = network(tmp_path)
    transport.given = replace(transport.given, head=block_id(LAST, 9))
    with pytest.raises(UmayError):
        client.head()
    assert client.trusted.read().seqno in (1, 5)


def test_a_head_that_is_the_trusted_block(tmp_path: Path) -> None:
    client, transport = network(tmp_path)
    transport.given = replace(transport.given, head=TRUSTED)
    assert client.head() == TRUSTED
    assert transport.asked == []


def test_the_trusted_block_never_moves_back(tmp_path: Path) -> None:
    trusted = TrustedBlock(tmp_path / "trusted.json")
    trusted.pin(block_id(NEXT, 5))
    trusted.move(TRUSTED)
    assert trusted.read() == block_id(NEXT, 5)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seqno": -1}', '{"seqno": true}'])
def test_a_damaged_trusted_block(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trusted.json"
    with pytest.raises(UsageError, match="pin"):
        TrustedBlock(path).read()
    path.write_text(content)
    with pytest.raises(ParseError):
        TrustedBlock(path).read()


def test_an_account_that_is_no_log(tmp_path: Path) -> None:
    client, transport = network(tmp_path)
    transport.given = replace(transport.given, answer=chain.read(None).answer)
    with pytest.raises(UmayError):
        client.anchor(ACCOUNT, network="test", now=NOW)
